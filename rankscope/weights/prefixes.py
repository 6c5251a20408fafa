r"""Learned prefixes: what the rows of a prefix span.

A prefix of 16 rows need not hold 16 directions: without noise to tell them apart rows that start alike stay alike. The
effective number of its rows is read off its own spectrum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition
from rankscope.errors import UsageError


class PrefixSpectrum(NamedTuple):
    """The spectrum of the rows of a prefix."""

    values: Tensor
    """``(*, r)`` singular values, descending, float64, r = min(rows, width); about the origin."""
    effective: Tensor
    """``(*,)`` effective number of rows: 1 when all are multiples of one, r when all are orthogonal and equally long."""


def prefix_spectrum(prefix: Tensor) -> PrefixSpectrum:
    r"""Singular values of the rows of a prefix and their effective number, :math:`\exp(-\sum_i p_i\ln p_i)`.

    With :math:`p_i = \sigma_i/\sum_j\sigma_j`; not centred, since a prefix of equal rows is one direction and not none.
    Between 1 and r; 0 for a prefix of zeros; does not change under rotation and scaling of the rows together.

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
    total = values.sum(-1, keepdim=True)
    p = values / total.where(total > 0, 1)
    entropy = torch.special.entr(p).sum(-1)
    return PrefixSpectrum(values, entropy.exp().where(total[..., 0] > 0, 0))


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
