"""Two sites of one run: a relation of their rows along the sites of one side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes

from rankscope.plots.along import Line, along
from rankscope.plots.style import drawing, nothing
from rankscope.results.between import Between
from rankscope.sites import Site


@drawing
def between(result: Between, ax: Axes | None = None, *, part: str | None = None, **style: Any) -> Axes:
    """A relation of two sides along the sites, with intervals, in each run; dotted, what is unrelated in the first of them.

    Args:
        result: sites of runs related to each other.
        ax: where to draw; by default on a figure of its own.
        part: which of ``result.parts()``; by default the first that has values.
        **style: matplotlib's settings of the lines, beside their own looks.

    Raises:
        UsageError: if it has no value anywhere.
    """
    assert ax is not None
    part = part or next(iter(with_values(result)), None)
    if part is None:
        raise nothing()
    records = result.parts()[part]
    lines = []
    for place, name in enumerate(result.names, -bool(result.base)):  # the look of a base is its own
        line = Line.of(name, [r.estimate for r in records if r.run == name])
        lines.append(replace(line, place=place))
    first = [r for r in records if r.run == result.names[0]]
    sites = [Site.parse(r.site) for r in first]
    return along(sites, lines, ax, title=part, unit=first[0].unit, noise=[r.noise for r in first], style=style)


def with_values(result: Between) -> list[str]:
    """The parts that have a value somewhere."""
    return [part for part, records in result.parts().items() if any(r.value is not None for r in records)]
