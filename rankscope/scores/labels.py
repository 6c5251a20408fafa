"""Scoring the labels that a classifier chooses: accuracy, with an interval over samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rankscope.errors import DataError
from rankscope.scores.ids import by_text, check_ids
from rankscope.scores.result import RESAMPLES, Scores, intervals_of
from rankscope.scores.tally import mean_of


def score_labels(
    predictions: Mapping[object, str],
    labels: Mapping[object, int],
    *,
    per_sample: bool = False,
    resamples: int = RESAMPLES,
) -> Scores:
    """The share of samples with the right label, in per cent.

    Args:
        predictions: for each id the number of the label that was chosen, as text.
        labels: the right one.
        per_sample: keep what single samples score.
        resamples: draws of the bootstrap over samples; 0 for no interval.

    Returns:
        Scores named ``accuracy``, in [0, 100].

    Raises:
        DataError: missing or extra ids, or a prediction that is no number.
    """
    said, right = by_text(predictions, "predictions"), by_text(labels, "labels")
    check_ids(said, right, "labels")
    strange = [name for name, text in said.items() if not str(text).strip().isdecimal()]
    if strange:
        raise DataError(
            f"{len(strange)} of {len(said)} predictions are no number of a label (the first is {said[strange[0]]!r} of "
            f"{strange[0]!r}), and the data tell labels by number; generate writes numbers for data that have labels"
        )
    each = np.array([100.0 * (int(said[name]) == label) for name, label in right.items()])
    tally = mean_of("accuracy", each)
    return Scores(
        values={tally.name: tally.value},
        intervals=intervals_of([tally], resamples),
        images=len(right),
        ids=tuple(right),
        unit="%",
        samples={tally.name: each} if per_sample else None,
        tallies={tally.name: tally},
    )
