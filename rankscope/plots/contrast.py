"""Whole figures: of a comparison, and of one measure of one run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankscope.plots.along import Line, along
from rankscope.plots.similarity import similarity
from rankscope.plots.spectra import cumulative
from rankscope.plots.style import new_figure, styled
from rankscope.sites import Site

if TYPE_CHECKING:
    from rankscope.result import Contrast, Measurement

RANKS = ("participation-ratio", "roy-vetterli", "pt-peft")
"""The definitions that a contrast draws along the sites."""
RELATIONS = ("overlap", "recoverability", "drift", "variance-captured")
"""The relations that it draws, the first three of them that were asked for: turned, lost, drifted."""


def contrast(result: Contrast) -> Figure:
    """Cumulative spectra a stack, rank along the sites, what was kept of the reference, and the site × site map."""
    ranks = [m for m in RANKS if m in result.measures and _drawable(result, m)][:2]
    relations = [m for m in RELATIONS if m in result.measures and _drawable(result, m)][:3]
    stacks = _last_sites(result)
    with styled():
        figure = new_figure(2.0 * (2 + (len(ranks) + 1) // 2 + (len(relations) + 2) // 2))
        lower = (len(ranks) + 1) // 2 + (len(relations) + 2) // 2
        halves: Any = figure.subfigures(2, 1, height_ratios=[1, lower])
        above, below = halves
        base = result.names[2] if len(result.names) > 2 else None
        top = above.subplots(1, max(1, len(stacks)), squeeze=False)[0]
        for ax, site in zip(top, stacks, strict=False):
            cumulative({run: sites[site] for run, sites in result.spectra.items() if site in sites}, ax, base=base)
        top[0].legend(frameon=False, loc="lower right")
        top[0].set_ylabel("cumulative share of Σσ")
        _panels(result, [*ranks, *relations], below)
        figure.suptitle(_headline(result), x=0.01, ha="left", fontsize=8)
    return figure


def _headline(result: Contrast) -> str:
    a, b, *base = result.names
    return f"{a} and {b}" + (f", against {base[0]}" if base else "") + f" — rows: {result.rows}"


def _drawable(result: Contrast, measure: str) -> bool:
    return any(r.value == r.value or r.a == r.a for r in result.of(measure))


def _last_sites(result: Contrast) -> list[Site]:
    """Of every stack the last site that any run has a spectrum of."""
    sites = {site: None for run in result.spectra.values() for site in run}
    return list({site.stack: site for site in sites}.values())


def _panels(result: Contrast, measures: list[str], figure: Figure) -> None:
    cells = len(measures) + (result.similarity is not None)
    axes = figure.subplots((cells + 1) // 2, 2, squeeze=False).ravel()
    for ax, measure in zip(axes, measures, strict=False):
        _measure(result, measure, ax)
    if result.similarity is not None:
        names = (result.names[-1], result.names[1]) if len(result.names) > 2 else result.names[:2]
        similarity(result.similarity, result.similarity_sites, axes[len(measures)], rows=names[0], columns=names[1])
    for ax in axes[cells:]:
        ax.set_visible(False)
    named = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=len(named), frameon=False)


def _measure(result: Contrast, measure: str, ax: Axes) -> Axes:
    records = result.of(measure)
    sites = [Site.parse(r.site) for r in records]
    a, b, *base = result.names
    noise = [r.noise for r in records]
    if all(r.a != r.a for r in records):
        lines = [Line(f"{a} → {b}", [r.value for r in records], [r.low for r in records], [r.high for r in records])]
        return along(sites, lines, ax, title=f"{measure}: {a} → {b}", unit=records[0].unit, noise=noise)
    lines = [
        Line(a, [r.a for r in records], [r.a_low for r in records], [r.a_high for r in records]),
        Line(b, [r.b for r in records], [r.b_low for r in records], [r.b_high for r in records]),
    ]
    signed = bool(base) and any(r.base == r.base for r in records)
    title = f"{measure}, change against {base[0]}" if signed else f"{measure}, against {base[0]}" if base else measure
    shown = [] if signed else noise
    return along(sites, lines, ax, title=title, unit=records[0].unit, noise=shown, zero=base[0] if signed else "")


def measurement(result: Measurement, measure: str) -> Figure:
    """One measure of one run along its sites, with intervals and what noise scores."""
    records = result.of(measure)
    line = Line(result.run, [r.value for r in records], [r.low for r in records], [r.high for r in records])
    with styled():
        figure = new_figure(2.4)
        ax = figure.subplots()
        sites = [Site.parse(r.site) for r in records]
        along(sites, [line], ax, title=measure, unit=records[0].unit, noise=[r.noise for r in records])
        ax.legend(frameon=False)
    return figure
