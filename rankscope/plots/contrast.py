"""The figure of a comparison."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from rankscope.plots.along import Line, along
from rankscope.plots.naming import last_of_stacks
from rankscope.plots.similarity import similarity
from rankscope.plots.spectra import cumulative, descending
from rankscope.plots.style import legend, new_figure, panels, styled
from rankscope.results.runs import Contrast
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
"""The most measures that are all drawn; with more, only those above."""


def contrast(result: Contrast) -> Figure:
    """The spectra of each stack, the measures along the sites, and the site × site map of similarity.

    With more than :data:`MOST` measures only :data:`RANKS` and :data:`RELATIONS` are drawn.
    """
    measures = _chosen(result)
    cells = len(measures) + (result.similarity is not None)
    heights = [PANEL] * ((cells + 1) // 2)
    if result.similarity is not None:
        heights[-1] = MAP
    with styled():
        figure = new_figure(SPECTRA + sum(heights))
        halves: Any = figure.subfigures(2, 1, height_ratios=[SPECTRA, sum(heights) or PANEL])
        _spectra(result, halves[0])
        if cells:
            _panels(result, measures, panels(halves[1], cells, heights))
            legend(halves[1])
        figure.suptitle(_headline(result), x=0.01, ha="left", fontsize=8)
    return figure


def _spectra(result: Contrast, figure: SubFigure) -> None:
    """The spectra at the last site of every stack: cumulative above, value by value below."""
    stacks = _last_sites(result)
    base = result.names[2] if len(result.names) > 2 else None
    axes = figure.subplots(2, max(1, len(stacks)), squeeze=False)
    for above, below, site in zip(*axes, stacks, strict=False):
        there = {run: sites[site] for run, sites in result.spectra.items() if site in sites}
        cumulative(there, above, base=base)
        descending(there, below, base=base)
    axes[0, 0].set_ylabel("cumulative share of Σσ")
    axes[0, 0].legend(frameon=False, loc="lower right")
    axes[1, 0].set_ylabel("σ / σ₁")


def _headline(result: Contrast) -> str:
    a, b, *base = result.names
    return f"{a} and {b}" + (f", against {base[0]}" if base else "") + f" — rows: {result.rows}"


def _chosen(result: Contrast) -> list[str]:
    """The measures that get a panel."""
    drawable = [m for m in result.measures if _drawable(result, m)]
    if len(drawable) <= MOST:
        return drawable
    return [m for m in RANKS if m in drawable][:2] + [m for m in RELATIONS if m in drawable][:3]


def _drawable(result: Contrast, measure: str) -> bool:
    return any(r.value is not None or r.a.value is not None for r in result.of(measure))


def _last_sites(result: Contrast) -> list[Site]:
    """The last site of every stack that has a spectrum in any run, for at most the last :data:`COLUMNS` stacks."""
    return last_of_stacks(list({site: None for run in result.spectra.values() for site in run}))[-COLUMNS:]


def _panels(result: Contrast, measures: list[str], axes: list[Axes]) -> None:
    for ax, measure in zip(axes, measures, strict=False):
        _measure(result, measure, ax)
    if result.similarity is not None:
        names = (result.names[-1], result.names[1]) if len(result.names) > 2 else result.names[:2]
        similarity(result.similarity, result.similarity_sites, axes[-1], rows=names[0], columns=names[1])


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
