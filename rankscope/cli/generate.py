"""``rankscope generate``: what a checkpoint says to each example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from rankscope.checkpoint import fetching
from rankscope.cli import early, options, show


@dataclass(frozen=True)
class Generating:
    """How predictions are made and where they go; fields are named as :func:`rankscope.generate` names them."""

    out: Annotated[Path, Option(help="The predictions file, one JSON object per line.")] = Path("predictions.jsonl")
    batch_size: Annotated[int, Option(min=1, help="Examples per batch.")] = 16
    max_new_tokens: Annotated[int, Option(min=1, help="Maximum tokens per prediction.")] = 48
    num_beams: Annotated[int, Option(min=1, help="Beams; 1 for greedy search.")] = 1
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
    download: options.Download = False,
    quiet: options.Quiet = False,
) -> None:
    """Generate predictions, greedily or by beam search.

    Example: rankscope generate ptlora/ --data scenes:captions/test --out predictions.jsonl
    """
    if download:
        fetching.fetch(checkpoint, base_model=base_model)
    early.need_checkpoint(checkpoint, base_model=base_model)
    early.need_data(data)
    early.need_free(how.out, overwrite=how.overwrite)
    from rankscope.checkpoint import Checkpoint

    opened = Checkpoint.read(checkpoint, base_model=base_model)
    examples = probes.open(options.or_scenes(data, opened, "captions/test"))
    import rankscope

    with show.progress("generating", quiet=quiet, unit="samples") as progress:
        predictions = rankscope.generate(opened, examples, **vars(how), progress=progress)
    if not quiet:
        show.note(f"{len(predictions)} predictions")
    show.made(how.out)
