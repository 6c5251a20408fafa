"""Learned prefixes: the effective number of rows of a prefix.

A prefix of 16 rows need not span 16 directions: rows that start alike stay alike, because nothing distinguishes them.
The effective number of rows follows from the prefix's own spectrum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition
from rankscope.errors import UsageError
from rankscope.measures.effective_rank import effective_rank


class PrefixSpectrum(NamedTuple):
    """The spectrum of the rows of a prefix."""

    values: Tensor
    """``(*, r)`` singular values about the origin, descending, float64, r = min(rows, width)."""
    effective: Tensor
    """``(*,)`` effective number of rows: 1 if all are multiples of one row, r if all are orthogonal and of equal length."""


def prefix_spectrum(prefix: Tensor) -> PrefixSpectrum:
    r"""Singular values of the rows of a prefix and their effective number, :math:`\exp(-\sum_i p_i\ln p_i)`.

    Here :math:`p_i = \sigma_i/\sum_j\sigma_j`, not centred, since a prefix of equal rows has one direction, not zero.
    The number lies between 1 and r, is 0 for a prefix of zeros, and does not change when all rows are rotated or scaled
    together.

    Roy & Vetterli, "The effective rank", EUSIPCO 2007, definition 1, on the rows of a prefix.

    Args:
        prefix: ``(*, rows, width)`` prefix vectors, for instance keys or values with leading dimensions of layers
            and heads; any floating dtype.

    Returns:
        The spectrum and the effective number of rows.

    Raises:
        UsageError: if there are no rows.
    """
    if prefix.ndim < 2 or not prefix.shape[-2]:
        raise UsageError(f"a prefix is (rows, width) with at least one row; got shape {tuple(prefix.shape)}")
    values = torch.linalg.svdvals(prefix.double())
    return PrefixSpectrum(values, effective_rank(values))


DEFINITION = WeightDefinition(
    name="prefix-effective",
    formula="exp(-sum p ln p), p = sigma / sum sigma of the rows of a prefix, uncentred",
    citation="Roy & Vetterli, EUSIPCO 2007, definition 1, on the rows of a prefix",
    low="1",
    high="rows of the prefix",
    bias="none: the rows are known in full",
    noise="nearly the number of rows",
    unit="rows",
)
