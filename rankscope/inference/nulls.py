"""The null hypothesis of no relation: the pairing of rows is broken, and everything else is kept.

Samples are exchanged only with samples of equally many rows. Laid end to end in another order, samples of unequal
length would straddle each other's ends: what rows of a sample share would meet nothing alike in the other run, while in
the runs as they are it meets its like whether they are related or not. Such a null is too low, and finds relations that
are not there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.errors import NotComparable


class Exchanged(NamedTuple):
    """Rows of which each is paired with a row of another sample."""

    keep: Tensor
    """``(n,)`` bool: the rows of samples that share their number of rows with another sample."""
    order: Tensor
    """``(m,)`` int64: kept row i is paired with row ``[i]`` of all rows of the other run."""


def is_ragged(sample: Tensor) -> bool:
    """Whether some samples have more rows than others, from the ``(n,)`` sample of each row."""
    return len(torch.unique(torch.unique(sample, return_counts=True)[1])) > 1


def shuffles(sample: Tensor, *, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Shuffles of the samples among those with equally many rows, the rows of a sample together and in order.

    Each is drawn evenly from all such orders, as a permutation test requires, so that a sample may stay in its place. A
    sample that shares its number of rows with no other always does.

    Args:
        sample: ``(n,)`` int64 sample of each row.
        count: number of shuffles B.
        generator: source of randomness.

    Returns:
        ``(B, n)`` int64: in shuffle b, row i is paired with row ``[b, i]`` of the other run.

    Raises:
        NotComparable: with fewer than two samples.
    """
    place, counts = _counted(sample)
    found = torch.empty(count, len(place), dtype=torch.int64)
    for row in found:
        key = torch.randperm(len(counts), generator=generator)
        partner = torch.arange(len(counts))
        for members in _of_equal_length(counts):
            partner[members] = members[torch.argsort(key[members])]
        row[:] = _paired(place, counts, partner)
    return found


def exchanged(sample: Tensor, *, generator: torch.Generator | None = None) -> Exchanged:
    """Every sample paired with another one of equally many rows; a sample with no such other is left out.

    For the value of what is unrelated, where a sample that stayed in its place would count as related to itself.

    Args:
        sample: ``(n,)`` int64 sample of each row.
        generator: source of randomness.

    Returns:
        The rows that are kept, and the row with which each is paired.

    Raises:
        NotComparable: with fewer than two samples, or if no two have equally many rows.
    """
    place, counts = _counted(sample)
    if len(torch.unique(counts)) == len(counts):
        raise NotComparable(
            f"only samples with equally many rows can be exchanged, and no two of the {len(counts)} have: "
            "collect more samples, or one row a sample"
        )
    key = torch.randperm(len(counts), generator=generator)
    partner = torch.arange(len(counts))
    for members in _of_equal_length(counts):
        around = members[torch.argsort(key[members])]
        partner[around] = around.roll(1)  # each takes the place of its neighbour on a random circle, never its own
    keep = (partner != torch.arange(len(counts)))[place]
    return Exchanged(keep, _paired(place, counts, partner)[keep])


def _counted(sample: Tensor) -> tuple[Tensor, Tensor]:
    """``(n,)`` place of each row's sample and ``(S,)`` rows of each, refusing a single sample."""
    present, place, counts = torch.unique(sample.cpu(), return_inverse=True, return_counts=True)
    if len(present) < 2:
        raise NotComparable(
            f"shuffling between samples needs at least 2; there are {len(present)}: collect more samples"
        )
    return place, counts


def _of_equal_length(counts: Tensor) -> list[Tensor]:
    """The samples of each number of rows, ascending."""
    return [(counts == length).nonzero().flatten() for length in torch.unique(counts)]


def _paired(place: Tensor, counts: Tensor, partner: Tensor) -> Tensor:
    """``(n,)`` the row that each row is paired with, when each sample is paired with its partner in order."""
    own = torch.argsort(place, stable=True)  # the rows sample by sample
    start = counts.cumsum(0) - counts
    within = torch.arange(len(place)) - start[place[own]]
    paired = torch.empty_like(own)
    paired[own] = own[start[partner[place[own]]] + within]
    return paired
