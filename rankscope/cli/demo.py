"""``rankscope demo``: the whole loop on the embedded checkpoint, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option, echo

from rankscope.cli import options, show

if TYPE_CHECKING:
    from rankscope.demo import Demo


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

    with show.progress("demo", quiet=quiet) as progress:
        result = run_demo(out, steps=steps, samples=samples, overwrite=overwrite, progress=progress)
    _table(result)
    echo(f"figure {out / 'compare.svg'}, table {out / 'compare.csv'}, checkpoints and runs beside them")


def _table(result: Demo) -> None:
    from rankscope.demo import SHOWN
    from rankscope.sites import Site

    a, b, base = result.contrast.names
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in result.losses.items())
    last = {Site.parse(r.site).stack: r.site for r in result.contrast.records}
    lines = [
        [r.site, r.measure, *map(show.interval, (r.a, r.b, r.estimate))]
        for r in result.contrast.records
        if r.site in last.values() and r.measure in SHOWN
    ]
    title = f"against {base} (ranks: change; others: relation); held-out loss: {losses}"
    show.table(title, ["last site", "measure", a, b, f"{b} − {a}"], lines, words=2)
