"""The figure of a result: a landscape of spectra, rank, shares and map for two runs, and a panel a measure for all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rankscope.errors import UsageError
from rankscope.plots.along import Line, dotted, intervals, plain
from rankscope.plots.between import between, with_values as parts_with_values
from rankscope.plots.naming import last_of_stacks
from rankscope.plots.profiles import SHARES, profile, shares, with_values
from rankscope.plots.similarity import similarity
from rankscope.plots.spectra import has_spectra, spectra
from rankscope.plots.style import Columns, drawing, drawn, fit_titles, grid, legend, look, nothing, panel_title, styled
from rankscope.plots.track import has_losses, losses, track
from rankscope.plots.weights import weights, with_quantity
from rankscope.results.arms import ArmContrast
from rankscope.results.between import Between
from rankscope.results.claims import Judged
from rankscope.results.judging import ranks
from rankscope.results.record import Estimate, Table
from rankscope.results.runs import Contrast, Curves, Measurement
from rankscope.results.track import Track
from rankscope.results.weights import WeightReport
from rankscope.sites import Site

MOST = 8
"""The most measures of a comparison that are all drawn, and the most curves in one panel, whose looks can be told apart."""
HEIGHT = 2.4
"""Inches for each row of panels."""

Panels = list[Callable[[Axes], Axes]]
"""How each panel of a figure is drawn."""


def draw(result: Table[Any], *, columns: Columns = "double") -> Figure:
    """The figure of a result, as its ``plot()`` gives it.

    Args:
        result: what an analysis returned.
        columns: as wide as a ``single`` or a ``double`` column of a paper.

    Raises:
        UsageError: for a result that has no figure, or of which nothing can be drawn.
    """
    panels_of = FIGURES.get(type(result))
    if panels_of is None:
        names = ", ".join(kind.__name__ for kind in FIGURES)
        raise UsageError(f"a {type(result).__name__} has no figure; these have one: {names}")
    wanted = panels_of(result)
    if not wanted:
        raise nothing()
    with styled():
        figure, axes = grid(len(wanted), height=HEIGHT, columns=columns)
        for panel, ax in zip(wanted, axes, strict=True):
            panel(ax)
        legend(figure)
        if text := headline(result):
            figure.suptitle(drawn(text), x=0.01, ha="left", fontsize=8, fontweight="bold")
        fit_titles(figure)
    return figure


def headline(result: Table[Any]) -> str:
    """What stands above a figure: the words of the verdict, where there is one."""
    return result.verdict.headline if isinstance(result, Judged) else ""


@drawing
def curve(result: Curves, ax: Axes | None = None, *, measure: str | None = None, **style: Any) -> Axes:
    """A measure against the number of rows: the curve of each site, its limit as a dotted line, and what noise scores.

    With more than :data:`MOST` sites only the last of every stack is drawn.

    Args:
        result: a run measured on parts of its samples.
        ax: where to draw; by default on a figure of its own.
        measure: its name; by default the first that has values.
        **style: matplotlib's settings of the lines, beside their own looks.

    Raises:
        UnknownName: if it is not among the results.
        UsageError: if it has no value anywhere.
    """
    measure = measure or next(iter(_with_points(result)), None)
    if measure is None or all(r.value is None for r in result.of(measure)):
        raise nothing()
    assert ax is not None
    records = result.of(measure)
    sites = [Site.parse(text) for text in dict.fromkeys(r.site for r in records)]
    shown = sites if len(sites) <= MOST else last_of_stacks(sites)[-MOST:]
    noises: dict[tuple[Any, ...], None] = {}  # that of sites with the same rows and width is one line
    for index, site in enumerate(map(str, shown)):
        mine = [r for r in records if r.site == site]
        rows = [r.rows for r in mine]
        own = look(index) | style
        intervals(rows, Line.of(site, [Estimate(r.value, r.least, r.greatest) for r in mine]), own, ax)
        noises[tuple(rows), tuple(plain(r.noise for r in mine))] = None
        if mine[0].limit is not None:
            ax.axhline(mine[0].limit, color=own["color"], linewidth=0.6, linestyle=(0, (1, 3)))
    for rows, noise in noises:
        dotted(rows, noise, ax)
    dotted([], [], ax, label="noise")
    ax.set(xscale="log", xlabel="rows", ylabel=records[0].unit)
    panel_title(ax, measure)
    return ax


def _with_points(result: Curves) -> list[str]:
    return [m for m in result.measures if any(r.value is not None for r in result.of(m))]


def _contrast(result: Contrast) -> Panels:
    """Spectra, the measures along the sites, and the map; of more than :data:`MOST` measures a rank and the two shares."""
    there = with_values(result)
    along: Panels = [partial(_profile, result, name) for name in there]
    if len(there) > MOST:
        rank = next((r.measure for r in ranks(result.records)), there[0])
        found = [m for m in SHARES if m in there]
        along = [partial(_profile, result, rank)]
        along += [lambda ax: shares(result, ax, measures=found)] if found else []
    first: Panels = [partial(spectra, result)] if has_spectra(result) else []
    mapped = result.similarity is not None and bool(result.similarity.isfinite().any())
    return first + along + ([partial(similarity, result)] if mapped else [])


def _profile(result: Any, measure: str, ax: Axes) -> Axes:
    return profile(result, ax, measure=measure)


def _profiles(result: Table[Any]) -> Panels:
    return [partial(_profile, result, name) for name in with_values(result)]


def _curves(result: Curves) -> Panels:
    return [lambda ax, name=name: curve(result, ax, measure=name) for name in _with_points(result)]  # type: ignore[misc]


def _weights(result: WeightReport) -> Panels:
    return [lambda ax, name=name: weights(result, ax, quantity=name) for name in with_quantity(result)]  # type: ignore[misc]


def _training(result: Track) -> Panels:
    names = [m for m in result.measures if any(r.value is not None for r in result.of(m))]
    panels: Panels = [lambda ax, name=name: track(result, ax, measure=name) for name in names]  # type: ignore[misc]
    return [*panels, partial(losses, result)] if has_losses(result) else panels


def _related(result: Between) -> Panels:
    return [lambda ax, part=part: between(result, ax, part=part) for part in parts_with_values(result)]  # type: ignore[misc]


FIGURES: Mapping[type, Callable[[Any], Panels]] = {
    Measurement: _profiles,
    Contrast: _contrast,
    ArmContrast: _profiles,
    Curves: _curves,
    WeightReport: _weights,
    Track: _training,
    Between: _related,
}
"""Type of result → its panels."""
