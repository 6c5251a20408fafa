"""``rankscope verify``: every byte that a run stored, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankscope.cli import show


def verify(run: Annotated[Path, typer.Argument(help="A run: a folder, a .pt or a .safetensors file.")]) -> None:
    """Check every byte of a run against the checksums that were stored with it.

    Example: rankscope verify lora.pt
    """
    from rankscope.store import open_run

    report = open_run(run).verify()
    for problem in report.problems[1:]:
        show.note(problem.message)
    report.check()
    typer.echo(f"{run}: {report.files} files, {show.size(report.bytes)}, every byte as it was written")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(verify)
