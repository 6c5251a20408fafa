"""``rankscope compare``: two runs on the same rows, against each other or both against a base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from rankscope.cli import arms, show
from rankscope.errors import UsageError

if TYPE_CHECKING:
    from rankscope.results.arms import ArmContrast
    from rankscope.results.runs import Contrast, PairRecord


def compare(
    a: Annotated[Path | None, typer.Argument(help="A run, or a checkpoint folder, which is collected first.")] = None,
    b: Annotated[Path | None, typer.Argument(help="The other.")] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="Instead of two runs: name=pattern of an arm's runs; several times.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The pre-trained run; changes are signed against it.")] = None,
    again: Annotated[
        Path | None,
        typer.Option(help="The reference collected once more, in another batch size or dtype: what it scores itself."),
    ] = None,
    measures: Annotated[
        str | None, typer.Option("--measures", "-m", help="Names, or file.py:function, by comma; usage-1..8 are eight.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Which sites of the runs.")] = "all",
    permutations: Annotated[
        int, typer.Option(help="Shuffles of the samples, for a p-value of each relation against none.")
    ] = 0,
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
    base_model: show.BaseModel = None,
    device: show.Device = None,
    quiet: show.Quiet = False,
) -> None:
    """Compare two runs: changes of rank, similarity, overlap, recoverability and drift, with paired intervals.

    Of several runs of a recipe that differ in seed --arm makes one arm: seed noise and row noise are told apart, and each
    arm gets a verdict at each site.

    Example: rankscope compare lora.pt ptlora.pt --base pretrained.pt --plot

    Example: rankscope compare --arm lora=lora-s*.pt --arm ptlora=ptlora-s*.pt --base pretrained.pt
    """
    of_two: dict[str, Any] = {
        "common_rows": common_rows,
        "base_model": base_model,
        "again": again,
        "permutations": permutations,
    }
    if arm and (a or b or any(of_two.values())):
        raise UsageError(
            "--arm takes the place of the two runs, and needs runs with the same rows; "
            f"{', '.join(sorted(of_two)).replace('_', '-')} are for two"
        )
    options: dict[str, Any] = {"base": base, "sites": layers, "groups": groups, "variant": variant, "device": device}
    options |= {"allow_duplicates": allow_duplicates}
    if measures:
        from rankscope.registry import named

        options["measures"] = named(measures)
    with show.progress("comparing", quiet=quiet) as progress:
        options["progress"] = progress
        shown = _arms(arm, options) if arm else _two(a, b, {**options, **of_two})
    for text in () if quiet else shown.result.notes:
        show.note(f"note: {text}")
    show.records(shown.result.to_records(), as_json=as_json, as_csv=as_csv, table=shown.table)
    show.figure(shown.result, (out or Path(shown.name)) if plot else None)


class _Shown(NamedTuple):
    """A result, how it is printed, and what its figure is called."""

    result: Contrast | ArmContrast
    table: Callable[[], None]
    name: str


def _two(a: Path | None, b: Path | None, options: dict[str, Any]) -> _Shown:
    from rankscope.analysis.compare import compare as run_compare

    if a is None or b is None:
        raise UsageError("give two runs to compare, or --arm name=pattern for several of each recipe")
    result = run_compare(a, b, **options)
    return _Shown(result, lambda: _table(result), f"{result.names[0]}-{result.names[1]}")


def _arms(given: list[str], options: dict[str, Any]) -> _Shown:
    from rankscope.analysis.arms import compare_arms

    result = compare_arms(arms.named_arms(given), **options)
    return _Shown(result, lambda: arms.table(result), "-".join(result.arms))


def _table(result: Contrast) -> None:
    a, b, *base = result.names
    first = result.records[0]
    against = f", against {base[0]}" if base else ""
    title = f"{a} (a) and {b} (b){against}; {result.rows}; {first.shape.dtype}; 95 % intervals over {first.shape.samples} samples"
    columns = ["site", "measure", "a", "b", "b − a, or a → b", "all sites", "p", "noise", "itself"]
    shuffled = any(r.p_unrelated is not None for r in result.records)
    lines = [_line(r) + [show.number(r.p_unrelated)] * shuffled for r in result.records]
    show.table(title, columns + ["p unrelated"] * shuffled, lines, words=2)
    show.shares({r.site: f"{show.percent(r.mean_share)} and {show.percent(r.mean_share_b)}" for r in result.records})
    show.notes(result.records)


def _line(r: PairRecord) -> list[str]:
    estimates = [show.interval(r.a), show.interval(r.b), show.with_and_without_sinks(r), show.band(r.band)]
    return [r.site, r.measure, *estimates, *(show.number(x) for x in (r.p, r.noise, r.itself))]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(compare)
