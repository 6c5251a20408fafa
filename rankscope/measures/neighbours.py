"""Distances to the nearest different rows, which the estimators of intrinsic dimension read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.errors import DataError, NonFinite

_BLOCK = 1 << 22
"""Numbers of the distance matrix that are held at a time."""
_SPARE = 4
"""Further candidates, of which exact distances choose: the first search is by inner products and rounds."""


class Neighbours(NamedTuple):
    """What lies nearest to each different row."""

    distances: Tensor
    """``(m, k)`` float64 distances, ascending, none zero."""
    duplicates: int
    """How many rows were the same as an earlier one and were left out."""


def nearest(x: Tensor, k: int, *, sample: Tensor | None = None) -> Neighbours:
    """Distances from each row to its k nearest, duplicates removed and, if told, none of its own sample.

    A row that stands twice has a neighbour at distance zero, which sends the estimators to zero or infinity; so of equal
    rows only the first is kept. Tokens of one sample are neighbours because they share a sample: with ``sample``, where any
    sample has several rows, only rows of other samples count.

    Args:
        x: ``(n, d)`` features.
        k: how many neighbours.
        sample: ``(n,)`` sample of each row.

    Raises:
        DataError: if a row has fewer than k others to choose from.
        NonFinite: if a feature is NaN or infinite.
    """
    if not torch.isfinite(x).all():
        raise NonFinite("features must be finite; some are NaN or infinite")
    kept = first_of_equals(x)
    z = x.double()[kept]
    owner = None if sample is None else sample.to(x.device)[kept]
    if owner is not None and len(torch.unique(owner)) == len(owner):
        owner = None
    m = len(z)
    others = m - 1 if owner is None else m - int(torch.unique(owner, return_counts=True)[1].max())
    if others < k:
        raise DataError(
            f"{k} neighbours are asked for; of {len(x)} rows {m} differ, and a row has {others} to choose from"
        )
    z = z - z.mean(0)
    blocks = [_block(z, rows, k, owner) for rows in torch.arange(m, device=z.device).split(max(1, _BLOCK // m))]
    return Neighbours(torch.cat(blocks), len(x) - m)


def first_of_equals(x: Tensor) -> Tensor:
    """The places of the rows that no earlier row equals, ascending: ``(m,)`` int64."""
    _, place = torch.unique(x.double(), dim=0, return_inverse=True)
    order = torch.arange(len(x), device=x.device)
    first = torch.full((int(place.max()) + 1 if len(x) else 0,), len(x), device=x.device)
    return first.scatter_reduce_(0, place, order, "amin").sort().values


def _block(z: Tensor, rows: Tensor, k: int, owner: Tensor | None) -> Tensor:
    squares = z.square().sum(1)
    near = squares[rows, None] + squares - 2 * z[rows] @ z.mT
    own = rows[:, None] == torch.arange(len(z), device=z.device) if owner is None else owner[rows, None] == owner
    near = near.masked_fill(own, torch.inf)
    value, index = near.topk(min(k + _SPARE, len(z)), largest=False)
    exact = torch.stack([torch.linalg.vector_norm(z[i] - z[j], dim=1) for i, j in zip(rows, index, strict=True)])
    return exact.masked_fill(value.isinf(), torch.inf).sort(1).values[:, :k]
