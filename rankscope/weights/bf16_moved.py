"""The share of weights that a change moves in bfloat16, in which most models are served: the rest of it would be rounded away."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition
from rankscope.errors import UsageError

_DROPPED = 52 - 7
"""Bits by which the fraction of float64 is longer than that of bfloat16."""


def bf16_moved(w0: Tensor, w1: Tensor) -> Tensor:
    """Share of the entries that differ once both matrices are rounded to bfloat16.

    It lies between 0 and 1, and does not change when both matrices are scaled by one power of two. It is exact: each entry is
    rounded once, from float64 to the nearest bfloat16.

    Args:
        w0: ``(*, m, n)`` pre-trained weights, any floating dtype.
        w1: ``(*, m, n)`` tuned weights, LoRA merged.

    Returns:
        ``(*,)`` shares, float64.

    Raises:
        UsageError: if the shapes differ.
    """
    if w0.shape != w1.shape:
        raise UsageError(f"a change needs weights of one shape; got {tuple(w0.shape)} and {tuple(w1.shape)}")
    return (nearest_bf16(w0) != nearest_bf16(w1)).double().mean((-2, -1))


def nearest_bf16(w: Tensor) -> Tensor:
    """The nearest bfloat16 of each number, ties to even, as float64.

    torch goes through float32, and a number that float32 rounds to the middle between two of bfloat16 is then rounded twice.
    """
    bits = w.double().contiguous().view(torch.int64)
    # Half a step less one, and one more where the last bit that stays is odd: what is above the middle, or on it and odd, carries
    bits = bits + (1 << (_DROPPED - 1)) - 1 + (bits >> _DROPPED & 1)
    normal = (bits >> _DROPPED << _DROPPED).view(torch.float64)
    # Below the smallest normal number the steps are all alike, 2⁻¹³³
    least = torch.finfo(torch.bfloat16).smallest_normal
    return torch.where(w.abs() < least, torch.round(w.double() * 2.0**133) / 2.0**133, normal)


DEFINITION = WeightDefinition(
    name="bf16-moved",
    formula="share of entries with bf16(W1) != bf16(W0), each rounded once to the nearest",
    citation="a count of entries; no source",
    high="1",
    bias="none, as the weights are fully known; without an interval, as nothing is sampled",
    noise="reported with it: that of full-rank noise of the same norm as the change",
    unit="share of weights",
)
