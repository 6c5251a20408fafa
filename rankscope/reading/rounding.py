"""How far apart two readings of the same features are, and how far rounding alone can put them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TF32 = 2.0**-10
"""The relative spacing of TF32, in which GPUs multiply float32 where torch allows it."""


def apart(a: Tensor, b: Tensor) -> float:
    """The distance of two tensors relative to the larger: ``‖a − b‖ / max(‖a‖, ‖b‖)``.

    It is 0 for two that are zero, and infinite if their shapes differ. Where one is not finite it is 0, because the writer
    names those numbers better.
    """
    if a.shape != b.shape:
        return math.inf
    x, y = a.double(), b.to(a.device, torch.float64)
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        return 0.0
    size = max(float(x.norm()), float(y.norm()))
    return float((x - y).norm()) / size if size else 0.0


def rounding(x: Tensor) -> float:
    """The largest relative distance that rounding explains: ``√ε``, half of the digits that the arithmetic has.

    Another shape of a batch is another order of summation, and a deep network amplifies what the orders differ by; but what
    reaches the leading half of the digits was not lost to rounding.
    """
    epsilon = torch.finfo(x.dtype).eps
    if x.dtype == torch.float32 and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32):
        epsilon = TF32 if x.is_cuda else epsilon
    return math.sqrt(epsilon)
