"""Scores with their intervals, samples and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rankscope.errors import NotComparable, UnknownName, UsageError
from rankscope.scores.tally import LEVEL, Floats, Interval, Tally, bootstrap, percentile_interval

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000
"""How often the images are drawn again for an interval, unless told otherwise."""


@dataclass(frozen=True)
class Scores:
    """What a set of predictions scores, and how that was found."""

    values: Mapping[str, float | None]
    """Each score over all images; None where it has no value, which :attr:`reasons` then explains."""
    intervals: Mapping[str, Interval | None]
    """A 95 % percentile interval over images drawn again; None for a single image, or on request."""
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

    def __getitem__(self, name: str) -> float | None:
        """The score of a name.

        Raises:
            UnknownName: it was not computed.
        """
        if name not in self.values:
            raise UnknownName(f"there is no score {name!r} here; there are {', '.join(self.values)}")
        return self.values[name]

    def to_frame(self) -> pd.DataFrame:
        """One row a score: value, low, high, images, unit, tokenizer, rule and the reason of a missing value."""
        import pandas as pd

        rows = []
        for name, value in self.values.items():
            low, high = self.intervals.get(name) or (None, None)
            row = {"score": name, "value": value, "low": low, "high": high, "images": self.images, "unit": self.unit}
            rows.append(row | {"tokenizer": self.tokenizer, "rule": self.rule, "reason": self.reasons.get(name)})
        frame = pd.DataFrame(rows).set_index("score")
        return frame.astype(dict.fromkeys(("value", "low", "high"), float))

    def samples_frame(self) -> pd.DataFrame:
        """One row a sample, one column a score.

        Raises:
            UsageError: the samples were not kept.
        """
        import pandas as pd

        if self.samples is None:
            raise UsageError("the scores of single samples were not kept; score again with per_sample=True")
        return pd.DataFrame(dict(self.samples), index=pd.Index(self.ids, name="id"))

    def to_json(self) -> dict[str, object]:
        """Everything but the summands as plain data: no NaN, samples as ``{score: {id: value}}``."""
        names = ("images", "unit", "tokenizer", "rule")
        out: dict[str, object] = {name: getattr(self, name) for name in names}
        out["scores"] = dict(self.values)
        out["intervals"] = {name: list(ends) if ends else None for name, ends in self.intervals.items()}
        out["level"] = LEVEL
        out["reasons"] = dict(self.reasons)
        if self.samples is not None:
            out["samples"] = {
                name: {
                    key: value if np.isfinite(value) else None
                    for key, value in zip(self.ids, each.tolist(), strict=True)
                }
                for name, each in self.samples.items()
            }
        return out

    def minus(self, other: Scores, *, resamples: int = RESAMPLES) -> Scores:
        """What this run scores more than another on the same samples, with paired intervals.

        Both runs are drawn the same images, so that what is hard in an image cancels.

        Args:
            other: the reference run.
            resamples: number of draws; 0 for no intervals.

        Returns:
            Differences of the scores that both have, in the same unit.

        Raises:
            NotComparable: other samples, another tokenizer or another rule.
        """
        if self.ids != other.ids:
            raise NotComparable(
                f"the two runs scored other samples, or the same in another order: {len(self.ids)} and "
                f"{len(other.ids)}, {len(set(self.ids) & set(other.ids))} in common; score both on the same data"
            )
        for name in ("tokenizer", "rule"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise NotComparable(f"the two runs were scored with another {name}: {mine} and {its}; use one for both")
        names = [name for name in self.tallies if name in other.tallies]
        pairs = [(self.tallies[name], other.tallies[name]) for name in names]
        intervals: dict[str, Interval | None] = dict.fromkeys(names)
        if pairs and resamples and self.images > 1:
            ours, theirs = (bootstrap(side, resamples) for side in zip(*pairs, strict=True))
            gaps = [percentile_interval(a - b) for a, b in zip(ours, theirs, strict=True)]
            intervals = dict(zip(names, gaps, strict=True))
        return Scores(
            values={a.name: a.value - b.value for a, b in pairs},
            intervals=intervals,
            images=self.images,
            ids=self.ids,
            unit=self.unit,
            samples={a.name: a.each - b.each for a, b in pairs},
            tokenizer=self.tokenizer,
            rule=self.rule,
        )


def intervals_of(tallies: Sequence[Tally], resamples: int) -> dict[str, Interval | None]:
    """The interval of each score, all over the same images drawn again.

    Args:
        tallies: scores over the same n images.
        resamples: number of draws; 0 for none.

    Returns:
        By name; None for a single image or no draws.
    """
    if not tallies or not resamples or len(tallies[0].parts) < 2:
        return {tally.name: None for tally in tallies}
    drawn = bootstrap(tallies, resamples)
    return {tally.name: percentile_interval(values) for tally, values in zip(tallies, drawn, strict=True)}
