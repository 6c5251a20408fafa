"""``rankscope collect``: a checkpoint's features at the chosen sites, stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option, echo

from rankscope.cli import options, show

if TYPE_CHECKING:
    from rankscope.collecting.job import Job


@dataclass(frozen=True)
class Reading:
    """What is read and where it goes; fields are named as :func:`rankscope.collect` names them."""

    sites: options.Sites = "all"
    rows: Annotated[str, Option(help="last, first, mean, tokens, text, image, query, answer or audio.")] = "last"
    n: Annotated[int | None, Option("--n", help="Only the first n samples; fewer in the data is an error.")] = None
    out: Annotated[Path | None, Option(help="A folder, or one file .pt or .safetensors. Default: NAME.pt.")] = None
    keep_special: Annotated[bool, Option(help="Count special tokens as rows.")] = False
    tokens_per_batch: Annotated[int, Option(help="Most tokens in a batch, padding included.")] = 8192
    nonfinite: Annotated[str, Option(help="NaN or infinite features: refuse or keep.")] = "refuse"
    shard: Annotated[str | None, Option(help="Only part i of n, as 0/4; the parts share one folder.")] = None
    name: Annotated[str | None, Option(help="The run's name in tables. Default: the output's name.")] = None
    overwrite: options.Overwrite = False
    reuse: Annotated[bool, Option("--reuse", help="Keep a finished run of the same plan as it is.")] = False


@dataclass(frozen=True)
class LoadingOptions:
    """How the checkpoint is loaded and read; fields are named as :func:`rankscope.collect` names them."""

    base_model: options.BaseModel = None
    processor: Annotated[Path | None, Option(help="The folder of the tokenizer or processor.")] = None
    dtype: Annotated[str | None, Option(help="Run the model in float32, bfloat16, float16 or float64.")] = None
    device: options.Device = None
    device_map: Annotated[str | None, Option(help="Spread the model over devices: auto, balanced, cuda:1 …")] = None
    load_in_4bit: Annotated[bool, Option("--load-in-4bit", help="Quantise the base to 4 bits (a GPU).")] = False
    padding_side: Annotated[str, Option(help="Pad short samples on the right or left.")] = "right"
    chat: Annotated[bool, Option("--chat", help="Put the texts through the chat template.")] = False
    trust_remote_code: options.TrustRemoteCode = False


def collect(
    checkpoint: options.Checkpoint,
    what: Reading,
    probes: options.Data,
    loading: LoadingOptions,
    data: Annotated[str, Option(help="The probe set: a file, a folder, or the embedded scenes.")] = "scenes",
    dry_run: Annotated[bool, Option(help="Say what would be read and written, and stop.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Read features from a checkpoint with forward hooks. A collect that was stopped continues where it was.

    Example: rankscope collect lora/ --layers decoder.0,final --rows tokens --data texts.jsonl --out lora.pt
    """
    import rankscope

    def preview(job: Job) -> None:
        if not quiet or dry_run:
            show.note(job.in_words())
        if dry_run:
            raise Exit

    with show.progress("collecting", quiet=quiet or dry_run) as progress:
        run = rankscope.collect(
            checkpoint, probes.open(data), **vars(what), **vars(loading), preview=preview, progress=progress
        )
    echo(run.path)
