"""What the scripts of the study share: their command line, how they decide, and how they write what they found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from rankscope.plots.style import save
from rankscope.tuning.record import versions

SUPPORTED, CONTRADICTED, UNDECIDED = "supported in miniature", "contradicted", "not decided"
BUILD = Path("build") / "study"


class Interval(NamedTuple):
    """A mean or a difference of means, and its interval; without ends where there are too few values."""

    value: float
    low: float | None
    high: float | None


def arguments(doc: str | None, name: str) -> argparse.Namespace:
    """The command line of a script: ``--quick``, ``--folder`` for its runs and ``--out`` for its figure and JSON."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a run of everything at a size that decides nothing")
    parser.add_argument("--folder", type=Path, help="where runs are kept, and found again")
    parser.add_argument("--out", type=Path, help="the figure and its JSON, without an ending")
    asked = parser.parse_args()
    size = "quick" if asked.quick else "full"
    asked.folder = asked.folder or BUILD / size
    asked.out = (
        asked.out or (BUILD / size if asked.quick else Path("figures")) / name
    )  # a quick run replaces no finding
    return asked


def mean(values: Iterable[float], level: float = 0.95) -> Interval:
    """The mean over seeds with Student's interval."""
    x = np.array(list(values))
    if len(x) < 2:
        return Interval(float(x.mean()), None, None)
    half = stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half))


def difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of ``a`` less mean of ``b``, two sets of seeds, with Welch's interval."""
    value = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return Interval(value, None, None)
    if np.std(a) + np.std(b) <= 1e-9 * np.abs([*a, *b]).max():  # seeds that agree to the last digits
        return Interval(value, value, value)
    ends = stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    return Interval(value, float(ends.low), float(ends.high))


def decide(intervals: Iterable[Interval]) -> str:
    """Three outcomes: supported if every interval lies above zero; contradicted if one lies below and none above; else not decided."""
    found = list(intervals)
    above = [i.low is not None and i.low > 0 for i in found]
    below = [i.high is not None and i.high < 0 for i in found]
    if found and all(above):
        return SUPPORTED
    return CONTRADICTED if any(below) and not any(above) else UNDECIDED


def write(figure: Figure, told: Mapping[str, Any], out: Path) -> None:
    """The figure as SVG, and what it was drawn from as JSON, with the versions that made it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    save(figure, out, kinds=["svg"])
    out.with_suffix(".json").write_text(json.dumps({"versions": versions(), **told}, indent=1) + "\n")
