"""How the command line speaks: results on stdout as a table, JSON or CSV; progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from typer import echo

from rankscope.cli import streams
from rankscope.names import printable

if TYPE_CHECKING:
    from rankscope.results.record import Estimate, Span, Table
    from rankscope.results.runs import PairRecord, RunRecord


def note(text: str) -> None:
    """A line on stderr, or several. Parts of it may come from files, so that what a terminal would obey is left out."""
    echo(printable(text, keep="\n\t"), err=True)


def line(text: str) -> None:
    """A line of the result on stdout, or several, likewise without what a terminal would obey."""
    echo(printable(text, keep="\n\t"))


def made(path: Path) -> None:
    """The path of what a command has made, on stdout. That nobody reads it any more is no failure: the work is done."""
    try:
        echo(path)
    except streams.ReaderGone:
        streams.drop(sys.stdout)


def records(
    rows: Sequence[Mapping[str, Any]],
    *,
    as_json: bool,
    as_csv: bool,
    table: Callable[[], None],
    whole: Callable[[], Any] | None = None,
) -> None:
    """Print records in the form that was asked for: JSON (what ``whole`` returns, or a list), CSV, or what ``table`` prints."""
    if as_json:
        echo(json.dumps(whole() if whole else list(rows), indent=1, allow_nan=False))
    elif as_csv:
        import csv

        writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    else:
        table()


def figure(result: Table[Any], stem: Path | None) -> None:
    """Draw a result into ``stem.svg``, ``stem.pdf`` and ``stem.png``, where a stem is given, and name the files on stderr."""
    if stem is not None:
        from rankscope import plots

        for path in plots.save(result.plot(), stem):
            note(f"figure: {path}")


def table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]], *, words: int = 1) -> None:
    """Print a table; the first ``words`` columns are left-aligned, numbers are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Grid

    shown = Grid(title=printable(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        shown.add_column(printable(column), justify="left" if i < words else "right", overflow="fold")
    for line in lines:
        shown.add_row(*(printable(cell, keep="\n") for cell in line))
    Console(width=columns_there(), highlight=False, markup=False).print(shown)


def columns_there() -> int:
    """How wide a table may be: as the terminal, or as it is where it is read by a program or a pager."""
    return get_terminal_size().columns if sys.stdout.isatty() else 1000


def fits(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> bool:
    """Whether a table stays unbroken in the width there is."""
    return sum(2 + max(map(len, cells)) for cells in zip(columns, *lines, strict=True)) <= columns_there()


def notes(records: Sequence[Any]) -> None:
    """The notes of the records, on stderr: each once, with its measures and sites."""
    said: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for record in records:
        for text in record.notes:
            measures, sites = said.setdefault(text, ({}, {}))
            measures[record.measure], sites[record.site] = None, None
    everything = len({record.measure for record in records})
    for text, (measures, sites) in said.items():
        which = "every measure" if 1 < len(measures) == everything else ", ".join(measures)
        note(f"note: {which} at {', '.join(sites)}: {text}")


def number(value: float | None) -> str:
    """Four significant digits; a dash where there is no value."""
    return "–" if value is None else f"{value:.4g}"


def interval(estimate: Estimate) -> str:
    """``value [low, high]``."""
    return number(estimate.value) if estimate.low is None else f"{number(estimate.value)} {band(estimate)}"


def band(ends: Estimate | Span) -> str:
    """``[low, high]``; a dash where there is none."""
    return "–" if ends.low is None else f"[{number(ends.low)}, {number(ends.high)}]"


def percent(share: float) -> str:
    """A share as a whole percentage."""
    return f"{share:.0%}"


def shares(by_site: Mapping[str, str]) -> None:
    """The mean row's share of the energy at each site, on stderr."""
    listed = ", ".join(f"{site} {text}" for site, text in by_site.items())
    note(
        f"note: share of the energy that lies in the mean row and dominates uncentred measures (rankme, pt-peft): {listed}"
    )


def with_and_without_sinks(record: RunRecord | PairRecord) -> str:
    """The number with its interval, and beside it the number without rows of massive length, where there are any."""
    calm = "" if record.without_sinks is None else f" {number(record.without_sinks)} without sinks"
    return interval(record.estimate) + calm


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr with rate and time left; a line every 30 seconds where stderr is no terminal."""
    if quiet:
        yield lambda done, total, text: None
    elif not sys.stderr.isatty():
        yield _lines(what)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        layout = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*layout, TextColumn("{task.fields[text]}"), console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None, text="")
            yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)


def _lines(what: str) -> Callable[[int, int, str], None]:
    from time import monotonic

    last = monotonic()

    def line(done: int, total: int, text: str) -> None:
        nonlocal last
        if monotonic() - last >= 30:
            last = monotonic()
            note(f"{what}: {done} of {total}  {text}")

    return line
