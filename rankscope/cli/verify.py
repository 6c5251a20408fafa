"""``rankscope verify``: every byte that a run stored, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(run: Annotated[Path, typer.Argument(help="A run: a folder, a .pt or a .safetensors file.")]) -> None:
    """Check every byte of a run against the checksums that were stored with it.

    Example: rankscope verify lora.pt
    """
    from rankscope.store import open_run

    typer.echo(open_run(run).verify())


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(verify)
