"""What no relation gives: the pairing of the rows broken, and everything else kept."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.errors import NotComparable


def shuffles(sample: Tensor, *, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Shuffles of the samples, the rows of one sample staying together and in order.

    The rows of all samples are laid out sample after sample in a random order of samples, beside the rows in their own
    order. With equally many rows a sample this exchanges whole samples; with unequal numbers neighbours still stay
    neighbours, so that the null is as wide as rows that are alike within a sample make it.

    Args:
        sample: ``(n,)`` int64 sample of each row.
        count: number of shuffles B.
        generator: source of randomness.

    Returns:
        ``(B, n)`` int64: row i is to be paired with row ``[b, i]`` of the other run.

    Raises:
        NotComparable: with fewer than two samples.
    """
    present, place = torch.unique(sample.cpu(), return_inverse=True)
    if len(present) < 2:
        raise NotComparable(
            f"shuffling between samples needs at least 2; there are {len(present)}: collect more samples"
        )
    own = torch.argsort(place, stable=True)
    found = torch.empty(count, len(place), dtype=torch.int64)
    for row in found:
        key = torch.randperm(len(present), generator=generator)
        row[own] = torch.argsort(key[place], stable=True)
    return found
