"""Rows that stand more than once: padding that was read, repeated texts, one token without context."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.linalg.batch import each_matrix


def duplicate_rows(x: Tensor) -> Tensor:
    """Which rows are the same, number for number, as an earlier one: ``(n,)`` bool.

    Args:
        x: ``(n, d)`` features.
    """
    if not x.numel():
        return torch.arange(len(x), device=x.device) > 0
    _, place = torch.unique(x.double(), dim=0, return_inverse=True)
    order = torch.arange(len(x), device=x.device)
    first = torch.full((int(place.max()) + 1,), len(x), device=x.device).scatter_reduce_(0, place, order, "amin")
    return order != first[place]


@each_matrix
def duplicate_share(x: Tensor, sample: Tensor | None = None) -> Tensor:
    """The share of rows that are the same as an earlier one: a float64 scalar from 0 to 1, 0 without rows.

    Any duplicates send estimates of intrinsic dimension to zero or infinity, and half a per cent of them points to padding:
    30 % of zero rows take an effective rank of 113 to 61.

    Args:
        x: ``(*, n, d)`` features.
        sample: the sample of each row; it makes no difference.
    """
    return duplicate_rows(x).double().mean() if len(x) else x.new_zeros((), dtype=torch.float64)


DEFINITION = Definition(
    name="duplicate-rows",
    function=duplicate_share,
    reads="rows",
    formula="#{i: x_i = x_j for some j < i} / n",
    citation="a check, not a measure: what padding and repeated inputs leave behind",
    high="1 - 1 / n",
    bias="none",
    unit="share of rows",
)
