"""The figure of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from rankscope.plots.along import Line, along
from rankscope.plots.naming import last_of_stacks
from rankscope.plots.similarity import similarity
from rankscope.plots.spectra import cumulative, descending
from rankscope.plots.style import legend, new_figure, panels, styled
from rankscope.sites import Site

if TYPE_CHECKING:
    from rankscope.results.record import Contrast

RANKS = ("participation-ratio", "roy-vetterli", "pt-peft")
"""The definitions that a contrast draws along the sites."""
RELATIONS = ("overlap", "recoverability", "drift", "variance-captured")
"""The relations that it draws, the first three of them that were asked for: turned, lost, drifted."""

SPECTRA, PANEL, MAP = 3.6, 2.2, 3.0
"""Inches for the spectra, for each line of panels below them, and for the line with the map."""
COLUMNS = 4
"""The most stacks whose spectra fit beside each other."""
MOST = 8
"""The most measures that are all drawn; of more, those above."""


def contrast(result: Contrast) -> Figure:
    """Spectra a stack, rank along the sites, what was kept of the reference, and the site × site map.

    Where at most :data:`MOST` measures were asked for, all of them are drawn.
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
    """The spectra at the last site of every stack: cumulative above, each value below."""
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
    return any(r.value == r.value or r.a == r.a for r in result.of(measure))


def _last_sites(result: Contrast) -> list[Site]:
    """Of every stack the last site that any run has a spectrum of, at most the last :data:`COLUMNS`."""
    return last_of_stacks(list({site: None for run in result.spectra.values() for site in run}))[-COLUMNS:]


def _panels(result: Contrast, measures: list[str], axes: list[Axes]) -> None:
    for ax, measure in zip(axes, measures, strict=False):
        _measure(result, measure, ax)
    if result.similarity is not None:
        names = (result.names[-1], result.names[1]) if len(result.names) > 2 else result.names[:2]
        similarity(result.similarity, result.similarity_sites, axes[-1], rows=names[0], columns=names[1])


def _measure(result: Contrast, measure: str, ax: Axes) -> Axes:
    records = result.of(measure)
    sites = [Site.parse(r.site) for r in records]
    a, b, *base = result.names
    noise = [r.noise for r in records]
    if all(r.a != r.a for r in records):
        lines = [Line(f"{a} → {b}", [r.value for r in records], [r.low for r in records], [r.high for r in records])]
        return along(sites, lines, ax, title=f"{measure}: {a} → {b}", unit=records[0].unit, noise=noise, first=2)
    lines = [
        Line(a, [r.a for r in records], [r.a_low for r in records], [r.a_high for r in records]),
        Line(b, [r.b for r in records], [r.b_low for r in records], [r.b_high for r in records]),
    ]
    signed = bool(base) and any(r.base == r.base for r in records)
    title = f"{measure}, change against {base[0]}" if signed else f"{measure}, against {base[0]}" if base else measure
    shown = [] if signed else noise
    return along(sites, lines, ax, title=title, unit=records[0].unit, noise=shown, zero=base[0] if signed else "")
