"""How a training is printed: a row a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rankscope.cli import options, show

if TYPE_CHECKING:
    from rankscope.results.track import StepRecord, Track


def printed(result: Track, printing: options.Printing, *, full: bool) -> Callable[[], None]:
    """What prints a row a step: the loss and every measure at the last site, or at all sites."""
    return partial(_tables, result, printing, full=full)


def _tables(result: Track, printing: options.Printing, *, full: bool) -> None:
    printing.notes_of(result.records)
    sites = list(dict.fromkeys(r.site for r in result.records))
    shown = sites if full else sites[-1:]
    columns = ["step", "loss", "held-out", *result.measures]
    for site in shown:
        first = next(r for r in result.records if r.site == site)
        before = {r.measure: r.before for r in result.records if r.step == first.step and r.site == site}
        there = ", ".join(f"{name} {show.number(value)}" for name, value in before.items() if value is not None)
        rows = [_row(step, [r for r in result.records if (r.step, r.site) == (step, site)]) for step in result.steps]
        title = f"{site}, against {result.base}" + (f" ({there})" if there else "")
        show.paragraphs([f"{title}; {result.level:.0%} intervals over all steps together"])
        show.plain(columns, rows)
    if len(sites) > len(shown):
        show.paragraphs([f"{len(sites)} sites were read; --full prints all of them"])


def _row(step: int, records: list[StepRecord]) -> list[str]:
    first = records[0]
    same = "" if first.same_as is None else f" (= {first.same_as})"
    return [
        f"{step}{same}",
        show.number(first.loss),
        show.number(first.eval_loss),
        *(show.interval(r.estimate) for r in records),
    ]
