"""``rankscope inspect``: what a checkpoint is, and what collecting it would cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rankscope.cli import show


def inspect(
    checkpoint: Annotated[list[Path], typer.Argument(help="A checkpoint folder, or several in order: base, adapters.")],
    base_model: Annotated[str | None, typer.Option(help="The base, where the adapter's own record is wrong.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Allow code that lies in the checkpoint to run.")] = False,
    as_json: show.Json = False,
) -> None:
    """Tell what a checkpoint is: its base, its tunings in order and whether each lands, its sites and widths.

    Example: rankscope inspect lora/
    """
    from rankscope.pipeline.collect import describe

    found = describe(checkpoint, base_model=base_model, trust_remote_code=trust_remote_code)
    if as_json:
        import json

        typer.echo(json.dumps(asdict(found), indent=1, default=str))
        return
    typer.echo(found.in_words())


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(inspect)
