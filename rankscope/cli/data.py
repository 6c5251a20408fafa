"""``rankscope data check``: everything that is wrong with a data set, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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


def opened(spec: str, *, images: Path | None, regions: Path | None, answers: Path | None) -> str | ProbeSet:
    """What was typed; opened where something was said beside it."""
    if images is None and regions is None and answers is None:
        return spec
    from rankscope.data.open import open_data

    return open_data(spec, images=images, regions=regions, answers=answers)


def check(
    path: Annotated[Path, typer.Argument(help="A file or folder of any format that rankscope reads.")],
    images: Images = None,
    regions: Regions = None,
    answers: Answers = None,
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
