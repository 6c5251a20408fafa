"""``rankscope curve``: numbers of one run against the number of its rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli import show

if TYPE_CHECKING:
    from rankscope.results.runs import CurvePoint, Curves


def curve(
    run: Annotated[Path, typer.Argument(help="A run, or a checkpoint folder, which is collected first.")],
    measures: Annotated[
        str | None, typer.Option("--measures", "-m", help="Names, or file.py:function, by comma.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Which sites of the run.")] = "all",
    seed: Annotated[int, typer.Option(help="Of the division into parts.")] = 0,
    variant: show.Variant = "raw",
    allow_duplicates: show.AllowDuplicates = False,
    plot: Annotated[Path | None, typer.Option(help="Write the figure here, without suffix: SVG, PDF and PNG.")] = None,
    as_json: show.Json = False,
    as_csv: show.Csv = False,
    device: show.Device = None,
    quiet: show.Quiet = False,
) -> None:
    """Measure a run on the whole, on halves and on quarters of its samples, and take the limit where a law gives one.

    Example: rankscope curve lora.pt --measures entropy-rank,participation-ratio --plot curve
    """
    from rankscope.analysis.curves import DEFAULT_CURVES
    from rankscope.analysis.curves import curve as run_curve
    from rankscope.registry import named

    with show.progress("measuring", quiet=quiet) as progress:
        result = run_curve(
            run,
            named(measures) if measures else DEFAULT_CURVES,
            sites=layers,
            seed=seed,
            variant=variant,
            allow_duplicates=allow_duplicates,
            device=device,
            progress=progress,
        )
    show.records(result.to_records(), as_json=as_json, as_csv=as_csv, table=lambda: _table(result))
    show.figure(result, plot)


def _table(result: Curves) -> None:
    levels = list(dict.fromkeys(round(r.rows) for r in result.records))
    by_name: dict[tuple[str, str], list[CurvePoint]] = {}
    for record in result.records:
        by_name.setdefault((record.site, record.measure), []).append(record)
    lines = []
    for (site, measure), mine in by_name.items():
        at = {round(r.rows): f"{show.number(r.value)} ({show.number(r.noise)})" for r in mine}
        lines.append([site, measure, *(at.get(n, "") for n in levels), show.number(mine[0].limit)])
    title = f"{result.run}: value (of noise) by number of rows; {result.records[0].d} features"
    show.table(title, ["site", "measure", *(f"n = {n}" for n in levels), "limit"], lines)
    show.notes(result.records)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(curve)
