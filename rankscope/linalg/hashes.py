"""Hashes of rows, by which rows that are equal number for number are found."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.linalg.rows import blocks
from rankscope.linalg.streamed import RowMatrix

CHUNK = 1 << 16
"""The numbers that are looked at together: what is made of them stays in caches, which takes a seventh of the time of 2²² numbers."""
_SPREAD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2⁶⁴ over the golden ratio, as int64: Knuth's multiplicative hash
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def row_hashes(x: RowMatrix) -> Tensor:
    """``(n,)`` int64 hashes of the rows of ``(n, d)`` features of one dtype."""
    words = _words(x[:1]).shape[1]
    generator = torch.Generator().manual_seed(words)
    weights = torch.randint(-(1 << 62), 1 << 62, (words,), generator=generator, dtype=torch.int64) | 1
    step = max(1, CHUNK // max(1, words))
    # Into one tensor: thousands of small results between larger ones would scatter over the memory
    hashes, start = torch.empty(len(x), dtype=torch.int64), 0
    for part in (part for block in blocks(x) for part in block.split(step)):
        hashes[start : start + len(part)] = _hashed(part, weights)
        start += len(part)
    return hashes


def _words(x: Tensor) -> Tensor:
    """``(n, w)`` int64 the bits of rows, as many features in a word as fit if they fill all words."""
    positive = (x.cpu() + 0.0).contiguous()  # -0.0 + 0.0 is 0.0
    filled = x.shape[1] * x.dtype.itemsize % 8 == 0
    return positive.view(torch.int64 if filled else _BITS[x.dtype.itemsize]).to(torch.int64)


def _hashed(x: Tensor, weights: Tensor) -> Tensor:
    """``(n,)`` Σⱼ mix(wordⱼ + wⱼ) wⱼ modulo 2⁶⁴, which int64 arithmetic wraps to by itself.

    The sum is linear, so each term is mixed first (multiplied and shifted), and each word has an odd weight of its
    own: otherwise rows with the same numbers in another order, or with changes that cancel, would share a hash.
    """
    return (mixed(_words(x) + weights) * weights).sum(1)


def mixed(x: Tensor) -> Tensor:
    """int64 numbers of which every bit depends on many of those of ``x``."""
    spread = x * _SPREAD
    return spread ^ (spread >> 29)
