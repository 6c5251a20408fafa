"""``rankscope definitions``: every measure by name, with its formula, source, range and bias."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

import typer

from rankscope.cli import show


def definitions(
    name: Annotated[str | None, typer.Argument(help="One measure; all without it.")] = None, as_json: show.Json = False
) -> None:
    """List every measure: formula, citation, range and bias.

    Example: rankscope definitions participation-ratio
    """
    from rankscope.registry import COMPARISONS, DEFINITIONS, known

    found = [known(name)] if name else [*DEFINITIONS.values(), *COMPARISONS.values()]
    rows = [{f.name: getattr(d, f.name) for f in fields(d) if f.name != "function"} for d in found]
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
        table=lambda: table(f"{len(rows)} measures", ["name", "reads", "formula", "range"], lines),
    )


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(definitions)
