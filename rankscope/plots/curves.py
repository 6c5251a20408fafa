"""Numbers against the number of rows, with their limit where a law gives one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankscope.plots.naming import last_of_stacks
from rankscope.plots.style import grid, legend, look, panel_title, styled
from rankscope.sites import Site

if TYPE_CHECKING:
    from rankscope.results.curves import Curves

MOST = 8
"""The most sites that are all drawn: so many looks can be told apart."""


def curves(result: Curves) -> Figure:
    """One panel a measure: the curve of each site, its limit as a dotted line, and what noise scores.

    Of more than :data:`MOST` sites the last of every stack is drawn.
    """
    with styled():
        figure, axes = grid(len(result.measures))
        for ax, measure in zip(axes, result.measures, strict=True):
            _panel(result, measure, ax)
        legend(figure)
    return figure


def _drawn(sites: Sequence[Site]) -> list[str]:
    different = list(dict.fromkeys(sites))
    chosen = different if len(different) <= MOST else last_of_stacks(different)[-MOST:]
    return [str(site) for site in chosen]


def _panel(result: Curves, measure: str, ax: Axes) -> None:
    records = result.of(measure)
    for index, site in enumerate(_drawn([Site.parse(r.site) for r in records])):
        mine = [r for r in records if r.site == site]
        rows, values = [r.rows for r in mine], [r.value for r in mine]
        spread = [[r.value - r.least for r in mine], [r.greatest - r.value for r in mine]]
        style = look(index)
        ax.errorbar(rows, values, yerr=spread, label=site, markersize=3, capsize=1.5, elinewidth=0.8, **style)
        ax.plot(rows, [r.noise for r in mine], color="0.45", linestyle=":", zorder=1)
        if mine[0].limit == mine[0].limit:
            ax.axhline(mine[0].limit, color=style["color"], linewidth=0.6, linestyle=(0, (1, 3)))
    ax.plot([], [], color="0.45", linestyle=":", label="noise")
    ax.set_xscale("log")
    ax.set_xlabel("rows")
    ax.set_ylabel(records[0].unit)
    panel_title(ax, measure)
