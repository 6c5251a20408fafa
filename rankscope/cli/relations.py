"""How relations of two sites are printed: a table for each relation and run, a row a site."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rankscope.cli import options, show

if TYPE_CHECKING:
    from rankscope.results.between import Between, BetweenRecord


def printed(result: Between, printing: options.Printing, *, full: bool) -> Callable[[], None]:
    """What prints them; in full, with bands and what is read beside the numbers."""
    return partial(_tables, result, printing, full=full)


def _tables(result: Between, printing: options.Printing, *, full: bool) -> None:
    printing.notes_of(result.records)
    columns = ["site", *(["before"] if result.base else []), "value", *(["change"] if result.base else []), "noise"]
    for title, records in result.parts().items():
        for name in result.names[bool(result.base and not full) :]:
            mine = [r for r in records if r.run == name]
            shape, against = mine[0].shape, f" against {result.base}" if result.base not in ("", name) else ""
            numbers = f"{shape.samples} samples; {shape.d} and {mine[0].d_b} features; {result.level:.0%} intervals"
            show.paragraphs([f"{title}, in {name}{against}; {numbers}"])
            show.plain([*columns, *(_FURTHER if full else ())], [_line(r, full=full) for r in mine])
            show.line("")


_FURTHER = ("itself", "all sites", "change at all sites", "p", "p unrelated")


def _line(r: BetweenRecord, *, full: bool) -> list[str]:
    from rankscope.results import wording

    based = [wording.number(r.before), wording.interval(r.change)] if r.run_base else []
    cells = [r.site, *based[:1], wording.interval(r.estimate), *based[1:], wording.number(r.noise)]
    if full:
        bands = [show.band(r.band), show.band(r.change_band)]
        cells += [show.number(r.itself), *bands, show.number(r.p), show.number(r.p_unrelated)]
    return cells
