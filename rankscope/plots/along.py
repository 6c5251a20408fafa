"""Numbers along the sites, with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from matplotlib.axes import Axes

from rankscope.plots.naming import labels, shown
from rankscope.plots.style import in_legend, look, panel_title
from rankscope.results.record import Estimate, Span
from rankscope.sites import Site

FLAT = 5.0
"""Noise is drawn where the axis then spans at most this many times what the runs span."""
NARROW = 1e-3
"""The share of the values below which their spread is not resolved on the axis."""
ROOM = 0.14
"""The share of the axis that is kept free above the runs for words."""


@dataclass(frozen=True)
class Line:
    """One run's numbers along the sites."""

    name: str
    """The run, as a legend takes it."""
    value: Sequence[float]
    """The value at each site; NaN, which matplotlib leaves out, where there is none."""
    low: Sequence[float]
    """The lower ends of the intervals."""
    high: Sequence[float]
    """The upper ends of the intervals."""

    @classmethod
    def of(cls, name: str, estimates: Sequence[Estimate], spans: Sequence[Span] | None = None) -> Line:
        """The line of some estimates, with their own intervals or with other spans around them."""
        ends = estimates if spans is None else spans
        return cls(
            in_legend(name), plain(e.value for e in estimates), plain(e.low for e in ends), plain(e.high for e in ends)
        )


def plain(values: Iterable[float | None]) -> list[float]:
    """Numbers as matplotlib takes them: NaN, which it leaves out, for None."""
    return [nan if value is None else value for value in values]


def places(sites: Sequence[Site]) -> list[float]:
    """The place of each site on the axis: one apart within a stack, two between stacks."""
    where: list[float] = []
    groups = [label.group for label in labels(sites)]
    for before, group in zip((None, *groups), groups, strict=False):
        where.append(0.0 if before is None else where[-1] + (1 if before == group else 2))
    return where


def segments(sites: Sequence[Site]) -> list[list[int]]:
    """Groups of sites that one curve may join: a stack without its ``final``, which lies after a norm and is alone.

    So is each module that is in no stack.
    """
    parts: list[list[int]] = []
    groups = [label.group for label in labels(sites)]
    for i, site in enumerate(sites):
        joined = i > 0 and groups[i - 1] == groups[i] != "" and site.point != "final"
        parts[-1].append(i) if joined else parts.append([i])
    return parts


def along(
    sites: Sequence[Site],
    lines: Sequence[Line],
    ax: Axes,
    *,
    title: str,
    unit: str = "",
    noise: Sequence[float | None] = (),
    zero: str = "",
    first: int = 0,
) -> Axes:
    """Draw each run's numbers along the sites, with intervals as bars; sites after a norm are not joined to the curve.

    Args:
        sites: the sites.
        lines: one line per run.
        ax: where to draw.
        title: the measure.
        unit: its unit.
        noise: what noise scores at each site, drawn dotted, or written where it lies far off.
        zero: the name of what zero means, to draw a line at zero.
        first: the look of the first line, where those before it mean something else.
    """
    x = places(sites)
    for index, line in enumerate(lines):
        _draw(x, segments(sites), line, look(first + index), ax)
    _open(ax)
    _noise(x, segments(sites), plain(noise), ax)
    if zero:
        ax.axhline(0, label=in_legend(zero), **(look(-1) | {"linewidth": 1.0, "zorder": 1}))
    _label(sites, x, ax)
    ax.set_ylabel(unit)
    panel_title(ax, title)
    return ax


def _draw(x: Sequence[float], parts: Sequence[Sequence[int]], line: Line, style: dict[str, Any], ax: Axes) -> None:
    for number, part in enumerate(parts):
        value, low, high = ([side[i] for i in part] for side in (line.value, line.low, line.high))
        if any(isfinite(v) for v in value):
            intervals([x[i] for i in part], Line(line.name if number == 0 else "", value, low, high), style, ax)


def intervals(x: Sequence[float], line: Line, style: dict[str, Any], ax: Axes) -> None:
    """A line's values joined, with bars from the lower to the upper ends."""
    down = [max(0.0, v - low) for v, low in zip(line.value, line.low, strict=True)]
    up = [max(0.0, high - v) for v, high in zip(line.value, line.high, strict=True)]
    label = line.name or None
    ax.errorbar(x, line.value, yerr=[down, up], label=label, markersize=3, capsize=1.5, elinewidth=0.8, **style)


def dotted(x: Sequence[float], values: Sequence[float], ax: Axes, *, label: str | None = None) -> None:
    """What noise scores; a dash where there is one value alone."""
    ax.plot(x, values, color="0.45", linestyle=":", marker="_" if len(x) == 1 else "", label=label, zorder=1)


def _open(ax: Axes) -> None:
    """Widen an axis whose values are all but equal, so that its tick labels are short."""
    bottom, top = ax.get_ylim()
    size = max(abs(bottom), abs(top))
    if top - bottom < NARROW * size:
        ax.set_ylim(bottom - 0.05 * size, top + 0.05 * size)


def _noise(x: Sequence[float], parts: Sequence[Sequence[int]], noise: Sequence[float], ax: Axes) -> None:
    """Draw what noise scores, or write it where drawing it would press the runs flat."""
    known = [v for v in noise if isfinite(v)]
    if not known:
        return
    bottom, top = ax.get_ylim()
    if max(*known, top) - min(*known, bottom) > FLAT * (top - bottom):
        ax.set_ylim(bottom, top + ROOM * (top - bottom))
        words = dict.fromkeys(number(edge) for edge in (min(known), max(known)))
        ax.text(0.02, 0.97, f"noise: {' to '.join(words)}", color="0.45", fontsize=7, va="top", transform=ax.transAxes)
        return
    for part in parts:
        dotted([x[i] for i in part], [noise[i] for i in part], ax)
    dotted([], [], ax, label="noise")


def number(value: float) -> str:
    """Two significant digits, in words that need no exponent up to six digits."""
    return f"{float(f'{value:.2g}'):,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.2g}"


def _label(sites: Sequence[Site], x: Sequence[float], ax: Axes) -> None:
    named = labels(sites)
    written = shown(named)
    ax.set_xticks([x[i] for i in written], [named[i].text for i in written], rotation=90)
    for group in dict.fromkeys(label.group for label in named):
        mine = [x[i] for i, label in enumerate(named) if label.group == group]
        ax.annotate(
            group,
            (sum(mine) / len(mine), 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -34),
            textcoords="offset points",
            ha="center",
            va="top",
        )
