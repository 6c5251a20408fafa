"""``rankscope generate``: what a checkpoint says to each example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option, echo

from rankscope.cli import options, show


@dataclass(frozen=True)
class Generating:
    """How predictions are made and where they go; fields are named as :func:`rankscope.generate` names them."""

    out: Annotated[Path, Option(help="The predictions, one JSON object on each line.")] = Path("predictions.jsonl")
    batch_size: Annotated[int, Option(help="Examples in a batch.")] = 16
    max_new_tokens: Annotated[int, Option(help="Tokens of the longest prediction.")] = 48
    num_beams: Annotated[int, Option(help="Beams; 1 for greedy search.")] = 1
    overwrite: options.Overwrite = False
    device: options.Device = None
    trust_remote_code: options.TrustRemoteCode = False


def generate(
    checkpoint: options.Checkpoint,
    probes: options.Data,
    how: Generating,
    data: Annotated[
        str | None, Option(help="The examples: a file or folder. Default: scenes, for the embedded model only.")
    ] = None,
    base_model: options.BaseModel = None,
    quiet: options.Quiet = False,
) -> None:
    """Write predictions, greedily or by beam search.

    Example: rankscope generate ptlora/ --data scenes:captions/test --out predictions.jsonl
    """
    import rankscope
    from rankscope.checkpoint import Checkpoint

    with show.progress("generating", quiet=quiet) as progress:
        opened = Checkpoint.read(checkpoint, base_model=base_model)
        examples = probes.open(options.or_scenes(data, opened, "captions/test"))
        predictions = rankscope.generate(opened, examples, **vars(how), progress=progress)
    if not quiet:
        show.note(f"{len(predictions)} predictions")
    echo(how.out)
