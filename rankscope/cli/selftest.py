"""``rankscope selftest``: planted answers through the whole pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli import show

if TYPE_CHECKING:
    from rankscope.selftest import Answer, Selftest


def selftest(
    only: Annotated[str | None, typer.Option(help="Some planted answers, by comma; all without it.")] = None,
    as_json: show.Json = False,
    as_csv: show.Csv = False,
    quiet: show.Quiet = False,
) -> None:
    """Put planted answers through the whole pipeline: what each measure said, and what it had to say.

    Ends with 1 if an answer lies outside its tolerance. Example: rankscope selftest
    """
    from rankscope.selftest import run

    names = [name.strip() for name in only.split(",")] if only else None
    with show.progress("selftest", quiet=quiet) as progress:
        result = run(names, progress=progress)
    show.records(result.to_records(), as_json=as_json, as_csv=as_csv, table=lambda: _tables(result))
    for answer in result.wrong:
        show.note(f"wrong: {answer.scenario}: {answer.measure} said {_said(answer)}, expected {_expected(answer)}")
    if result.wrong:
        raise typer.Exit(1)


def _tables(result: Selftest) -> None:
    from rankscope.selftest import COLUMNS
    from rankscope.selftest.planted import DISSOCIATION

    names = [s.name for s in DISSOCIATION]
    cells = {(a.scenario, a.measure): a for a in result.answers}
    lines = [
        [name, *(_cell(cells.get((name, column))) for column in COLUMNS)]
        for name in names
        if any(a.scenario == name for a in result.answers)
    ]
    title = "The dissociation table: said (expected); ranks of the tuned run, 4096 rows of 256 features"
    if lines:
        show.table(title, ["planted", *COLUMNS], lines)
    others = [a for a in result.answers if a.scenario not in names]
    if others:
        rest = [[a.scenario, a.measure, _said(a), _expected(a), "yes" if a.right else "NO", a.truth] for a in others]
        show.table("Other planted answers", ["planted", "measure", "said", "expected", "right", "what is true"], rest)
    right = len(result.answers) - len(result.wrong)
    typer.echo(f"{right} of {len(result.answers)} answers lie within their tolerance")


def _cell(answer: Answer | None) -> str:
    if answer is None:
        return ""
    return f"{_said(answer)} ({_expected(answer)}){'' if answer.right else ' WRONG'}"


def _said(answer: Answer) -> str:
    return "refused" if answer.value is None else f"{answer.value:.3g}"


def _expected(answer: Answer) -> str:
    return "refuse" if answer.expected is None else f"{answer.expected:.3g}"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(selftest)
