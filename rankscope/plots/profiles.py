"""One run's numbers along its sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from rankscope.plots.along import Line, along
from rankscope.plots.style import grid, legend, styled
from rankscope.sites import Site

if TYPE_CHECKING:
    from rankscope.results.record import Measurement


def profiles(result: Measurement) -> Figure:
    """One panel a measure: the run along its sites with intervals, and what noise scores."""
    with styled():
        figure, axes = grid(len(result.measures))
        for ax, measure in zip(axes, result.measures, strict=True):
            records = result.of(measure)
            line = Line(result.run, [r.value for r in records], [r.low for r in records], [r.high for r in records])
            sites = [Site.parse(r.site) for r in records]
            along(sites, [line], ax, title=measure, unit=records[0].unit, noise=[r.noise for r in records])
        legend(figure)
    return figure
