"""``rankscope collect``: a checkpoint's features at the chosen sites, stored."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from rankscope.checkpoint import fetching
from rankscope.cli import completion, early, interruption, options, show
from rankscope.cli.config import Config
from rankscope.collecting.request import SUFFIX, Request
from rankscope.devices import check_device_map

if TYPE_CHECKING:
    from rankscope.collecting.job import Job


@dataclass(frozen=True)
class Reading:
    """What is read and where it goes; fields are named as :func:`rankscope.collect` names them."""

    sites: options.Sites = "all"
    rows: Annotated[
        str,
        Option(autocompletion=completion.rows, help="last, first, mean, tokens, text, image, query, answer or audio."),
    ] = "last"
    n: Annotated[int | None, Option("--n", min=1, help="Read only the first n samples; having fewer is an error.")] = (
        None
    )
    out: Annotated[
        Path | None, Option(help="A folder, or one file .pt or .safetensors. Default: NAME.pt, or NAME.moments.")
    ] = None
    keep_special: Annotated[bool, Option(help="Keep special tokens as rows too.")] = False
    tokens_per_batch: Annotated[
        int | None, Option(help="Maximum tokens per batch, padding included. Default: to suit the machine.")
    ] = None
    nonfinite: Annotated[str, Option(help="NaN or infinite features: refuse or keep.")] = "refuse"
    shard: Annotated[str | None, Option(help="Collect only part i of n, e.g. 0/4; all parts share one folder.")] = None
    keep: Annotated[options.Keep, Option(help="Keep all rows, or only sums over groups of samples (moments).")] = "rows"
    groups: Annotated[int, Option(min=2, help="With moments: the number of groups whose sums are kept.")] = 20
    beside: Annotated[
        list[Path] | None,
        Option(help="With moments: a checkpoint read in the same batches, such as the base, to pair its rows."),
    ] = None
    name: Annotated[str | None, Option(help="The run's name in tables. Default: the output's name.")] = None
    overwrite: options.Overwrite = False


@dataclass(frozen=True)
class LoadingOptions:
    """How the checkpoint is loaded and read; fields are named as :func:`rankscope.collect` names them."""

    base_model: options.BaseModel = None
    processor: Annotated[Path | None, Option(help="The folder of the tokenizer or processor.")] = None
    dtype: Annotated[options.Dtype | None, Option(help="Precision of the model. Default: the checkpoint's own.")] = None
    device: options.Device = None
    device_map: Annotated[
        str | None,
        Option(
            callback=options.refusing(check_device_map), help="Spread the model over devices: auto, balanced, cuda:1 …"
        ),
    ] = None
    load_in_4bit: Annotated[bool, Option("--load-in-4bit", help="Quantise the base to 4 bits (a GPU).")] = False
    padding_side: Annotated[options.Side, Option(help="Where short samples are padded.")] = "right"
    chat: Annotated[bool, Option("--chat", help="Put the texts through the chat template.")] = False
    max_length: Annotated[int | None, Option(min=1, help="Truncate texts to this many tokens. Default: no limit.")] = (
        None
    )
    trust_remote_code: options.TrustRemoteCode = False


def collect(
    checkpoint: options.Checkpoint,
    what: Reading,
    probes: options.Data,
    loading: LoadingOptions,
    data: Annotated[
        str | None,
        Option(help="The probe set: a file or folder. Default: embedded sentences or scenes, to suit the model."),
    ] = None,
    dry_run: Annotated[bool, Option(help="Show what would be read and written, then stop.")] = False,
    download: options.Download = False,
    quiet: options.Quiet = False,
    config: Config = None,  # what it says has come in with the others
) -> None:
    """Read features from a checkpoint with forward hooks. An interrupted collect continues where it stopped, and a
    finished one is kept.

    A TOML file given with --config takes the same options and arguments: checkpoint = ["base/", "lora/"], max-length = 512,
    keep-special = true, and targets = "summary" in the table column for --column targets=summary.

    Example: rankscope collect lora/ --layers decoder.0,final --rows tokens --data texts.jsonl --out lora.pt
    """
    base = loading.base_model
    if download:
        fetching.fetch(checkpoint, base_model=base)
    early.need_checkpoint(checkpoint, base_model=base, processor=loading.processor)
    for one in what.beside or ():
        if download:
            fetching.fetch(one)
        early.need_checkpoint(one)
    early.need_data(data)
    early.need_free_for_run(
        what.out, overwrite=what.overwrite, checkpoint=checkpoint, base_model=base, suffix=SUFFIX[what.keep]
    )
    Request(**vars(what))
    examples = probes.open(data)
    import rankscope
    from rankscope.collecting.collect import seconds_needed

    kept: list[Job] = []

    tokens: list[int] = []
    """Tokens before each batch, and at the end all of them."""

    def preview(job: Job) -> None:
        tokens.extend(accumulate((len(batch.samples) * batch.length for batch in job.batches), initial=0))
        kept.append(job)
        if job.finished is not None:
            show.note(f"{job.out} is already finished with exactly these options; --overwrite collects it again")
        elif not quiet or dry_run:
            show.note(job.in_words())
        if dry_run:
            if job.finished is None:
                show.note(f"time        {show.duration(seconds_needed(job))}, as one of its batches took")
            raise Exit

    with (
        show.progress("collecting", quiet=quiet or dry_run, unit="tokens") as told,
        interruption.keeping(lambda: _kept(*kept)),
    ):

        def progress(done: int, total: int, text: str) -> None:
            # Another process may have begun with other batches, which are then taken instead
            counted = tokens if total == len(tokens) - 1 else range(total + 1)
            told(counted[done], counted[total], text)

        run = rankscope.collect(
            checkpoint, examples, **vars(what), reuse=True, **vars(loading), preview=preview, progress=progress
        )
    show.made(run.path)


def _kept(*jobs: Job) -> str:
    """What is kept of a collect that is interrupted; nothing before it is planned, or before a batch is whole on the disk."""
    from rankscope.store.layout import committed

    if not jobs or not (batches := committed(jobs[0].folder)):
        return ""
    return f"{batches} of {len(jobs[0].plan)} batches are kept in {jobs[0].folder}, and the same command continues it"
