"""Figures with one panel per measure: a run along its sites, arms along their sites, curves against the number of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankscope.plots.along import Line, along, plain
from rankscope.plots.naming import last_of_stacks
from rankscope.plots.style import grid, legend, look, panel_title, styled
from rankscope.results.arms import ArmContrast
from rankscope.results.curves import Curves
from rankscope.results.record import Table
from rankscope.results.runs import Measurement
from rankscope.sites import Site

MOST = 8
"""The most curves in one panel: so many looks can be told apart."""


def profiles(result: Measurement) -> Figure:
    """The run along its sites with intervals, and what noise scores."""

    def panel(measure: str, ax: Axes) -> None:
        records = result.of(measure)
        line = Line.of(result.run, [r.estimate for r in records])
        sites = [Site.parse(r.site) for r in records]
        along(sites, [line], ax, title=measure, unit=records[0].unit, noise=[r.noise for r in records])

    return _panels(result, panel)


def arms(result: ArmContrast) -> Figure:
    """Each arm along the sites: its mean over trainings with the band that holds at all sites together."""

    def panel(measure: str, ax: Axes) -> None:
        records = {arm: [r for r in result.of(measure) if r.arm == arm] for arm in result.arms}
        sites = [Site.parse(r.site) for r in next(iter(records.values()))]
        lines = [Line.of(arm, [r.estimate for r in mine], [r.band for r in mine]) for arm, mine in records.items()]
        title = f"{measure}, against {result.base}" if result.base else measure
        along(sites, lines, ax, title=title, unit=result.of(measure)[0].unit)

    return _panels(result, panel)


def curves(result: Curves) -> Figure:
    """The curve of each site, its limit as a dotted line, and what noise scores.

    With more than :data:`MOST` sites only the last of every stack is drawn.
    """

    def panel(measure: str, ax: Axes) -> None:
        records = result.of(measure)
        for index, site in enumerate(_drawn([Site.parse(r.site) for r in records])):
            mine = [r for r in records if r.site == site]
            rows = [r.rows for r in mine]
            values, least, greatest, noise = (
                plain(getattr(r, name) for r in mine) for name in ("value", "least", "greatest", "noise")
            )
            reach = [
                [v - x for v, x in zip(values, least, strict=True)],
                [x - v for v, x in zip(values, greatest, strict=True)],
            ]
            style = look(index)
            ax.errorbar(rows, values, yerr=reach, label=site, markersize=3, capsize=1.5, elinewidth=0.8, **style)
            ax.plot(rows, noise, color="0.45", linestyle=":", zorder=1)
            if mine[0].limit is not None:
                ax.axhline(mine[0].limit, color=style["color"], linewidth=0.6, linestyle=(0, (1, 3)))
        ax.plot([], [], color="0.45", linestyle=":", label="noise")
        ax.set_xscale("log")
        ax.set_xlabel("rows")
        ax.set_ylabel(records[0].unit)
        panel_title(ax, measure)

    return _panels(result, panel)


def _panels(result: Table[Any], panel: Callable[[str, Axes], None]) -> Figure:
    """A figure with a panel for each measure of a result, and one legend."""
    with styled():
        figure, axes = grid(len(result.measures))
        for ax, measure in zip(axes, result.measures, strict=True):
            panel(measure, ax)
        legend(figure)
    return figure


def _drawn(sites: Sequence[Site]) -> list[str]:
    different = list(dict.fromkeys(sites))
    chosen = different if len(different) <= MOST else last_of_stacks(different)[-MOST:]
    return [str(site) for site in chosen]
