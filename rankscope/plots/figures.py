"""The figure of a result: spectra, panels and the map of a contrast, or one panel per measure for all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from rankscope.errors import UsageError
from rankscope.plots.along import Line, along, dotted, intervals, plain
from rankscope.plots.naming import last_of_stacks
from rankscope.plots.similarity import similarity
from rankscope.plots.spectra import cumulative, descending
from rankscope.plots.style import drawn, grid, legend, look, new_figure, panel_title, panels, styled
from rankscope.results.arms import ArmContrast
from rankscope.results.record import Estimate, Table
from rankscope.results.runs import Contrast, Curves, Measurement
from rankscope.sites import Site

RANKS = ("participation-ratio", "roy-vetterli", "pt-peft")
"""The definitions that a contrast draws along the sites."""
RELATIONS = ("overlap", "recoverability", "drift", "variance-captured")
"""The relations that it draws, at most the first three of them that were asked for: basis, information, drift."""

SPECTRA, PANEL, MAP = 3.6, 2.2, 3.0
"""Inches for the spectra, for each row of panels below them, and for the row with the map."""
COLUMNS = 4
"""The most stacks whose spectra fit side by side."""
MOST = 8
"""The most measures of a contrast that are all drawn, and the most curves in one panel, whose looks can be told apart."""


def draw(result: Table[Any]) -> Figure:
    """The figure of a result, as its ``plot()`` gives it.

    Raises:
        UsageError: for a result that has no figure.
    """
    figure_of = FIGURES.get(type(result))
    if figure_of is None:
        names = ", ".join(kind.__name__ for kind in FIGURES)
        raise UsageError(f"a {type(result).__name__} has no figure; these have one: {names}")
    return figure_of(result)


def contrast(result: Contrast) -> Figure:
    """The spectra of each stack, the measures along the sites, and the site × site map of similarity.

    With more than :data:`MOST` measures only :data:`RANKS` and :data:`RELATIONS` are drawn.
    """
    a, b, *base = result.names
    measures, mapped = _chosen(result), result.similarity is not None
    heights = [PANEL] * ((len(measures) + mapped + 1) // 2)
    if mapped:
        heights[-1] = MAP
    with styled():
        figure = new_figure(SPECTRA + sum(heights))
        halves: Any = figure.subfigures(2, 1, height_ratios=[SPECTRA, sum(heights) or PANEL])
        above, below = halves
        _spectra(result, above)
        if heights:
            axes = panels(below, len(measures) + mapped, heights)
            for ax, measure in zip(axes, measures, strict=False):
                _measure(result, measure, ax)
            if result.similarity is not None:
                similarity(result.similarity, result.similarity_sites, axes[-1], rows=base[0] if base else a, columns=b)
            legend(below)
        against = f", against {base[0]}" if base else ""
        figure.suptitle(drawn(f"{a} and {b}{against} — rows: {result.rows}"), x=0.01, ha="left", fontsize=8)
    return figure


def _spectra(result: Contrast, figure: SubFigure) -> None:
    """The spectra at the last site of each of the last stacks that have any: cumulative above, value by value below."""
    drawn = {site: None for run in result.spectra.values() for site in run}
    stacks = last_of_stacks(list(drawn))[-COLUMNS:]
    base = result.names[2] if len(result.names) > 2 else None
    axes = figure.subplots(2, max(1, len(stacks)), squeeze=False)
    for above, below, site in zip(*axes, stacks, strict=False):
        there = {run: sites[site] for run, sites in result.spectra.items() if site in sites}
        cumulative(there, above, base=base)
        descending(there, below, base=base)
    axes[0, 0].set_ylabel("cumulative share of Σσ")
    axes[0, 0].legend(frameon=False, loc="lower right")
    axes[1, 0].set_ylabel("σ / σ₁")


def _chosen(result: Contrast) -> list[str]:
    """The measures that get a panel."""
    drawable = [m for m in result.measures if any(r.value is not None or r.a.value is not None for r in result.of(m))]
    if len(drawable) <= MOST:
        return drawable
    return [m for m in RANKS if m in drawable][:2] + [m for m in RELATIONS if m in drawable][:3]


def _measure(result: Contrast, measure: str, ax: Axes) -> Axes:
    records = result.of(measure)
    sites, unit, noise = [Site.parse(r.site) for r in records], records[0].unit, [r.noise for r in records]
    a, b, *base = result.names
    if all(r.a.value is None for r in records):
        line = Line.of(f"{a} → {b}", [r.estimate for r in records])
        return along(sites, [line], ax, title=f"{measure}: {a} → {b}", unit=unit, noise=noise, first=2)
    lines = [Line.of(a, [r.a for r in records]), Line.of(b, [r.b for r in records])]
    if base and any(r.base is not None for r in records):  # changes, for which the base is zero and noise no measure
        return along(sites, lines, ax, title=f"{measure}, change against {base[0]}", unit=unit, zero=base[0])
    title = f"{measure}, against {base[0]}" if base else measure
    return along(sites, lines, ax, title=title, unit=unit, noise=noise)


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
        sites = [Site.parse(text) for text in dict.fromkeys(r.site for r in records)]
        drawn = sites if len(sites) <= MOST else last_of_stacks(sites)[-MOST:]
        for index, site in enumerate(map(str, drawn)):
            mine = [r for r in records if r.site == site]
            rows = [r.rows for r in mine]
            estimates = [Estimate(r.value, r.least, r.greatest) for r in mine]
            style = look(index)
            intervals(rows, Line.of(site, estimates), style, ax)
            dotted(rows, plain(r.noise for r in mine), ax)
            if mine[0].limit is not None:
                ax.axhline(mine[0].limit, color=style["color"], linewidth=0.6, linestyle=(0, (1, 3)))
        dotted([], [], ax, label="noise")
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


FIGURES: Mapping[type, Callable[[Any], Figure]] = {
    Measurement: profiles,
    Contrast: contrast,
    ArmContrast: arms,
    Curves: curves,
}
"""Type of result → how it is drawn."""
