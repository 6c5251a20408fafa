"""Distances to the nearest different rows, the input of the estimators of intrinsic dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.errors import DataError, NonFinite
from rankscope.measures.duplicates import duplicate_rows

_BLOCK = 1 << 22
"""Entries of the distance matrix held at a time."""
_SPARE = 4
"""Extra candidates from the first search, whose inner products round; exact distances then select among them."""


def nearest(x: Tensor, k: int, *, sample: Tensor | None = None) -> Tensor:
    """Distances from each different row to its k nearest neighbours.

    A row that occurs twice has a neighbour at distance zero, which sends the estimators to zero or infinity, so only
    the first of equal rows is kept. Tokens of one sample are close merely because they share it: with ``sample``, and
    if any sample has several rows, the neighbours of a row are other samples, each represented by its nearest row.

    Args:
        x: ``(n, d)`` features.
        k: number of neighbours.
        sample: ``(n,)`` sample of each row, or None to treat every row as its own sample.

    Returns:
        ``(m, k)`` float64 distances of the m different rows, ascending, none zero.

    Raises:
        DataError: if a row has fewer than k others to choose from.
        NonFinite: if a feature is NaN or infinite.
    """
    if not torch.isfinite(x).all():
        raise NonFinite("features must be finite; some are NaN or infinite")
    kept = ~duplicate_rows(x)
    z = x.double()[kept]
    owner = None if sample is None else torch.unique(sample.to(x.device)[kept], return_inverse=True)[1]
    m = len(z)
    choices = m if owner is None or not m else int(owner.max()) + 1
    if choices - 1 < k:
        what = "rows" if choices == m else "samples"
        raise DataError(
            f"{k} neighbours are asked for, but {m} of {len(x)} rows differ, and a row has {max(choices - 1, 0)} other {what}: "
            "collect more samples"
        )
    owner = owner if choices < m else None
    z = z - z.mean(0)  # distances do not change, and the inner products in the first search round less
    blocks = [_block(z, rows, k, owner) for rows in torch.arange(m, device=z.device).split(max(1, _BLOCK // m))]
    return torch.cat(blocks)


def _block(z: Tensor, rows: Tensor, k: int, owner: Tensor | None) -> Tensor:
    """``(b, k)`` distances from the rows of ``z`` at ``rows`` to their nearest, excluding their own samples."""
    squares = z.square().sum(1)
    # ‖x - y‖² = ‖x‖² + ‖y‖² - 2 x·y loses digits for near rows: it only selects candidates
    near = squares[rows, None] + squares - 2 * z[rows] @ z.mT
    place = torch.arange(len(z), device=z.device)
    own = rows[:, None] == place if owner is None else owner[rows, None] == owner
    near = near.masked_fill(own, torch.inf)
    if owner is not None:
        near, place = _nearest_of_each(near, owner)
    value, index = near.topk(min(k + _SPARE, near.shape[1]), largest=False)
    index = index if owner is None else place.gather(1, index)
    exact = torch.stack([torch.linalg.vector_norm(z[i] - z[j], dim=1) for i, j in zip(rows, index, strict=True)])
    return exact.masked_fill(value.isinf(), torch.inf).sort(1).values[:, :k]


def _nearest_of_each(near: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest entry among each sample's columns, and its column: two ``(b, samples)`` tensors."""
    columns = owner.expand_as(near)
    samples = int(owner.max()) + 1
    least = near.new_full((len(near), samples), torch.inf).scatter_reduce_(1, columns, near, "amin")
    places = torch.arange(near.shape[1], device=near.device).expand_as(near)
    # Of equally near rows of a sample the first is taken
    hits = torch.where(near == least.gather(1, columns), places, near.shape[1] - 1)
    first = hits.new_full(least.shape, near.shape[1] - 1).scatter_reduce_(1, columns, hits, "amin")
    return least, first
