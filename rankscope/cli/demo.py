"""``rankscope demo``: the whole loop on the embedded checkpoint, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, echo

from rankscope.cli import interruption, options, show


def demo(
    out: Annotated[Path, Option(help="The folder for everything it produces.")] = Path("rankscope-demo"),
    steps: Annotated[int, Option(min=1, help="Training steps of each stage.")] = 100,
    samples: Annotated[int, Option(min=1, help="Held-out samples to read features on, at most 400.")] = 256,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Tune the embedded checkpoint with LoRA and with prefix then LoRA, collect all sites, compare, and draw.

    Example: rankscope demo --out demo
    """
    from rankscope.demo import run_demo

    with show.progress("demo", quiet=quiet, unit="parts") as progress, interruption.keeping(lambda: _kept(out)):
        result = run_demo(out, steps=steps, samples=samples, overwrite=overwrite, progress=progress)
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in result.losses.items())
    show.paragraphs([f"held-out loss: {losses}", ""])
    show.view(result.contrast, say=lambda records: None if quiet else show.notes(records))()
    echo(f"figure {out / 'compare.svg'}, table {out / 'compare.csv'}, checkpoints and runs beside them")


def _kept(out: Path) -> str:
    made = out.is_dir() and any(out.iterdir())
    return f"what was finished is kept in {out}, and the same command continues it" if made else ""
