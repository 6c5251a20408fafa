"""The null hypothesis of no relation: the pairing of rows is broken, and everything else is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.errors import NotComparable


def shuffles(sample: Tensor, *, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Shuffles of the samples that keep the rows of a sample together and in order.

    The rows of all samples are laid out sample by sample in a random order of samples, and paired with the rows in
    their own order. If all samples have equally many rows, this exchanges whole samples. If not, neighbouring rows
    still stay neighbours, so the null is as wide as the similarity of rows within a sample makes it.

    Args:
        sample: ``(n,)`` int64 sample of each row.
        count: number of shuffles B.
        generator: source of randomness.

    Returns:
        ``(B, n)`` int64: in shuffle b, row i is paired with row ``[b, i]`` of the other run.

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
