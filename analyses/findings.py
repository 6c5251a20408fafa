"""How the studies are asked, decide, and write what they found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from rankscope.plots.style import save
from rankscope.tuning.record import versions

SUPPORTED, CONTRADICTED, UNDECIDED = "supported in miniature", "contradicted", "not decided"
BUILD = Path("build") / "study"


LABELS = {
    "score": "CIDEr-D",
    "test": "task loss, nats",
    "old look": "loss on the old look, nats",
    "questions": "loss on questions, nats",
    "participation-ratio-clustered": "participation ratio",
    "roy-vetterli": "Roy–Vetterli rank",
    "recoverability": "recoverability",
    "overlap": "overlap",
    "drift": "drift",
}
"""What is told of a training at its end (:func:`runs.end`), and what it is called in figures."""


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


def forest(rows: Mapping[Any, Interval], looks: Sequence[Mapping[str, Any]], ax: Axes) -> None:
    """Intervals below each other, each in its own look, with a line at zero."""
    for y, (found, style) in enumerate(zip(rows.values(), looks, strict=True)):
        ax.plot(found.value, y, marker=style["marker"], color=style["color"], markersize=3.5, linestyle="")
        if found.low is not None and found.high is not None:
            ax.hlines(y, found.low, found.high, color=style["color"], linewidth=1)
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.5, -0.5))
    ax.tick_params(axis="y", labelsize=6, length=0)
    ax.locator_params(axis="x", nbins=4)


def write(figure: Figure, told: Mapping[str, Any], out: Path) -> None:
    """The figure as SVG, and what it was drawn from as JSON, with the versions that made it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    save(figure, out, kinds=["svg"])
    out.with_suffix(".json").write_text(json.dumps(plain({"versions": versions(), **told}), indent=1) + "\n")


def plain(told: Any) -> Any:
    """The same with each interval as a dict, which JSON would make a list."""
    if isinstance(told, Interval):
        return told._asdict()
    if isinstance(told, Mapping):
        return {key: plain(value) for key, value in told.items()}
    return [plain(value) for value in told] if isinstance(told, list) else told
