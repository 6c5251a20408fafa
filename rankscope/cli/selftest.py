"""``rankscope selftest``: planted answers through the whole pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option, echo

from rankscope.cli import options, show
from rankscope.errors import UnknownName

if TYPE_CHECKING:
    from rankscope.selftest import Answer, Selftest

PLANTED = (
    "identical", "random rotation", "invertible reshape", "whitened", "top-16 collapse", "rank-1 collapse",
    "independent noise added", "independent features", "mean shift", "known rank", "row shift", "duplicated rows", "one sink",
    "every measure", "draws",
)  # fmt: skip
"""The planted answers by name, known without torch; a test holds them equal to those of the library."""


def check_planted(text: str) -> None:
    """Check the names of some planted answers. Raises :class:`UnknownName` if there is no such one."""
    for name in _names(text):
        if name not in PLANTED:
            raise UnknownName(f"there is no planted scenario {name!r}; the scenarios are {', '.join(PLANTED)}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def selftest(
    printing: options.Printing,
    only: Annotated[
        str | None,
        Option(
            callback=options.refusing(check_planted), help="Only these planted answers, comma-separated. Default: all."
        ),
    ] = None,
) -> None:
    """Run planted answers through the whole pipeline, and show the value of each measure beside the expected one.

    Exits with status 1 if an answer lies outside its tolerance. Example: rankscope selftest
    """
    from rankscope.selftest import run

    with printing.progress("selftest", unit="answers") as progress:
        result = run(_names(only) if only else None, progress=progress)
    printing.records(result.to_records(), lambda: _tables(result))
    for answer in result.wrong:
        show.note(f"wrong: {answer.scenario}: {answer.measure} said {_said(answer)}, expected {_expected(answer)}")
    if result.wrong:
        raise Exit(1)


def _tables(result: Selftest) -> None:
    from rankscope.selftest import COLUMNS
    from rankscope.selftest.planted import DISSOCIATION

    names = [s.name for s in DISSOCIATION]
    cells = {(a.scenario, a.measure): _cell(a) for a in result.answers}
    shown = [name for name in names if any(a.scenario == name for a in result.answers)]
    lines = [[name, *(cells.get((name, column), "") for column in COLUMNS)] for name in shown]
    title = "The dissociation table: said (expected); ranks of the tuned run, 4096 rows of 256 features"
    if lines:
        show.table(title, ["planted", *COLUMNS], lines)
    others = [a for a in result.answers if a.scenario not in names]
    if others:
        rest = [[a.scenario, a.measure, _said(a), _expected(a), "yes" if a.right else "NO", a.truth] for a in others]
        show.table("Other planted answers", ["planted", "measure", "said", "expected", "right", "what is true"], rest)
    right = len(result.answers) - len(result.wrong)
    echo(f"{right} of {len(result.answers)} answers lie within their tolerance")


def _cell(answer: Answer) -> str:
    return f"{_said(answer)} ({_expected(answer)}){'' if answer.right else ' WRONG'}"


def _said(answer: Answer) -> str:
    return "refused" if answer.value is None else f"{answer.value:.3g}"


def _expected(answer: Answer) -> str:
    return "refuse" if answer.expected is None else f"{answer.expected:.3g}"
