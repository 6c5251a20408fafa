"""Hashes of rows, by which rows that are equal number for number are found."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.linalg.streamed import RowMatrix

CHUNK = 1 << 16
"""The numbers that are looked at together: what is made of them stays in caches, which takes a seventh of the time of 2²² numbers."""
_SPREAD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2⁶⁴ over the golden ratio, as int64: Knuth's multiplicative hash
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def row_hashes(x: RowMatrix) -> Tensor:
    """``(n,)`` int64 hashes of the rows of ``(n, d)`` features."""
    generator = torch.Generator().manual_seed(x.shape[1])
    weights = torch.randint(-(1 << 62), 1 << 62, (x.shape[1],), generator=generator, dtype=torch.int64) | 1
    step = max(1, CHUNK // max(1, x.shape[1]))
    return torch.cat([_hashed(x[i : i + step], weights) for i in range(0, len(x), step)])


def _hashed(x: Tensor, weights: Tensor) -> Tensor:
    """``(n,)`` Σⱼ mix(bits of xᵢⱼ + wⱼ) wⱼ modulo 2⁶⁴, which int64 arithmetic wraps to by itself.

    The sum is linear, so each term is mixed first (multiplied and shifted), and each feature has an odd weight of its
    own: otherwise rows with the same numbers in another order, or with changes that cancel, would share a hash.
    """
    bits = (x.cpu() + 0.0).contiguous().view(_BITS[x.dtype.itemsize]).to(torch.int64)  # -0.0 + 0.0 is 0.0
    return (mixed(bits + weights) * weights).sum(1)


def mixed(x: Tensor) -> Tensor:
    """int64 numbers of which every bit depends on many of those of ``x``."""
    spread = x * _SPREAD
    return spread ^ (spread >> 29)
