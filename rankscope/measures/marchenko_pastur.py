r"""The law of Marchenko and Pastur: the spectrum of independent noise, its median and its edge.

With β = min(n, d)/max(n, d) and N = max(n, d), the squared singular values of an n × d matrix of independent noise of
variance one, divided by N, fill the interval from (1 - √β)² to (1 + √β)² with density
:math:`\sqrt{(x_+ - x)(x - x_-)} / (2 \pi \beta x)`. Integrals are taken over the angle θ of
:math:`x = 1 + \beta + 2 \sqrt\beta \cos\theta`, in which the integrand is smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from rankscope.definition import Definition, rank_of
from rankscope.errors import UsageError
from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import singular_values_of

_NODES = 1 << 16
"""Points of the quadrature over θ, which make a quantile accurate to about 1e-8."""


def aspect(rows: int, columns: int) -> float:
    """β = min(n, d)/max(n, d).

    Raises:
        UsageError: if there is no row or no column.
    """
    if min(rows, columns) < 1:
        raise UsageError(f"the law of noise needs at least one row and one column; got {rows} × {columns}")
    return min(rows, columns) / max(rows, columns)


@lru_cache(maxsize=64)
def law(beta: float) -> tuple[Tensor, Tensor]:
    """Midpoints x of the law with ratio β, descending, and the probability of each: two ``(_NODES,)`` tensors."""
    theta = (torch.arange(_NODES, dtype=torch.float64) + 0.5) * (math.pi / _NODES)
    x = 1 + beta + 2 * math.sqrt(beta) * theta.cos()
    # dx = -2√β sin θ dθ and √((x₊ - x)(x - x₋)) = 2√β sin θ turn the density into 2 sin²θ / (π x) dθ
    mass = 2 * theta.sin().square() / (math.pi * x) / _NODES * math.pi
    return x, mass / mass.sum()


def median(beta: float) -> float:
    """Median of the squared singular value x under the law with ratio β."""
    x, mass = law(beta)
    total = mass.cumsum(0)
    i = int(torch.searchsorted(total, torch.tensor(0.5, dtype=torch.float64)))
    # The mass is spread evenly over the step between midpoints: interpolate within it
    part = float((0.5 - (total[i] - mass[i])) / mass[i])
    step = float(x[i] - x[min(i + 1, _NODES - 1)])
    return float(x[i]) + (0.5 - part) * step


def noise_variance(s: Tensor, rows: int, columns: int) -> Tensor:
    """Variance of the noise that would have the spectrum's median squared singular value: ``(*,)`` float64.

    Args:
        s: ``(*, r)`` singular values, all r of them.
        rows: n.
        columns: d.
    """
    middle = s.double().square().quantile(0.5, dim=-1)
    return middle / max(rows, columns) / median(aspect(rows, columns))


def values_above_edge(s: Tensor, rows: int, columns: int) -> Tensor:
    r"""Number of singular values above the upper edge of noise with the same median.

    :math:`\#\{\sigma_i^2 > \hat s^2 N (1 + \sqrt\beta)^2\}` with ŝ² from the median. It assumes independent noise of
    equal variance, which does not hold for features with a power-law spectrum: it is a reference, not "the rank". It
    lies between 0 and r/2, and does not change when the features are scaled or rotated.

    Marchenko & Pastur 1967; the median rule follows Gavish & Donoho 2014 (arXiv 1305.5870).

    Args:
        s: ``(*, r)`` singular values, all r of them.
        rows: n.
        columns: d.

    Returns:
        ``(*,)`` counts, whole numbers as float64.

    Raises:
        UsageError: if there is no row or no column.
    """
    upper = (1 + math.sqrt(aspect(rows, columns))) ** 2 * max(rows, columns)
    limit = noise_variance(s, rows, columns) * upper
    return (s.double().square() > limit[..., None]).sum(-1).double()


def mp_reference(moments: Moments, *, width: int | None = None) -> Tensor:
    """:func:`values_above_edge` of the centred features: ``(*,)`` float64. Centring costs one row of n."""
    return of_each(moments, values_above_edge, width)


def of_each(moments: Moments, function: Callable[[Tensor, int, int], Tensor], width: int | None = None) -> Tensor:
    """A function of (singular values, n - 1, d), evaluated at each entry of the moments because n may differ.

    Args:
        moments: sums over rows with leading dimensions ``*``.
        function: from ``(r,)`` singular values of the centred rows, the degrees of freedom n - 1 and d to a scalar.
        width: d, if the sums are over fewer coordinates in which all rows lie; further singular values are then zero.

    Returns:
        ``(*,)`` values.
    """
    d = moments.width if width is None else width
    found = singular_values_of(moments).values
    values = found.reshape(-1, found.shape[-1])
    degrees = [int(n) - 1 for n in moments.rows.reshape(-1).tolist()]
    results = [function(v[: min(n, d)], n, d) for v, n in zip(values, degrees, strict=True)]
    return torch.stack(results).reshape(moments.rows.shape) if results else moments.rows.clone()


DEFINITION = Definition(
    name="mp-reference",
    function=mp_reference,
    reads="moments",
    takes=("width",),
    formula="#{sigma^2 > s^2 N (1 + sqrt beta)^2}, s^2 from the median sigma^2",
    citation="Marchenko & Pastur 1967; Gavish & Donoho 2014 (arXiv 1305.5870) for s^2",
    high="r / 2",
    most=rank_of,
    bias="assumes independent noise of equal variance; a reference, not a rank",
)
