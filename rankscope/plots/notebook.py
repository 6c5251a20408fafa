"""What a notebook shows of a result: the verdict, a small table with a line a site, and the figure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from itertools import chain
from typing import Any

from rankscope.errors import UsageError
from rankscope.notebook import paragraphs, table
from rankscope.plots.figures import draw
from rankscope.plots.style import styled
from rankscope.results.claims import Account, Judged
from rankscope.results.glance import Glanced, glance
from rankscope.results.record import Table
from rankscope.results.weight_glance import glance_at_weights
from rankscope.results.weights import WeightReport

SHOWN = 12
"""The most lines of the small table; the frame has all."""
DOTS = 110
"""Dots an inch; shown at half the size, for screens with two to a point."""


def html(result: Table[Any]) -> str:
    """The verdict, the small table and the figure, in one piece of HTML that loads nothing."""
    said = _said(result.verdict) if isinstance(result, Judged) else ""
    columns, lines, below = small_table(result)
    more = [f"{len(lines) - SHOWN} more lines"] if len(lines) > SHOWN else []
    told = "; ".join([*more, f"{len(result.records)} records: to_frame()"])
    return said + table(columns, lines[:SHOWN]) + paragraphs([*below, told]) + _image(result)


def small_table(result: Table[Any]) -> tuple[Sequence[str], Sequence[Sequence[str]], Sequence[str]]:
    """The columns and lines of a table with a line for each site, or each matrix of weights, and what is said below it."""
    if isinstance(result, WeightReport) or (isinstance(result, Glanced) and result.records):
        small = glance_at_weights(result) if isinstance(result, WeightReport) else glance(result)
        return small.columns, small.rows, (small.title, *small.below)
    frame = [[str(record.flat().get(name)) for name in ("site", "measure", "value")] for record in result.records]
    return ["site", "measure", "value"], frame, ()


def _said(found: Account) -> str:
    """The verdict: of each run what tells most and a line a meaning; of one run, and of arms, the sentences."""
    if not found.briefs:
        return paragraphs(found.sentences)
    said = ((one.lead, *(f"{meaning}: {text}" for meaning, text in one.lines.items())) for one in found.briefs)
    return paragraphs([*chain.from_iterable(said), found.proviso])


def _image(result: Table[Any]) -> str:
    try:
        figure = draw(result)
    except UsageError as error:
        return f"<p>{escape(str(error))}</p>"
    with styled():
        figure.savefig(buffer := BytesIO(), format="png", dpi=2 * DOTS)
    width = int(DOTS * figure.get_figwidth())
    return f"<img width='{width}' alt='the figure' src='data:image/png;base64,{b64encode(buffer.getvalue()).decode()}'>"
