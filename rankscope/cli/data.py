"""``rankscope data check``: everything that is wrong with a data set, in one pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.errors import UsageError

if TYPE_CHECKING:
    from rankscope.data.probes import ProbeSet

Images = Annotated[Path | None, typer.Option(help="The folder of the images, where they do not lie beside the data.")]
Regions = Annotated[
    Path | None, typer.Option(help="Region features for models that read those (VinVL): TSV, npz or safetensors.")
]
Answers = Annotated[
    Path | None,
    typer.Option(help="VQAv2 annotations, where they do not lie beside the questions under their own name."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="Which column holds a field, as targets=summary; repeated for several fields."),
]

Restval = Annotated[
    bool, typer.Option("--restval/--no-restval", help="Karpathy's COCO: count restval as train, as papers do.")
]


def opened(
    spec: str,
    *,
    images: Path | None,
    regions: Path | None,
    answers: Path | None,
    columns: list[str] | None,
    restval: bool = True,
) -> str | ProbeSet:
    """What was typed; opened where something was said beside it."""
    if images is None and regions is None and answers is None and not columns and restval:
        return spec
    from rankscope.data.open import open_data

    given = fields(columns)
    return open_data(spec, images=images, regions=regions, answers=answers, columns=given, restval=restval)


def fields(columns: list[str] | None) -> dict[str, str]:
    """``["targets=summary"]`` as ``{"targets": "summary"}``.

    Raises:
        UsageError: if one is not written so.
    """
    pairs = [column.partition("=") for column in columns or ()]
    if wrong := next((column for column, pair in zip(columns or (), pairs, strict=True) if not all(pair)), None):
        raise UsageError(f"a column is told as FIELD=NAME, as --column targets=summary; got {wrong!r}")
    return {field: name for field, _, name in pairs}


def check(
    path: Annotated[str, typer.Argument(help="A file or folder of any format that rankscope reads, or PATH:SPLIT.")],
    images: Images = None,
    regions: Regions = None,
    answers: Answers = None,
    columns: Columns = None,
    restval: Restval = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Tell what a data set is and all that is wrong with it. Ends with status 3 where it cannot be used.

    Example: rankscope data check dataset_coco.json --images coco/
    """
    from rankscope.data import check as run_check

    given = fields(columns)
    report = run_check(path, images=images, regions=regions, answers=answers, columns=given, restval=restval)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else str(report))
    if report.faults:
        raise typer.Exit(3)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    group = typer.Typer(help="Look at data sets.", no_args_is_help=True)
    group.command()(check)
    group.callback()(lambda: None)
    app.add_typer(group, name="data")
