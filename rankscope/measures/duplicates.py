"""Rows that occur more than once: padding read by mistake, repeated texts, the same token without context."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.linalg.batch import each_matrix


def duplicate_rows(x: Tensor) -> Tensor:
    """Which rows equal an earlier row in every number.

    Args:
        x: ``(n, d)`` features.

    Returns:
        ``(n,)`` bool.
    """
    if not x.numel():
        return torch.arange(len(x), device=x.device) > 0
    _, place = torch.unique(x.double(), dim=0, return_inverse=True)
    order = torch.arange(len(x), device=x.device)
    first = torch.full((int(place.max()) + 1,), len(x), device=x.device).scatter_reduce_(0, place, order, "amin")
    return order != first[place]


@each_matrix
def duplicate_share(x: Tensor, sample: Tensor | None = None) -> Tensor:
    """Share of rows that equal an earlier row.

    It lies between 0 and 1 - 1/n. Any duplicates send estimates of intrinsic dimension to zero or infinity, and half a
    per cent of them suggests padding: with 30 % of rows zero, an effective rank of 113 falls to 61. Without rows it is
    0.

    Args:
        x: ``(*, n, d)`` features.
        sample: not used.

    Returns:
        ``(*,)`` shares, float64.
    """
    return duplicate_rows(x).double().mean() if len(x) else x.new_zeros((), dtype=torch.float64)


DEFINITION = Definition(
    name="duplicate-rows",
    centred=None,
    function=duplicate_share,
    reads="rows",
    formula="#{i: x_i = x_j for some j < i} / n",
    citation="a check, not a measure: it detects padding and repeated inputs",
    high="1 - 1 / n",
    most=1.0,
    bias="none",
    unit="share of rows",
)
