r"""A measure as a function of the number of rows, and its limit for infinitely many rows if its law in n is known.

A rank of n rows is biased by n. Computed on the whole, on two halves and on four quarters of the samples, it traces a
curve in 1/n. For three measures the shape of the curve near 1/n = 0 is known, and its intercept is the limit. For
others, or with too few rows, extrapolation would invent a number and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.errors import NotComparable, UnknownName, UsageError


class Curve(NamedTuple):
    """A measure as a function of the number of rows."""

    rows: Tensor
    """``(m,)`` mean number of rows of the parts at each level, descending."""
    values: tuple[Tensor, ...]
    """For each level, the values of its disjoint parts, ``(parts,)``."""


class Law(NamedTuple):
    """How a measure approaches its limit."""

    forward: Callable[[Tensor], Tensor]
    """The transformation to the scale on which it is a polynomial in 1/n."""
    backward: Callable[[Tensor], Tensor]
    """The inverse transformation."""
    degree: int
    """Degree of the polynomial in 1/n."""
    least: float
    """The smallest number of rows that the smallest part may have, in multiples of the number of features."""
    words: str
    """The law in words."""


LAWS = MappingProxyType(
    {
        "participation-ratio-naive": Law(torch.reciprocal, torch.reciprocal, 1, 0.0, "1/PR is linear in 1/n"),
        "entropy-rank": Law(torch.log, torch.exp, 2, 0.25, "the entropy of eigenvalues is quadratic in 1/n"),
        "roy-vetterli": Law(torch.log, torch.exp, 1, 2.0, "the entropy of singular values is linear in 1/n"),
    }
)
"""The measures that can be extrapolated: the naive participation ratio, and the effective ranks on eigenvalues and on
singular values."""


def subsampling_curve(
    statistic: Callable[[Tensor], Tensor],
    sample: Tensor,
    *,
    parts: Sequence[int] = (1, 2, 4),
    generator: torch.Generator | None = None,
) -> Curve:
    """A measure on all samples and on disjoint parts of them.

    Args:
        statistic: from ``(m,)`` int64 indices of rows to a number.
        sample: ``(n,)`` int64 sample of each row; the rows of one sample stay together.
        parts: the number of parts at each level.
        generator: source of randomness for the division.

    Returns:
        The curve, the largest number of rows first.

    Raises:
        NotComparable: if there are fewer than four samples for each part of the finest division.
    """
    present, place = torch.unique(sample.cpu(), return_inverse=True)
    if len(present) < 4 * max(parts):
        raise NotComparable(
            f"a curve with {max(parts)} parts needs {4 * max(parts)} samples; there are {len(present)}: collect more"
        )
    order = torch.randperm(len(present), generator=generator)[place]
    levels, values = sorted(parts), []
    for count in levels:
        cells = [(order % count == i).nonzero().flatten().to(sample.device) for i in range(count)]
        values.append(torch.stack([statistic(cell).double() for cell in cells]))
    return Curve(torch.tensor([len(sample) / count for count in levels], dtype=torch.float64), tuple(values))


def extrapolate(curve: Curve, measure: str, *, width: int) -> Tensor:
    """Limit of a measure for infinitely many rows, if its law in n is known and the rows suffice.

    Args:
        curve: the measure as a function of the number of rows.
        measure: one of :data:`LAWS`.
        width: number of features d.

    Returns:
        ``()`` the limit, in the unit of the measure.

    Raises:
        UnknownName: if no law is known for the measure.
        NotComparable: if the smallest part has too few rows for the law.
        UsageError: if the curve has fewer levels than the law has coefficients.
    """
    if measure not in LAWS:
        raise UnknownName(f"no law in n is known for {measure!r}; there is one for {', '.join(LAWS)}")
    law = LAWS[measure]
    fewest = float(curve.rows.min())
    if fewest < law.least * width:
        raise NotComparable(
            f"{measure} of {width} features can be extrapolated if the smallest part has {law.least:g} rows per feature, "
            f"{law.least * width:.0f}; it has {fewest:.0f}: collect more samples, and plot the curve meanwhile"
        )
    if len(curve.rows) <= law.degree:
        raise UsageError(
            f"{law.words}: that needs at least {law.degree + 1} levels, and the curve has {len(curve.rows)}"
        )
    heights = torch.stack([law.forward(v).mean() for v in curve.values])
    # Least squares of the heights on powers of n_max/n, whose constant term is the value at 1/n = 0
    powers = (float(curve.rows.max()) / curve.rows)[:, None] ** torch.arange(law.degree + 1, dtype=torch.float64)
    return law.backward(torch.linalg.lstsq(powers, heights[:, None].to(powers)).solution[0, 0])
