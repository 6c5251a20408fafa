"""What a score is made of: statistics that add over images, and the function of their sums that is reported.

A mean is a function of a sum and a count; BLEU and METEOR are functions of summed match counts, and are not means of
the scores of single images. Keeping the summands lets one bootstrap over images serve every score, and serve the
difference of two runs on the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
"""The coverage that every interval here aims at."""
SEED = 0
"""Where the bootstrap starts, so that a score repeats bit for bit and two runs are resampled alike."""
_CHUNK = 2**22  # images drawn at once: 32 MiB of indices


class Interval(NamedTuple):
    """A percentile interval of level :data:`LEVEL`, over images drawn again."""

    low: float
    """The lower end, in the unit of the score."""
    high: float
    """The upper end."""


@dataclass(frozen=True)
class Tally:
    """One score, kept as its summands."""

    name: str
    """The name in tables: ``BLEU-4``."""
    each: Floats
    """``(m,)`` what the official code prints for each sample alone; NaN where the score has no value there."""
    parts: Floats
    """``(n, k)`` for each of the n images the statistics that add over images."""
    pooled: Callable[[Floats], Floats]
    """``(*, k)`` summed statistics → ``(*,)`` scores."""

    @property
    def value(self) -> float:
        """The score over all images."""
        return float(self.pooled(self.parts.sum(0)))


def ratio(sums: Floats) -> Floats:
    """A mean: ``(*, 2)`` summed values and counts → ``(*,)``; NaN where the count is zero."""
    total, count = sums[..., 0], sums[..., 1]
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count != 0)


def mean_of(name: str, each: Floats) -> Tally:
    """The tally of a score that is the mean of ``(n,)`` scores of single images."""
    return Tally(name, each, np.stack([each, np.ones_like(each)], -1), ratio)


def resampled(parts: Floats, resamples: int, seed: int = SEED) -> Floats:
    """Sums of statistics over images drawn with replacement.

    Args:
        parts: ``(n, k)`` statistics.
        resamples: number of draws b.
        seed: equal seeds and equal n give the same images, which is what pairs two runs.

    Returns:
        ``(b, k)`` sums over n images each.
    """
    rng, n = np.random.default_rng(seed), len(parts)
    step = max(1, _CHUNK // n)
    sums = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        sums.append(np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n) @ parts)
    return np.concatenate(sums)


def percentile_interval(values: Floats) -> Interval | None:
    """The central :data:`LEVEL` of ``(b,)`` bootstrap values; None if fewer than two are finite."""
    kept = values[np.isfinite(values)]
    if len(kept) < 2:
        return None
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def bootstrap(tallies: Sequence[Tally], resamples: int) -> list[Floats]:
    """Every score on the same images drawn again.

    Args:
        tallies: scores over the same n images in the same order.
        resamples: number of draws b.

    Returns:
        For each tally ``(b,)`` values.
    """
    widths = np.cumsum([tally.parts.shape[1] for tally in tallies])[:-1]
    sums = resampled(np.concatenate([tally.parts for tally in tallies], 1), resamples)
    return [tally.pooled(block) for tally, block in zip(tallies, np.split(sums, widths, axis=1), strict=True)]
