"""``rankscope show``: a report read back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument

from rankscope.cli import early, options, show
from rankscope.cli.compare import every_record


def show_(
    source: Annotated[
        Path, Argument(metavar="REPORT", help="A report: the HTML file that report or compare --report wrote.")
    ],
    printing: options.Printing,
    full: options.Full = False,
) -> None:
    """Print what a report holds: of each comparison in it one row a site and the verdict. Nothing in the file is run.

    Example: rankscope show report.html --json
    """
    early.need_file(source)
    import rankscope

    with printing.progress("reading"):
        results = rankscope.open_report(source)
    say, quiet = printing.notes_of, printing.quiet
    printed = [
        show.view(result, full=full, records=partial(every_record, result, quiet=quiet), say=say) for result in results
    ]

    def tables() -> None:
        for number, (result, table) in enumerate(zip(results, printed, strict=True)):
            if number:
                show.line("")
            printing.notes(result.notes)
            table()

    found = [result.to_json() for result in results]
    rows = [row for result in results for row in result.to_records()]
    printing.records(rows, tables, lambda: found if found[1:] else found[0])
