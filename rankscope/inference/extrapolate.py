r"""How far n is from enough: a measure against the number of rows, and its limit where there is a law for it.

A rank of n rows is biased by n. Computed on the whole, on two halves and on four quarters of the samples it draws a
curve in 1/n. For three measures the curve has a known shape near 1/n = 0, and its intercept is the limit; for others,
or with too few rows, extrapolating would make up a number and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.errors import NotComparable, UnknownName, UsageError


class Curve(NamedTuple):
    """A measure against the number of rows."""

    rows: Tensor
    """``(m,)`` mean number of rows of the parts at each level, descending."""
    values: tuple[Tensor, ...]
    """For each level the values of its disjoint parts, ``(parts,)``."""


class Law(NamedTuple):
    """How a measure goes to its limit."""

    forward: Callable[[Tensor], Tensor]
    """To the scale on which it is a polynomial in 1/n."""
    backward: Callable[[Tensor], Tensor]
    """Back from that scale."""
    degree: int
    """Degree of the polynomial in 1/n."""
    least: float
    """The least number of rows of the smallest part, in multiples of the number of features."""
    words: str
    """The law in words."""


LAWS = MappingProxyType(
    {
        "participation-ratio-naive": Law(torch.reciprocal, torch.reciprocal, 1, 0.0, "1/PR is linear in 1/n"),
        "entropy-rank": Law(torch.log, torch.exp, 2, 0.25, "the entropy of eigenvalues is quadratic in 1/n"),
        "roy-vetterli": Law(torch.log, torch.exp, 1, 2.0, "the entropy of singular values is linear in 1/n"),
    }
)
"""The measures that can be extrapolated: the naive participation ratio, and the effective ranks on eigenvalues (Hill-1)
and on singular values (Roy & Vetterli)."""


def subsampling_curve(
    statistic: Callable[[Tensor], Tensor],
    sample: Tensor,
    *,
    parts: Sequence[int] = (1, 2, 4),
    generator: torch.Generator | None = None,
) -> Curve:
    """A measure on the whole and on disjoint parts of the samples.

    Args:
        statistic: from ``(m,)`` int64 indices of rows to a number.
        sample: ``(n,)`` int64 sample of each row; the rows of one sample stay together.
        parts: into how many parts to divide at each level.
        generator: source of randomness for the division.

    Returns:
        The curve, the largest number of rows first.

    Raises:
        NotComparable: if there are fewer samples than the finest division needs (four a part).
    """
    present, place = torch.unique(sample.cpu(), return_inverse=True)
    if len(present) < 4 * max(parts):
        raise NotComparable(
            f"a curve with {max(parts)} parts needs {4 * max(parts)} samples; there are {len(present)}: collect more"
        )
    order = torch.randperm(len(present), generator=generator)[place]
    values = []
    for count in sorted(parts):
        cells = [(order % count == i).nonzero().flatten().to(sample.device) for i in range(count)]
        values.append(torch.stack([statistic(cell).double() for cell in cells]))
    return Curve(torch.tensor([len(sample) / count for count in sorted(parts)], dtype=torch.float64), tuple(values))


def extrapolate(curve: Curve, measure: str, *, width: int) -> Tensor:
    """The limit of a measure at infinitely many rows, where a law is known and the rows suffice for it.

    Args:
        curve: the measure against the number of rows.
        measure: one of :data:`LAWS`.
        width: number of features d.

    Returns:
        ``()`` the limit.

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
            f"{measure} of {width} features can be extrapolated when the smallest part has {law.least:g} rows a feature, "
            f"{law.least * width:.0f}; it has {fewest:.0f}: collect more samples and show the curve meanwhile"
        )
    if len(curve.rows) <= law.degree:
        raise UsageError(
            f"{law.words}: that takes at least {law.degree + 1} levels, and the curve has {len(curve.rows)}"
        )
    heights = torch.stack([law.forward(v).mean() for v in curve.values])
    powers = (float(curve.rows.max()) / curve.rows)[:, None] ** torch.arange(law.degree + 1, dtype=torch.float64)
    return law.backward(torch.linalg.lstsq(powers, heights[:, None].to(powers)).solution[0, 0])
