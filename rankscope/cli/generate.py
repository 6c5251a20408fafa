"""``rankscope generate``: what a checkpoint says to each example."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankscope.cli import show
from rankscope.cli.data import Answers, Columns, Images, Regions, Restval, opened


def generate(
    checkpoint: Annotated[list[Path], typer.Argument(help="A checkpoint folder, or several in order: base, adapters.")],
    data: Annotated[str, typer.Option(help="The examples: a file, a folder, or scenes.")] = "scenes:captions/test",
    images: Images = None,
    regions: Regions = None,
    answers: Answers = None,
    columns: Columns = None,
    restval: Restval = True,
    out: Annotated[Path, typer.Option(help="Where the predictions go, a JSON object a line.")] = Path(
        "predictions.jsonl"
    ),
    batch_size: Annotated[int, typer.Option(help="Examples at once.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="The longest prediction, in tokens.")] = 48,
    num_beams: Annotated[int, typer.Option(help="1 for greedy.")] = 1,
    base_model: Annotated[str | None, typer.Option(help="The base, where the adapter's own record is wrong.")] = None,
    overwrite: show.Overwrite = False,
    device: show.Device = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow code that lies in the checkpoint to run.")
    ] = False,
    quiet: show.Quiet = False,
) -> None:
    """Write predictions, greedily or by beam search.

    Example: rankscope generate ptlora/ --data scenes:captions/test --out predictions.jsonl
    """
    from rankscope.checkpoint import Checkpoint
    from rankscope.tuning import generate as run_generate

    with show.progress("generating", quiet=quiet) as progress:
        said = run_generate(
            Checkpoint.read(checkpoint, base_model=base_model),
            opened(data, images=images, regions=regions, answers=answers, columns=columns, restval=restval),
            out=out,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            overwrite=overwrite,
            device=device,
            progress=progress,
            trust_remote_code=trust_remote_code,
        )
    if not quiet:
        show.note(f"{len(said)} predictions")
    typer.echo(out)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(generate)
