r"""The law of Marchenko and Pastur: the spectrum that independent noise has, its edge, and what a spike above it becomes.

With β = min(n, d)/max(n, d) and N = max(n, d), the squared singular values of n × d independent noise of variance one,
divided by N, fill the interval from (1 - √β)² to (1 + √β)² with density
:math:`\sqrt{(x_+ - x)(x - x_-)} / (2 \pi \beta x)`. Integrals are taken over the angle θ of
:math:`x = 1 + \beta + 2 \sqrt\beta \cos\theta`, in which the integrand is smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import UsageError
from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import singular_values_of

_NODES = 1 << 16
"""Points of the quadrature over θ; a quantile is then exact to about 1e-8."""


def aspect(rows: int, columns: int) -> float:
    """β = min(n, d)/max(n, d).

    Raises:
        UsageError: if there is no row or no column.
    """
    if min(rows, columns) < 1:
        raise UsageError(f"noise needs at least one row and one column; got {rows} × {columns}")
    return min(rows, columns) / max(rows, columns)


@lru_cache(maxsize=64)
def law(beta: float) -> tuple[Tensor, Tensor]:
    """Midpoints x, descending, and the probability of each: two ``(_NODES,)`` tensors."""
    theta = (torch.arange(_NODES, dtype=torch.float64) + 0.5) * (math.pi / _NODES)
    x = 1 + beta + 2 * math.sqrt(beta) * theta.cos()
    mass = 2 * theta.sin().square() / (math.pi * x) / _NODES * math.pi
    return x, mass / mass.sum()


def median(beta: float) -> float:
    """The median of the squared singular value under the law with ratio β."""
    x, mass = law(beta)
    total = mass.cumsum(0)
    i = int(torch.searchsorted(total, torch.tensor(0.5, dtype=torch.float64)))
    part = float((0.5 - (total[i] - mass[i])) / mass[i])
    step = float(x[i] - x[min(i + 1, _NODES - 1)])
    return float(x[i]) + (0.5 - part) * step


def noise_variance(s: Tensor, rows: int, columns: int) -> Tensor:
    """The variance of noise whose median squared singular value is that of the spectrum: ``(*,)``.

    Args:
        s: ``(*, r)`` singular values, all r of them.
        rows: n.
        columns: d.
    """
    middle = s.double().square().quantile(0.5, dim=-1)
    return middle / max(rows, columns) / median(aspect(rows, columns))


def values_above_edge(s: Tensor, rows: int, columns: int) -> Tensor:
    r"""How many singular values lie above the upper edge of noise of the same median.

    :math:`\#\{\sigma_i^2 > \hat s^2 N (1 + \sqrt\beta)^2\}` with ŝ² from the median. It assumes independent noise of one
    variance, which features with a power-law spectrum have not: a reference, not "the rank". It lies between 0 and r/2.

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
    """:func:`values_above_edge` of the centred features: ``(*,)``. Centring takes one row from n."""
    return of_each(moments, values_above_edge, width)


def of_each(moments: Moments, function: Callable[[Tensor, int, int], Tensor], width: int | None = None) -> Tensor:
    """A function of (singular values, n - 1, d) at each entry of the moments, as n may differ: ``(*,)``.

    ``width`` is d where the sums are of fewer coordinates that hold all rows; other values are then zero.
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
    bias="assumes independent noise of one variance; a reference, not a rank",
)
