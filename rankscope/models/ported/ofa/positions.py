"""Relative positions in buckets, and what positions add to attention scores.

Positions are untied from words (TUPE): each layer adds to its scores a product of projected positions, the same for all
layers, and a learned bias for the relative position's bucket, the layer's own. Distant words share logarithmic buckets;
patches have one bucket for each offset in the grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rankscope.models.ported.ofa.configuration import OFAConfig

TABLE_POSITIONS = 1024
"""Positions that the table of word offsets covers."""


def token_buckets(bucket: int, positions: int = TABLE_POSITIONS) -> Tensor:
    """``(positions, positions)`` numbers of buckets: exact within half a bucket size, logarithmic beyond."""
    place = torch.arange(positions)
    offset = place[:, None] - place[None, :]
    middle = bucket // 2
    # far = m + ⌈(m − 1) · ln(distance / m) / ln((positions − 1) / m)⌉: from m at distance m to 2m − 1 at the last position.
    distance = offset.abs().clamp(min=middle - 1) if middle > 1 else offset.abs()
    far = torch.log(distance / middle) / math.log((positions - 1) / middle) * (middle - 1)
    far = far.ceil().int() + middle
    return torch.where(distance <= middle, offset, far * offset.sign()).long() + bucket - 1


def image_bucket_count(side: int) -> int:
    """Buckets of a grid of ``side`` × ``side`` patches: every offset, and three for a position outside of it."""
    return (2 * side - 1) ** 2 + 3


def image_buckets(side: int) -> Tensor:
    """``(side² + 1, side² + 1)`` numbers of buckets; entry 0 is the position outside the grid."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    row, column = row.flatten(), column.flatten()
    down = row[:, None] - row[None, :] + side - 1
    right = column[:, None] - column[None, :] + side - 1
    count = image_bucket_count(side)
    # An offset (down, right), each from 0 to 2·side − 2, is numbered row by row.
    buckets = torch.empty(side**2 + 1, side**2 + 1, dtype=torch.long)
    buckets[1:, 1:] = down * (2 * side - 1) + right
    buckets[0, :], buckets[:, 0], buckets[0, 0] = count - 3, count - 2, count - 1
    return buckets


def grid_places(height: int, width: int, side: int, *, device: torch.device | None = None) -> Tensor:
    """``(height · width,)`` positions of patches in a grid of ``side`` columns, from 1."""
    rows = torch.arange(height, device=device)[:, None] * side
    return (rows + torch.arange(width, device=device)[None, :] + 1).flatten()


def code_places(config: OFAConfig) -> Tensor:
    """``(1025,)`` at the published size: the grid positions of image codes; kept since checkpoints hold it."""
    window = config.code_image_size // 8
    start = torch.zeros(1, dtype=torch.long)
    rest = torch.full((768,), 1024)
    return torch.cat([start, grid_places(window, window, config.image_bucket_size), rest])


class Tables(nn.ModuleList):
    """A bias for every bucket and head, one table a layer."""

    def __init__(self, layers: int, buckets: int, heads: int) -> None:
        super().__init__(nn.Embedding(buckets, heads) for _ in range(layers))

    def bias(self, layer: int, buckets: Tensor) -> Tensor:
        """``(*, heads, q, k)`` from ``(*, q, k)`` numbers of buckets."""
        return self[layer](buckets).movedim(-1, -3)


def products(query: Tensor, key: Tensor, *, heads: int, scale: float) -> Tensor:
    """``(b, heads, q, k)`` scaled products of projected positions ``(b, q, d)`` and ``(b, k, d)``."""
    first = query.unflatten(-1, (heads, -1)).transpose(1, 2) * scale
    second = key.unflatten(-1, (heads, -1)).transpose(1, 2)
    return first @ second.transpose(-1, -2)


def scaling(config: OFAConfig, heads: int) -> float:
    """What scores are multiplied by, (attn_scale_factor · head width)^(−1/2).

    A score is the sum of two products, of words and of positions: hence the factor, 2 as published.
    """
    return (config.d_model / heads * config.attn_scale_factor) ** -0.5
