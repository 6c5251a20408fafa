"""``rankscope definitions``: every measure by name, with its formula, source, range and bias."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli import show

if TYPE_CHECKING:
    from rankscope.definition import Comparison, Definition


def definitions(
    name: Annotated[str | None, typer.Argument(help="One measure; all without it.")] = None, as_json: show.Json = False
) -> None:
    """List every measure: formula, citation, range and bias.

    Example: rankscope definitions participation-ratio
    """
    from rankscope.registry import COMPARISONS, DEFINITIONS, known

    found: list[Definition | Comparison] = [known(name)] if name else [*DEFINITIONS.values(), *COMPARISONS.values()]
    rows = [_record(measure) for measure in found]
    if name and not as_json:
        for key, value in rows[0].items():
            typer.echo(f"{key:>12}  {value}")
        return
    lines = [[str(r["name"]), str(r["reads"]), str(r["formula"]), f"{r['low']} … {r['high']}"] for r in rows]
    table = show.table
    show.records(
        rows,
        as_json=as_json,
        as_csv=False,
        table=lambda: table(f"{len(rows)} measures", ["name", "reads", "formula", "range"], lines, words=4),
    )


def _record(measure: Definition | Comparison) -> dict[str, object]:
    """Everything that is said of a measure, without its functions."""
    told = {f.name: getattr(measure, f.name) for f in fields(measure)}
    return {name: value for name, value in told.items() if not callable(value) and value is not None}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(definitions)
