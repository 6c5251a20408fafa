"""How the command line speaks: results on stdout as a table, JSON or CSV; progress and notes on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from time import monotonic
from typing import TYPE_CHECKING, Any

from typer import echo

from rankscope.cli import streams
from rankscope.names import file_name, printable

if TYPE_CHECKING:
    from rankscope.results.claims import Account
    from rankscope.results.examples import Examples
    from rankscope.results.glance import Glanced
    from rankscope.results.record import Estimate, Span, Table
    from rankscope.results.runs import PairRecord, RunRecord

WIDEST = 100
"""The longest lines of a paragraph, which the eye still follows."""


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


KINDS = ("svg", "pdf", "png")
"""The kinds of figures."""


def figure(result: Table[Any], plot: Path | None, name: str, *, quiet: bool = False) -> None:
    """Draw a result, where a path is given, and name the files on stderr.

    Args:
        result: the result.
        plot: the path without suffix, or with that of the one kind that is wanted, or a folder; None for no figure.
        name: what the figure is called in a folder.
        quiet: whether the files are not named.
    """
    if plot is None:
        return
    from rankscope import plots

    one = plot.suffix.removeprefix(".").lower()
    stem = plot / file_name(name) if plot.is_dir() else plot.with_suffix("") if one in KINDS else plot
    for path in plots.save(result.plot(), stem, (one,) if one in KINDS and not plot.is_dir() else KINDS):
        if not quiet:
            note(f"figure: {path}")


def table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]], *, words: int = 1) -> None:
    """Print a table; the first ``words`` columns are left-aligned, numbers are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Grid

    shown = Grid(title=printable(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    least = [
        max(len(word) for cell in cells for word in f"{cell} ".split(" "))
        for cells in zip(columns, *lines, strict=True)
    ]
    for i, column in enumerate(columns):
        # No word is broken: a table that does not fit is wider than the terminal instead
        shown.add_column(printable(column), justify="left" if i < words else "right", min_width=least[i])
    for line in lines:
        shown.add_row(*(printable(cell, keep="\n") for cell in line))
    width = max(columns_there(), sum(2 + one for one in least))
    Console(width=width, highlight=False, markup=False).print(shown)


def columns_there() -> int:
    """How wide a table may be: as the terminal, or as it is where it is read by a program or a pager."""
    return get_terminal_size().columns if sys.stdout.isatty() else 1000


def view(
    result: Glanced,
    *,
    say: Callable[[Sequence[Any]], None],
    full: bool = False,
    named: bool = False,
    records: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """What prints a result: its notes, one row a site or every record, and last the verdict.

    Args:
        result: the result.
        say: prints the notes of records.
        full: whether every record and every sentence is printed.
        named: whether every record is printed because their measures were asked for.
        records: prints them.
    """

    def printed() -> None:
        if full or named:
            say(result.records)
            records()
        else:
            from rankscope.results.glance import glance, relied_on

            say([r for r in result.records if r.measure in relied_on(result)])
            small = glance(result)
            paragraphs([small.title])
            plain(small.columns, small.rows)
            paragraphs(small.below)
        verdict(result.verdict, full=full)

    return printed


def verdict(found: Account, *, full: bool = False) -> None:
    """The verdict, on stdout: of each run what tells most and a line a meaning, or with ``full`` every sentence."""
    line("")
    if full or not found.briefs:
        headline = [f"Verdict: {found.headline}."] if found.claims else []
        paragraphs([*headline, *(f"· {text}" for text in found.sentences)])
        return
    paragraphs(["Verdict, each change where it is largest:"])
    for one in found.briefs:
        paragraphs([one.lead])
        width = max(map(len, one.lines), default=0)
        for meaning, text in one.lines.items():
            paragraphs([f"{meaning.ljust(width)}  {text}"], indent=2, hanging=4 + width)
    paragraphs([found.proviso])


def plain(columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 0) -> None:
    """A small table without lines, on stdout: the first column and the last ``texts`` to the left, the others to the right."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    left = {0, *range(len(columns) - texts, len(columns))}
    for cells in (columns, *rows):
        padded = (
            (printable(cell).ljust if i in left else printable(cell).rjust)(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        line("  ".join(padded).rstrip())


def examples(found: Examples) -> None:
    """The samples and tokens that moved most, and the directions of the change, on stdout."""
    for one in found.listings():
        line("")
        paragraphs([one.title] if one.title else [])
        plain(one.columns, one.rows, texts=1)


def paragraphs(texts: Sequence[str], *, indent: int = 0, hanging: int = 2) -> None:
    """Each text on lines that fit, on stdout; no word is broken.

    Args:
        texts: the texts.
        indent: spaces before the first line of each.
        hanging: spaces before its other lines.
    """
    from textwrap import wrap

    width, joined = min(columns_there(), WIDEST), "\ue000"
    for text in texts:
        # A number and its per cent sign stay on one line
        lines = wrap(
            text.replace(" %", f"{joined}%"),
            width,
            initial_indent=" " * indent,
            subsequent_indent=" " * hanging,
            break_long_words=False,
            break_on_hyphens=False,
        )
        line("\n".join(lines).replace(joined, " "))


def fits(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> bool:
    """Whether a table stays unbroken in the width there is."""
    return sum(2 + max(map(len, cells)) for cells in zip(columns, *lines, strict=True)) <= columns_there()


def notes(records: Sequence[Any]) -> None:
    """The notes of the records, on stderr: each kind once, with its measures and the number of its sites."""
    said: dict[str, tuple[dict[str, None], dict[str, None], dict[str, None]]] = {}
    for record in records:
        for text in record.notes:
            kind = _NUMBER.sub("#", text.replace(record.site, "#"))
            texts, measures, sites = said.setdefault(kind, ({}, {}, {}))
            texts[text], measures[record.measure], sites[record.site] = None, None, None
    everything, everywhere = ({getattr(record, of) for record in records} for of in ("measure", "site"))
    for texts, measures, sites in said.values():
        which = "every measure" if 1 < len(measures) == len(everything) else ", ".join(measures)
        first, *others = texts
        alike = f" ({len(others)} more with other numbers)" if others else ""
        where = "every site" if 1 < len(sites) == len(everywhere) else f"{len(sites)} of {len(everywhere)} sites"
        where = where if len(sites) > 1 else next(iter(sites))
        note(f"note: {which} at {where}: {first}{alike}")


_NUMBER = re.compile(r"\d[\d.,]*")


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


class Pace:
    """How fast work goes, from where it began or was taken up again."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.begun: tuple[float, int] | None = None

    def words(self, done: int, total: int) -> str:
        """``310 tokens/s, 2 min left``; nothing before there is a pace."""
        now = monotonic()
        self.begun = self.begun or (now, done)
        since, first = now - self.begun[0], done - self.begun[1]
        if first <= 0 or since <= 0:
            return ""
        return f"{first / since:,.3g} {self.unit}/s, {duration((total - done) * since / first)} left"


def duration(seconds: float) -> str:
    """A time in its largest fitting unit: ``40 s``, ``12 min``, ``3.5 h``."""
    for unit, size, until in (("s", 1, 100), ("min", 60, 100 * 60)):
        if seconds < until:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"


@contextmanager
def progress(what: str, *, quiet: bool = False, unit: str = "sites") -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr with rate and time left; a line every 30 seconds where stderr is no terminal.

    Args:
        what: what is done.
        quiet: whether nothing is shown.
        unit: what is counted.
    """
    pace = Pace(unit)
    if quiet:
        yield lambda done, total, text: None
    elif not sys.stderr.isatty():
        yield _lines(what, pace)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        layout = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        with Progress(*layout, TextColumn("{task.fields[text]}"), console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None, text="", pace="")
            yield lambda done, total, text: bar.update(
                task, completed=done, total=total, text=text, pace=pace.words(done, total)
            )


def _lines(what: str, pace: Pace) -> Callable[[int, int, str], None]:
    last = monotonic()

    def line(done: int, total: int, text: str) -> None:
        nonlocal last
        speed = pace.words(done, total)
        if monotonic() - last >= 30:
            last = monotonic()
            note(f"{what}: {done:,} of {total:,} {pace.unit}, {speed}  {text}")

    return line
