"""Rows that are drawn from a known distribution, and the values that are found of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

N, D = 2048, 128


def population(n: int = N, d: int = D, *, seed: int = 0, alpha: float = 1.0) -> Tensor:
    """``(n, d)`` rows of a normal distribution whose variances fall as ``k**-alpha``."""
    root = torch.arange(1, d + 1) ** (-alpha / 2)
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * root


def values(result: Any) -> dict[str, float]:
    """The value of each measure of a result."""
    return {r.measure: r.value for r in result.records}
