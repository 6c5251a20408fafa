"""Arms along the sites: means over trainings with simultaneous bands, and how far retrainings lie apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankscope.plots.along import Line, along
from rankscope.plots.style import grid, legend, styled
from rankscope.sites import Site

if TYPE_CHECKING:
    from rankscope.results.arms import ArmContrast


def arms(result: ArmContrast) -> Figure:
    """One panel a measure: each arm along the sites with its band."""
    with styled():
        figure, axes = grid(len(result.measures))
        for ax, measure in zip(axes, result.measures, strict=True):
            _panel(result, measure, ax)
        legend(figure)
    return figure


def _panel(result: ArmContrast, measure: str, ax: Axes) -> None:
    records = result.of(measure)
    drawn = {arm: [r for r in records if r.arm == arm] for arm in result.arms}
    sites = [Site.parse(r.site) for r in next(iter(drawn.values()))]
    lines = [
        Line(arm, [r.value for r in mine], [r.band_low for r in mine], [r.band_high for r in mine])
        for arm, mine in drawn.items()
    ]
    title = f"{measure}, against {result.base}" if result.base else measure
    along(sites, lines, ax, title=title, unit=records[0].unit)
