"""``rankscope demo``: the whole loop on the embedded checkpoint, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankscope.cli import show


def demo(
    out: Annotated[Path, typer.Option(help="The folder for checkpoints, runs, figures and tables.")] = Path(
        "rankscope-demo"
    ),
    steps: Annotated[int, typer.Option(help="Training steps of each tuning.")] = 150,
    samples: Annotated[int, typer.Option(help="Held-out samples to read features on.")] = 256,
    overwrite: show.Overwrite = False,
    quiet: show.Quiet = False,
) -> None:
    """Tune the embedded checkpoint with LoRA and with prefix then LoRA, collect all sites, compare, and draw.

    Example: rankscope demo --out demo
    """
    from rankscope.demo import run_demo

    with show.progress("demo", quiet=quiet) as progress:
        result = run_demo(out, steps=steps, samples=samples, overwrite=overwrite, progress=progress)
    show.table(
        "what each tuning kept of the pre-trained space, at the last site of each stack", result.columns, result.lines
    )
    typer.echo(f"figures and tables in {out}")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(demo)
