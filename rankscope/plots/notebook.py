"""What a notebook shows of a result: the verdict, a small table with a line a site, and the figure."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from typing import Any

from rankscope.errors import UsageError
from rankscope.notebook import paragraphs, table
from rankscope.plots.figures import RANKS, draw, sentences
from rankscope.plots.profiles import SHARES, percent_text, with_values
from rankscope.plots.style import styled
from rankscope.results.record import Table
from rankscope.results.runs import Contrast
from rankscope.results.weights import WeightReport

SHOWN = 12
"""The most lines of the small table; the frame has all."""
DOTS = 110
"""Dots an inch; shown at half the size, for screens with two to a point."""


def html(result: Table[Any]) -> str:
    """The verdict, the small table and the figure, in one piece of HTML that loads nothing."""
    columns, lines = small_table(result)
    said = paragraphs(sentences(result))
    more = f"{len(lines) - SHOWN} more lines; " if len(lines) > SHOWN else ""
    told = f"<p><small>{more}{len(result.records)} records: to_frame()</small></p>"
    return said + table(columns, lines[:SHOWN]) + told + _image(result)


def small_table(result: Table[Any]) -> tuple[list[str], list[list[str]]]:
    """The columns and lines of a table with a line for each site, or each matrix of weights."""
    if isinstance(result, WeightReport):
        columns = ["module", "kind", "shape", "effective rank", "|ΔW| / |W|"]
        return columns, [
            [r.module, r.kind, f"{r.m} × {r.n}", number(r.ranks.effective), number(r.relative.size)]
            for r in result.records
        ]
    if isinstance(result, Contrast) and (found := _of_contrast(result)):
        return found
    measures = with_values(result) or list(result.measures)
    sites = dict.fromkeys(r.site for r in result.records)
    by_place: dict[tuple[str, str], Any] = {}
    for record in result.records:
        by_place.setdefault((record.site, record.measure), record)
    lines = [[site, *(number(by_place[site, m].value) for m in measures if (site, m) in by_place)] for site in sites]
    return ["site", *measures], lines


def _of_contrast(result: Contrast) -> tuple[list[str], list[list[str]]] | None:
    """A rank in the base and in each run, with the change in per cent, and the shares; None without a base or a rank."""
    there = with_values(result)
    rank = next((m for m in RANKS if m in there and any(r.base is not None for r in result.of(m))), None)
    if rank is None:
        return None
    a, b, base = result.names
    shared = [m for m in (*SHARES, "drift") if m in there]
    columns = ["site", f"{rank}: {base}", a, b, *(f"{m}: {name}" for m in shared for name in (a, b))]
    relations = {(r.measure, r.site): r for m in shared for r in result.of(m)}
    lines = []
    for r in result.of(rank):
        mine = [relations[m, r.site] for m in shared]
        changes = [_changed(r.base, side.value) for side in (r.a, r.b)]
        lines.append([r.site, number(r.base), *changes, *(number(s.value) for one in mine for s in (one.a, one.b))])
    return columns, lines


def _changed(base: float | None, change: float | None) -> str:
    """``6.9 (−94 %)``."""
    if base is None or change is None:
        return "–"
    return number(base + change) + (f" ({percent_text(100 * change / base)})" if base else "")


def number(value: float | None) -> str:
    """Three significant digits; a dash where there is no value."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _image(result: Table[Any]) -> str:
    try:
        figure = draw(result)
    except UsageError as error:
        return f"<p>{escape(str(error))}</p>"
    with styled():
        figure.savefig(buffer := BytesIO(), format="png", dpi=2 * DOTS)
    width = int(DOTS * figure.get_figwidth())
    return f"<img width='{width}' alt='the figure' src='data:image/png;base64,{b64encode(buffer.getvalue()).decode()}'>"
