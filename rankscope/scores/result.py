"""Scores, kept as what they are made of: statistics that add over images, and the function of their sums that is reported.

A mean is a function of a sum and a count; BLEU and METEOR are functions of summed match counts, and are not means of
the scores of single images. Keeping the summands lets one bootstrap over images serve every score, and serve the
difference of two runs on the same images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.errors import NotComparable, UnknownName, UsageError

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

LEVEL = 0.95
"""The nominal coverage of every interval here."""
SEED = 0
"""The seed of the bootstrap. It is fixed so that a score repeats bit for bit and two runs are resampled alike."""
RESAMPLES = 1000
"""The default number of bootstrap draws of the images for an interval."""
_CHUNK = 2**22  # images drawn at once: 32 MiB of indices


class Percentiles(NamedTuple):
    """A percentile interval of level :data:`LEVEL` from a bootstrap over images."""

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
    """``(m,)`` what the official code prints for each sample alone; NaN where the score is undefined there."""
    counts: Floats
    """``(n, k)`` for each of the n images, the statistics that add over images."""
    pooled: Callable[[Floats], Floats]
    """``(*, k)`` summed statistics → ``(*,)`` scores."""

    @property
    def value(self) -> float:
        """The score over all images; NaN where it is undefined."""
        return float(self.pooled(self.counts.sum(0)))


def ratio(sums: Floats) -> Floats:
    """A mean: ``(*, 2)`` summed values and counts → ``(*,)``; NaN where the count is zero."""
    total, count = sums[..., 0], sums[..., 1]
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count != 0)


def mean_of(name: str, each: Floats) -> Tally:
    """The tally of a score that is the mean of ``(n,)`` scores of single images."""
    return Tally(name, each, np.stack([each, np.ones_like(each)], -1), ratio)


def resampled(counts: Floats, resamples: int, seed: int = SEED) -> Floats:
    """Sums of statistics over images drawn with replacement.

    Args:
        counts: ``(n, k)`` statistics.
        resamples: number of draws b.
        seed: equal seeds and equal n give the same images, which is what pairs two runs.

    Returns:
        ``(b, k)`` sums over n images each.
    """
    rng, n = np.random.default_rng(seed), len(counts)
    step = max(1, _CHUNK // n)
    sums = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        # Only how often each image was drawn matters. Adding n·row to the indices of a row lets one bincount count for
        # every row at once, and the matrix of multiplicities (b, n) times the statistics (n, k) gives the sums.
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        sums.append(np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n) @ counts)
    return np.concatenate(sums)


def percentile_interval(values: Floats) -> Percentiles | None:
    """The central :data:`LEVEL` of ``(b,)`` bootstrap values; None if fewer than two are finite."""
    kept = values[np.isfinite(values)]
    if len(kept) < 2:
        return None
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Percentiles(float(low), float(high))


def bootstrap(tallies: Sequence[Tally], resamples: int) -> list[Floats]:
    """Every score on the same resampled images.

    Args:
        tallies: scores over the same n images in the same order.
        resamples: number of draws b.

    Returns:
        For each tally ``(b,)`` values.
    """
    widths = np.cumsum([tally.counts.shape[1] for tally in tallies])[:-1]
    sums = resampled(np.concatenate([tally.counts for tally in tallies], 1), resamples)
    return [tally.pooled(block) for tally, block in zip(tallies, np.split(sums, widths, axis=1), strict=True)]


@dataclass(frozen=True)
class Scores:
    """The scores of a set of predictions, and how they were computed."""

    values: Mapping[str, float | None]
    """Each score over all images; None where it is undefined, which :attr:`reasons` then explains."""
    intervals: Mapping[str, Percentiles | None]
    """A 95 % percentile interval from a bootstrap over images; None for a single image, or where none was asked for."""
    images: int
    """The number of images that were resampled; of samples where labels were chosen."""
    ids: tuple[str, ...]
    """The samples in order: images for captions, questions for answers."""
    unit: str
    """What a score is measured in: ``"1"`` for captions (CIDEr and its kin go to 10), ``"%"`` for answers and labels."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a score is None."""
    samples: Mapping[str, Floats] | None = None
    """``(m,)`` the scores of single samples in the order of :attr:`ids`, if they were asked for."""
    tokenizer: str | None = None
    """``builtin`` or ``ptb`` for captions."""
    rule: str | None = None
    """The normalisation rule of answers: ``official``, ``lavis`` or ``always``."""
    tallies: Mapping[str, Tally] = field(default_factory=dict, repr=False)
    """The summands, from which a difference of two runs is drawn."""

    @classmethod
    def of(
        cls, tallies: Sequence[Tally], ids: tuple[str, ...], unit: str, *, resamples: int, per_sample: bool
    ) -> Scores:
        """The scores of some tallies over the same images, each with its interval.

        Args:
            tallies: the scores.
            ids: the samples in order.
            unit: what the scores are measured in.
            resamples: number of bootstrap draws; 0 for no intervals.
            per_sample: keep the scores of single samples.
        """
        images = len(tallies[0].counts) if tallies else len(ids)
        intervals: dict[str, Percentiles | None] = {tally.name: None for tally in tallies}
        if tallies and resamples and images > 1:
            draws = bootstrap(tallies, resamples)
            intervals = {t.name: percentile_interval(values) for t, values in zip(tallies, draws, strict=True)}
        return cls(
            values={tally.name: _finite(tally.value) for tally in tallies},
            intervals=intervals,
            images=images,
            ids=ids,
            unit=unit,
            samples={tally.name: tally.each for tally in tallies} if per_sample else None,
            tallies={tally.name: tally for tally in tallies},
        )

    def __getitem__(self, name: str) -> float | None:
        """The score of a name.

        Raises:
            UnknownName: if it was not computed.
        """
        if name not in self.values:
            raise UnknownName(f"there is no score {name!r} here; there are {', '.join(self.values)}")
        return self.values[name]

    def to_frame(self) -> pd.DataFrame:
        """One row for each score: value, low, high, images, unit, tokenizer, rule and the reason for a missing value."""
        import pandas as pd

        rows = []
        for name, value in self.values.items():
            low, high = self.intervals.get(name) or (None, None)
            row = {"score": name, "value": value, "low": low, "high": high, "images": self.images, "unit": self.unit}
            rows.append(row | {"tokenizer": self.tokenizer, "rule": self.rule, "reason": self.reasons.get(name)})
        frame = pd.DataFrame(rows).set_index("score")
        return frame.astype(dict.fromkeys(("value", "low", "high"), float))

    def samples_frame(self) -> pd.DataFrame:
        """One row for each sample, one column for each score.

        Raises:
            UsageError: if the scores of single samples were not kept.
        """
        import pandas as pd

        if self.samples is None:
            raise UsageError("the scores of single samples were not kept; score again with per_sample=True")
        return pd.DataFrame(dict(self.samples), index=pd.Index(self.ids, name="id"))

    def to_json(self) -> dict[str, object]:
        """Everything but the summands as plain data, with null for what is undefined; samples as ``{score: {id: value}}``."""
        names = ("images", "unit", "tokenizer", "rule")
        out: dict[str, object] = {name: getattr(self, name) for name in names}
        out["scores"] = dict(self.values)
        out["intervals"] = {name: list(ends) if ends else None for name, ends in self.intervals.items()}
        out["level"] = LEVEL
        out["reasons"] = dict(self.reasons)
        if self.samples is not None:
            out["samples"] = {
                name: {key: _finite(value) for key, value in zip(self.ids, each.tolist(), strict=True)}
                for name, each in self.samples.items()
            }
        return out

    def minus(self, other: Scores, *, resamples: int = RESAMPLES) -> Scores:
        """By how much this run scores higher than another on the same samples, with paired intervals.

        Both runs are resampled to the same images, so that how hard an image is cancels.

        Args:
            other: the reference run.
            resamples: number of draws; 0 for no intervals.

        Returns:
            Differences of the scores that both have, in the same unit.

        Raises:
            NotComparable: if the samples, the tokenizer or the rule differ.
        """
        if self.ids != other.ids:
            raise NotComparable(
                f"the two runs scored different samples, or the same in another order: {len(self.ids)} and "
                f"{len(other.ids)}, {len(set(self.ids) & set(other.ids))} in common; score both on the same data"
            )
        for name in ("tokenizer", "rule"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise NotComparable(
                    f"the two runs were scored with different {name}s, {mine} and {its}; use one for both"
                )
        names = [name for name in self.tallies if name in other.tallies]
        pairs = [(self.tallies[name], other.tallies[name]) for name in names]
        intervals: dict[str, Percentiles | None] = dict.fromkeys(names)
        if pairs and resamples and self.images > 1:
            ours, theirs = (bootstrap(side, resamples) for side in zip(*pairs, strict=True))
            gaps = [percentile_interval(a - b) for a, b in zip(ours, theirs, strict=True)]
            intervals = dict(zip(names, gaps, strict=True))
        return Scores(
            values={a.name: _finite(a.value - b.value) for a, b in pairs},
            intervals=intervals,
            images=self.images,
            ids=self.ids,
            unit=self.unit,
            samples={a.name: a.each - b.each for a, b in pairs},
            tokenizer=self.tokenizer,
            rule=self.rule,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
