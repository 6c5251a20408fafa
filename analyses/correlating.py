"""Rank correlations over the runs of a study, with intervals over settings, for the questions of the kind "does x go with y"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from findings import Interval
from numpy.typing import NDArray
from scipy import stats

Table = Mapping[str, NDArray[np.float64]]
"""The runs of one regime: a column for each number, and ``setting``, a whole number for what was trained but for the seed."""


def correlation(tables: Sequence[Table], x: str, y: str) -> float:
    """Spearman's ρ in each regime, and the mean; a regime in which one of the two does not vary is left out."""
    found = [stats.spearmanr(t[x], t[y]).statistic for t in tables if np.ptp(t[x]) > 0 and np.ptp(t[y]) > 0]
    return float(np.mean(found)) if found else 0.0


def _beyond(tables: Sequence[Table], *, name: str, outcome: str, against: str) -> float:
    """How far the size of one ρ exceeds that of another with the same outcome."""
    return abs(correlation(tables, name, outcome)) - abs(correlation(tables, against, outcome))


def resampled(tables: Sequence[Table], draws: int) -> list[list[Table]]:
    """Each regime with its settings drawn anew, and all seeds of each that is drawn."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        several = []
        for t in tables:
            rows = [np.flatnonzero(t["setting"] == s) for s in np.unique(t["setting"])]
            chosen = np.concatenate([rows[i] for i in random.integers(len(rows), size=len(rows))])
            several.append({name: column[chosen] for name, column in t.items()})
        drawn.append(several)
    return drawn


def correlations(
    tables: Sequence[Table], predictors: Sequence[str], outcomes: Sequence[str], draws: int, against: str = ""
) -> dict[str, dict[str, dict[str, Any]]]:
    """ρ of every predictor with every outcome; and, of a predictor to beat, how far the size of its ρ is exceeded.

    Args:
        tables: the regimes.
        predictors, outcomes: names of columns.
        draws: how often settings are drawn anew; the intervals are percentiles at 95 % shared by all pairs (Bonferroni).
        against: the predictor to beat; none by default.
    """
    level, drawn = 1 - 0.05 / (len(predictors) * len(outcomes)), resampled(tables, draws)

    def interval(number: Callable[[Sequence[Table]], float]) -> Interval:
        low, high = np.quantile([number(t) for t in drawn], [(1 - level) / 2, (1 + level) / 2])
        return Interval(number(tables), float(low), float(high))

    told: dict[str, dict[str, dict[str, Any]]] = {outcome: {} for outcome in outcomes}
    for outcome in outcomes:
        for name in predictors:
            found = interval(partial(correlation, x=name, y=outcome))
            told[outcome][name] = {"rho": found._asdict(), "predicts": bool(found.low > 0 or found.high < 0)}
            if against:
                more = interval(partial(_beyond, name=name, outcome=outcome, against=against))
                told[outcome][name] |= {"beyond": more._asdict(), "beats": bool(more.low > 0)}
    return told
