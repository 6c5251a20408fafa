"""``rankscope data check``: everything that is wrong with a data set, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    path: Annotated[Path, typer.Argument(help="A file or folder of any format that rankscope reads.")],
    images: Annotated[Path | None, typer.Option(help="The folder of the images.")] = None,
    regions: Annotated[Path | None, typer.Option(help="Region features: TSV, npz or safetensors.")] = None,
    answers: Annotated[Path | None, typer.Option(help="VQAv2 annotations, for a file of questions.")] = None,
) -> None:
    """Tell what a data set is and all that is wrong with it. Ends with status 3 where it cannot be used.

    Example: rankscope data check dataset_coco.json --images coco/
    """
    from rankscope.data.open import check as run_check

    report = run_check(path, images=images, regions=regions, answers=answers)
    typer.echo(str(report))
    if report.faults:
        raise typer.Exit(3)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    group = typer.Typer(help="Look at data sets.", no_args_is_help=True)
    group.command()(check)
    group.callback()(lambda: None)
    app.add_typer(group, name="data")
