"""What no relation gives, what noise gives, and what a run gives against itself.

A value is read between these: the *permutation null* breaks the pairing of the rows and keeps everything else, the
*noise level* is what isotropic Gaussian features of the same shape score, and the *split-half ceiling* is what a run
that did not change at all can reach at this number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.errors import NotComparable, UsageError

Statistic = Callable[[Tensor, Tensor], Tensor]
"""Two matrices ``(n, d_a)`` and ``(n, d_b)`` to a number ``(*,)``."""


class Null(NamedTuple):
    """A value beside what it is without any relation."""

    value: Tensor
    """``(*,)`` the value of the rows as they are paired."""
    mean: Tensor
    """``(*,)`` its mean over shuffles."""
    sd: Tensor
    """``(*,)`` its standard deviation over shuffles."""
    p: Tensor
    """``(*,)`` share of shuffles that reach the value, (1 + #{≥}) / (B + 1)."""
    draws: Tensor
    """``(B, *)`` the values of the shuffles."""


def shuffles(
    sample: Tensor, *, count: int, strata: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Shuffles of the samples, the rows of one sample staying together and in order.

    The rows of all samples are laid out sample after sample in a random order of samples, beside the rows in their own
    order. With equally many rows a sample this exchanges whole samples; with unequal numbers neighbours still stay
    neighbours, so that the null is as wide as rows that are alike within a sample make it.

    Args:
        sample: ``(n,)`` int64 sample of each row.
        count: number of shuffles B.
        strata: ``(n,)`` int64 stratum of each row; samples move only within their stratum.
        generator: source of randomness.

    Returns:
        ``(B, n)`` int64: row i is to be paired with row ``[b, i]`` of the other run.

    Raises:
        NotComparable: with fewer than two samples.
        UsageError: if a sample lies in two strata.
    """
    present, place = torch.unique(sample.cpu(), return_inverse=True)
    if len(present) < 2:
        raise NotComparable(
            f"shuffling between samples needs at least 2; there are {len(present)}: collect more samples"
        )
    stratum = torch.zeros_like(place) if strata is None else strata.cpu()
    if len(torch.unique(torch.stack([place, stratum]), dim=1).mT) != len(present):
        raise UsageError("a sample lies in two strata; the rows of a sample must stay together")
    own = _order(place, stratum)
    found = torch.empty(count, len(place), dtype=torch.int64)
    for row in found:
        key = torch.randperm(len(present), generator=generator)
        row[own] = _order(key[place], stratum)
    return found


def _order(key: Tensor, stratum: Tensor) -> Tensor:
    by_key = torch.argsort(key, stable=True)
    return by_key[torch.argsort(stratum[by_key], stable=True)]


def permutation_null(
    statistic: Statistic,
    x: Tensor,
    y: Tensor,
    sample: Tensor,
    *,
    draws: int = 200,
    strata: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Null:
    """The value of an alignment measure against its distribution over shuffled samples.

    It tests that the two runs are *independent*; that they are equal is another question, for which ranks have the
    jackknife.

    Args:
        statistic: the measure, of the two matrices.
        x: ``(n, d_a)`` features of the reference.
        y: ``(n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row.
        draws: number of shuffles.
        strata: ``(n,)`` int64 stratum of each row, if the design has any.
        generator: source of randomness.

    Returns:
        The value with mean, standard deviation and p of the shuffles.

    Raises:
        NotComparable: if the rows differ in number, or there are fewer than two samples.
    """
    if not len(x) == len(y) == len(sample):
        raise NotComparable(f"shuffling needs the same rows; there are {len(x)}, {len(y)} and {len(sample)} identities")
    value = statistic(x, y)
    orders = shuffles(sample, count=draws, strata=strata, generator=generator)
    found = torch.stack([statistic(x, y[order.to(y.device)]) for order in orders])
    p = (1 + (found >= value).sum(0)) / (draws + 1)
    return Null(value, found.mean(0), found.std(0), p, found)


def noise_level(
    statistic: Statistic,
    rows: int,
    widths: tuple[int, int],
    *,
    draws: int = 8,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """What independent isotropic Gaussian features of the same shape score.

    Args:
        statistic: the measure, of two matrices.
        rows: number of rows n.
        widths: features of the reference and of the tuned run.
        draws: number of pairs of matrices.
        generator: source of randomness.

    Returns:
        ``(*,)`` mean and ``(*,)`` standard deviation over the draws.
    """
    found = torch.stack(
        [
            statistic(*(torch.randn(rows, d, generator=generator, dtype=torch.float64) for d in widths))
            for _ in range(draws)
        ]
    )
    return found.mean(0), found.std(0)


def halves(sample: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """A random half of the samples.

    Args:
        sample: ``(n,)`` int64 sample of each row.
        generator: source of randomness.

    Returns:
        ``(n,)`` bool: whether the row's sample is in the first half.

    Raises:
        NotComparable: with fewer than two samples.
    """
    present, place = torch.unique(sample.cpu(), return_inverse=True)
    if len(present) < 2:
        raise NotComparable(f"two halves need at least 2 samples; there are {len(present)}: collect more samples")
    return (torch.randperm(len(present), generator=generator) < len(present) // 2)[place].to(sample.device)


def split_half_ceiling(
    statistic: Statistic, x: Tensor, sample: Tensor, *, draws: int = 4, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """What a run scores against itself on other samples: the best that an unchanged run could do.

    Args:
        statistic: a measure of two matrices whose rows need not align (overlap, variance captured, spectra).
        x: ``(n, d)`` features.
        sample: ``(n,)`` int64 sample of each row.
        draws: number of random halvings.
        generator: source of randomness.

    Returns:
        ``(*,)`` mean and ``(*,)`` standard deviation over the halvings.

    Raises:
        NotComparable: with fewer than two samples.
    """
    masks = [halves(sample, generator=generator).to(x.device) for _ in range(draws)]
    found = torch.stack([statistic(x[mask], x[~mask]) for mask in masks])
    return found.mean(0), found.std(0)
