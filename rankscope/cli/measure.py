"""``rankscope measure``: named numbers of one run along its sites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli import show

if TYPE_CHECKING:
    from rankscope.results.runs import Measurement, RunRecord


def measure(
    run: Annotated[Path, typer.Argument(help="A run, or a checkpoint folder, which is collected first.")],
    measures: Annotated[
        str | None, typer.Option("--measures", "-m", help="Names, or file.py:function, by comma.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Which sites of the run.")] = "all",
    groups: Annotated[int, typer.Option(help="Groups of samples that the jackknife leaves out.")] = 20,
    variant: show.Variant = "raw",
    allow_duplicates: show.AllowDuplicates = False,
    as_json: show.Json = False,
    as_csv: show.Csv = False,
    plot: Annotated[Path | None, typer.Option(help="Write the figure here, without suffix: SVG, PDF and PNG.")] = None,
    base_model: show.BaseModel = None,
    device: show.Device = None,
    quiet: show.Quiet = False,
) -> None:
    """Measure a run: effective rank, stable rank, participation ratio, energy-90, the PT-PEFT ratio, and others by name.

    Example: rankscope measure lora.pt --measures roy-vetterli,stable-rank --json
    """
    from rankscope.analysis.measure import measure as run_measure
    from rankscope.registry import DEFAULT_DEFINITIONS, named

    chosen = named(measures) if measures else DEFAULT_DEFINITIONS
    with show.progress("measuring", quiet=quiet) as progress:
        result = run_measure(
            run,
            chosen,
            sites=layers,
            groups=groups,
            variant=variant,
            allow_duplicates=allow_duplicates,
            base_model=base_model,
            device=device,
            progress=progress,
        )
    show.records(result.to_records(), as_json=as_json, as_csv=as_csv, table=lambda: _table(result))
    show.figure(result, plot)


def _table(result: Measurement) -> None:
    by_site: dict[str, list[RunRecord]] = {}
    for record in result.records:
        by_site.setdefault(record.site, []).append(record)
    first = result.records[0]
    shape = f"{first.shape.dtype}; 95 % intervals over {first.shape.samples} samples"
    lines = [
        [site, str(r[0].shape.n), str(r[0].shape.d), *map(show.with_and_without_sinks, r)]
        for site, r in by_site.items()
    ]
    columns = ["site", "n", "d", *result.measures]
    if show.fits(columns, lines):
        show.table(f"{result.run}: {shape}", columns, lines)
    else:
        long = [
            [r.site, r.measure, show.with_and_without_sinks(r), show.number(r.noise), str(r.shape.n), str(r.shape.d)]
            for r in result.records
        ]
        show.table(f"{result.run}: {shape}", ["site", "measure", "value", "noise", "n", "d"], long, words=2)
    show.shares({r.site: show.percent(r.mean_share) for r in result.records})
    show.notes(result.records)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(measure)
