"""``rankscope generate``: what a checkpoint says to each example."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from rankscope.cli import options, show


def generate(
    checkpoint: options.Checkpoint,
    probes: options.Data,
    data: Annotated[str, Option(help="The examples: a file, a folder, or scenes.")] = "scenes:captions/test",
    out: Annotated[Path, Option(help="The predictions, one JSON object on each line.")] = Path("predictions.jsonl"),
    batch_size: Annotated[int, Option(help="Examples in a batch.")] = 16,
    max_new_tokens: Annotated[int, Option(help="Tokens of the longest prediction.")] = 48,
    num_beams: Annotated[int, Option(help="Beams; 1 for greedy search.")] = 1,
    base_model: options.BaseModel = None,
    overwrite: options.Overwrite = False,
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    quiet: options.Quiet = False,
) -> None:
    """Write predictions, greedily or by beam search.

    Example: rankscope generate ptlora/ --data scenes:captions/test --out predictions.jsonl
    """
    import rankscope
    from rankscope.checkpoint import Checkpoint

    with show.progress("generating", quiet=quiet) as progress:
        said = rankscope.generate(
            Checkpoint.read(checkpoint, base_model=base_model),
            probes.open(data),
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
