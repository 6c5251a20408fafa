"""``rankscope compare``: two runs on the same rows, against each other or both against a base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli import show

if TYPE_CHECKING:
    from rankscope.result import Contrast


def compare(
    a: Annotated[Path, typer.Argument(help="A run, or a checkpoint folder, which is collected first.")],
    b: Annotated[Path, typer.Argument(help="The other.")],
    base: Annotated[Path | None, typer.Option(help="The pre-trained run; changes are signed against it.")] = None,
    measures: Annotated[
        str | None, typer.Option("--measures", "-m", help="Names, or file.py:function, by comma.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Which sites of the runs.")] = "all",
    groups: Annotated[int, typer.Option(help="Groups of samples that the jackknife leaves out.")] = 20,
    variant: show.Variant = "raw",
    allow_duplicates: show.AllowDuplicates = False,
    common_rows: Annotated[bool, typer.Option(help="Where the rows differ, use those that both have.")] = False,
    plot: Annotated[bool, typer.Option(help="Draw the figure: SVG, PDF and PNG.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where the figure goes, without suffix. Default: A-B beside you.")
    ] = None,
    as_json: show.Json = False,
    as_csv: show.Csv = False,
    device: show.Device = None,
    quiet: show.Quiet = False,
) -> None:
    """Compare two runs: changes of rank, similarity, overlap, recoverability and drift, with paired intervals.

    Example: rankscope compare lora.pt ptlora.pt --base pretrained.pt --plot
    """
    from rankscope.pipeline.comparing import compare as run_compare
    from rankscope.registry import DEFAULT_COMPARED, named

    chosen = named(measures) if measures else DEFAULT_COMPARED
    with show.progress("comparing", quiet=quiet) as progress:
        result = run_compare(
            a,
            b,
            base=base,
            measures=chosen,
            sites=layers,
            groups=groups,
            common_rows=common_rows,
            variant=variant,
            allow_duplicates=allow_duplicates,
            device=device,
            progress=progress,
        )
    for text in () if quiet else result.notes:
        show.note(f"note: {text}")
    show.records(result.to_records(), as_json=as_json, as_csv=as_csv, table=lambda: _table(result))
    if plot:
        from rankscope import plots

        for path in plots.save(result.plot(), out or Path(f"{result.names[0]}-{result.names[1]}")):
            show.note(f"figure: {path}")


def _table(result: Contrast) -> None:
    a, b, *base = result.names
    first = result.records[0]
    against = f", against {base[0]}" if base else ""
    title = f"{a} (a) and {b} (b){against}; {result.rows}; {first.dtype}; 95 % intervals over {first.samples} samples"
    lines = [
        [
            r.site,
            r.measure,
            show.interval(r.a, r.a_low, r.a_high),
            show.interval(r.b, r.b_low, r.b_high),
            " ".join(filter(None, (show.interval(r.value, r.low, r.high), show.calm(r)))),
            show.number(r.noise),
            show.number(r.itself),
        ]
        for r in result.records
    ]
    show.table(title, ["site", "measure", "a", "b", "b − a, or a → b", "noise", "itself"], lines, words=2)
    shares = {r.site: f"{show.percent(r.mean_share)} and {show.percent(r.mean_share_b)}" for r in result.records}
    show.shares(shares)
    show.notes(result.records)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(compare)
