"""Numbers along the sites, with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import isclose, isfinite, isnan, nan
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
    place: int | None = None
    """Its look (:func:`~rankscope.plots.style.look`), where that is not its place among the lines; -1 is the base's."""
    hollow: bool = False
    """Whether it is the second measure of its run: dashed, with hollow marks and no entry in the legend."""

    @classmethod
    def of(cls, name: str, estimates: Sequence[Estimate], spans: Sequence[Span] | None = None) -> Line:
        """The line of some estimates, with their own intervals or with other spans around them."""
        ends = estimates if spans is None else spans
        return cls(
            in_legend(name), plain(e.value for e in estimates), plain(e.low for e in ends), plain(e.high for e in ends)
        )

    @classmethod
    def level(cls, name: str, values: Iterable[float | None]) -> Line:
        """The base's own values, without intervals."""
        value = plain(values)
        return cls(in_legend(name), value, [nan] * len(value), [nan] * len(value), -1)

    @property
    def bare(self) -> bool:
        """Whether it has no interval anywhere."""
        return not any(isfinite(end) for end in (*self.low, *self.high))


def distinct(lines: Sequence[Line]) -> list[Line]:
    """The lines, those that would lie over each other drawn as one under all their names: ``lora = full``.

    Each keeps the look of its place. Intervals must be equal too, or one of the two have none.
    """
    found: list[Line] = []
    for line in (line if line.place is not None else replace(line, place=i) for i, line in enumerate(lines)):
        same = next((i for i, x in enumerate(found) if x.hollow == line.hollow and _alike(line, x)), None)
        if same is None:
            found.append(line)
        else:
            kept = line if found[same].bare else found[same]
            found[same] = replace(kept, name=f"{found[same].name} = {line.name.strip()}")
    return found


def _alike(line: Line, other: Line) -> bool:
    ends = [] if line.bare or other.bare else [(line.low, other.low), (line.high, other.high)]
    pairs = chain.from_iterable(zip(a, b, strict=True) for a, b in [(line.value, other.value), *ends])
    return all(isclose(a, b) or (isnan(a) and isnan(b)) for a, b in pairs)


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
    style: Mapping[str, Any] | None = None,
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
        style: matplotlib's settings of the lines, beside their own looks.
    """
    x = places(sites)
    for line in distinct(lines):
        own = look(line.place or 0) | (_HOLLOW if line.hollow else {})
        _draw(x, segments(sites), line, own | dict(style or {}), ax)
    _open(ax)
    _noise(x, segments(sites), plain(noise), ax)
    if zero:
        ax.axhline(0, label=in_legend(zero), **(look(-1) | {"linewidth": 1.0, "zorder": 1}))
    _label(sites, x, ax)
    ax.set_ylabel(unit)
    panel_title(ax, title)
    return ax


_HOLLOW: dict[str, Any] = {"linestyle": (0, (3, 1.5)), "markerfacecolor": "white", "linewidth": 0.9}


def _draw(x: Sequence[float], parts: Sequence[Sequence[int]], line: Line, style: dict[str, Any], ax: Axes) -> None:
    for number, part in enumerate(parts):
        value, low, high = ([side[i] for i in part] for side in (line.value, line.low, line.high))
        if any(isfinite(v) for v in value):
            named = "" if number or line.hollow else line.name
            intervals([x[i] for i in part], Line(named, value, low, high), style, ax)


def intervals(x: Sequence[float], line: Line, style: dict[str, Any], ax: Axes) -> None:
    """A line's values joined, with bars from the lower to the upper ends."""
    label = line.name or None
    if line.bare:
        style = style | ({"marker": "_"} if len(x) == 1 and not style.get("marker") else {})
        ax.plot(x, line.value, label=label, **({"markersize": 3} | style))
        return
    down = [max(0.0, v - low) for v, low in zip(line.value, line.low, strict=True)]
    up = [max(0.0, high - v) for v, high in zip(line.value, line.high, strict=True)]
    ax.errorbar(
        x, line.value, yerr=[down, up], label=label, **({"markersize": 3, "capsize": 1.5, "elinewidth": 0.8} | style)
    )


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
    ax.set_xticks([x[i] for i in written], [named[i].text for i in written], rotation=90, fontsize=6)
    for group in dict.fromkeys(label.group for label in named):
        mine = [x[i] for i, label in enumerate(named) if label.group == group]
        ax.annotate(
            group,
            (sum(mine) / len(mine), 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -28),
            fontsize=7,
            textcoords="offset points",
            ha="center",
            va="top",
        )
