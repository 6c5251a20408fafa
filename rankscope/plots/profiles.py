"""One measure along the sites, of a run, of two runs or of arms; and several shares of two runs in one panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from rankscope.plots.along import Line, along, places
from rankscope.plots.style import drawing, look, nothing
from rankscope.results.arms import ArmContrast
from rankscope.results.record import Estimate, Table
from rankscope.results.runs import Contrast, Measurement, PairRecord
from rankscope.results.wording import signed
from rankscope.sites import Site

SHARES = ("overlap", "recoverability")
"""The relations that are drawn together, in per cent."""


class Panel(NamedTuple):
    """What one panel draws."""

    lines: Sequence[Line]
    """The lines, the base's own first."""
    title: str
    """Over the panel."""
    noise: Sequence[float | None] = ()
    """What noise scores at each site."""
    zero: str = ""
    """What zero means."""
    percent: Sequence[Sequence[float | None]] = ()
    """For each run the change in per cent of the base at each site."""


@drawing
def profile(
    result: Measurement | Contrast | ArmContrast, ax: Axes | None = None, *, measure: str | None = None, **style: Any
) -> Axes:
    """A measure along the sites, with intervals and with what noise scores.

    Two runs against a base stand beside the base's own values, with the intervals of their changes against it, and the largest
    change in per cent; arms are drawn as changes.

    Args:
        result: a run measured, two runs compared, or arms.
        ax: where to draw; by default on a figure of its own.
        measure: its name; by default the first that has values.
        **style: matplotlib's settings of the lines, beside their own looks.

    Raises:
        UnknownName: if it is not among the results.
        UsageError: if it has no value anywhere.
    """
    measure = measure or next(iter(with_values(result)), None)
    if measure is None or not any(_values(r) for r in result.of(measure)):
        raise nothing()
    assert ax is not None
    panel = _PANELS[type(result)](result, measure)
    records = result.of(measure)
    sites = [Site.parse(site) for site in dict.fromkeys(r.site for r in records)]
    unit = records[0].unit
    along(sites, panel.lines, ax, title=panel.title, unit=unit, noise=panel.noise, zero=panel.zero, style=style)
    for index, changes in enumerate(panel.percent):
        line, *others = (panel.lines[1 + (index + i) % len(panel.percent)] for i in range(len(panel.percent)))
        _largest(places(sites), line, others, changes, look(index)["color"], ax)
    return ax


@drawing
def shares(result: Contrast, ax: Axes | None = None, *, measures: Sequence[str] = SHARES, **style: Any) -> Axes:
    """Relations that lie between nothing and all, in per cent: the first filled and solid, the second hollow and dashed.

    Args:
        result: a comparison.
        ax: where to draw; by default on a figure of its own.
        measures: their names, at most two.
        **style: matplotlib's settings of the lines, beside their own looks.

    Raises:
        UnknownName: if one is not among the results.
        UsageError: if none has a value anywhere.
    """
    there = [name for name in measures if any(_values(r) for r in result.of(name))]
    if not there:
        raise nothing()
    assert ax is not None
    sites = [Site.parse(site) for site in dict.fromkeys(r.site for r in result.of(there[0]))]
    lines = [
        replace(line, place=i if line.place is None else line.place, hollow=bool(second))
        for second, name in enumerate(there)
        for i, line in enumerate(_relation(result, result.of(name)))
    ]
    title = " and ".join(there) if len(there) == 1 else f"{there[0]} (filled) and {there[1]} (hollow)"
    along(sites, lines, ax, title=title, style=style)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    # Below nothing an interval says no more: what lies far there would press the shares flat.
    ax.set_ylim(min(0.0, *(v for line in lines for v in line.value if isfinite(v))) - 0.05, 1.05)
    return ax


def with_values(result: Table[Any]) -> list[str]:
    """The measures that have a value somewhere."""
    return [m for m in result.measures if any(_values(r) for r in result.of(m))]


def _values(record: Any) -> bool:
    sides = (record.a.value, record.b.value) if isinstance(record, PairRecord) else ()
    return any(value is not None for value in (record.value, *sides))


def _measured(result: Measurement, measure: str) -> Panel:
    records = result.of(measure)
    return Panel([Line.of(result.run, [r.estimate for r in records])], measure, [r.noise for r in records])


def _arms(result: ArmContrast, measure: str) -> Panel:
    records = {arm: [r for r in result.of(measure) if r.arm == arm] for arm in result.arms}
    lines = [Line.of(arm, [r.estimate for r in mine], [r.band for r in mine]) for arm, mine in records.items()]
    return Panel(lines, f"{measure}, change against {result.base}" if result.base else measure, zero=result.base or "")


def _compared(result: Contrast, measure: str) -> Panel:
    records = result.of(measure)
    noise = [r.noise for r in records]
    base = result.names[2:]
    if not base or all(r.base is None for r in records):
        return Panel(_relation(result, records), f"{measure}{_against(result)}", noise)
    level = Line.level(base[0], [r.base for r in records])
    sides = [[r.a for r in records], [r.b for r in records]]
    lines = [
        Line.of(name, [_raised(change, r.base) for change, r in zip(side, records, strict=True)])
        for name, side in zip(result.names, sides, strict=False)
    ]
    percent = [[_percent(x) for x in side] for side in ([r.percent_a for r in records], [r.percent_b for r in records])]
    placed = [replace(line, place=i) for i, line in enumerate(lines)]
    return Panel([level, *placed], f"{measure}; bars: change", noise, percent=percent)


def _against(result: Contrast) -> str:
    return "".join(f", against {base}" for base in result.names[2:])


def _relation(result: Contrast, records: Sequence[PairRecord]) -> list[Line]:
    """Each run's line, or the one from the first to the second."""
    a, b, *_ = result.names
    if all(r.a.value is None and r.b.value is None for r in records):
        return [replace(Line.of(f"{a} → {b}", [r.estimate for r in records]), place=2)]
    return [Line.of(a, [r.a for r in records]), Line.of(b, [r.b for r in records])]


def _raised(change: Estimate, base: float | None) -> Estimate:
    """A change as the value itself, the interval being that of the change."""
    ends = (change.value, change.low, change.high)
    return Estimate(*(None if end is None or base is None else base + end for end in ends))


def _percent(change: Estimate) -> float | None:
    """A change in per cent, where its interval leaves no change out."""
    if change.value is None or change.low is None or change.high is None or change.low <= 0 <= change.high:
        return None
    return 100 * change.value


def _largest(
    x: Sequence[float], line: Line, others: Sequence[Line], percent: Sequence[float | None], color: str, ax: Axes
) -> None:
    """Write a run's largest change in per cent beside its point, on the side where the other run is not."""
    known = [i for i, value in enumerate(percent) if value is not None]
    if not known:
        return
    at = max(known, key=lambda i: abs(percent[i] or 0.0))
    value = percent[at] or 0.0
    above = value > 0 if not others else all(line.value[at] > other.value[at] for other in others)
    offset = (0, 6) if above else (0, -10)
    ax.margins(y=0.16)
    ax.annotate(
        f"{signed(value)} %",
        (x[at], line.value[at]),
        xytext=offset,
        textcoords="offset points",
        color=color,
        fontsize=7,
        ha="center",
    )


_PANELS: Mapping[type, Callable[[Any, str], Panel]] = {
    Measurement: _measured,
    Contrast: _compared,
    ArmContrast: _arms,
}
"""Type of result → what a panel draws of it."""
