"""``rankscope collect``: a checkpoint's features at the chosen sites, stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rankscope.cli import show
from rankscope.cli.data import Answers, Columns, Images, Regions, Restval, opened


def collect(
    checkpoint: Annotated[list[Path], typer.Argument(help="A checkpoint folder, or several in order: base, adapters.")],
    layers: Annotated[
        str, typer.Option(help="Sites: all; decoder.0,decoder.3-5,final; 0:12:2; vision.*; last.")
    ] = "all",
    rows: Annotated[str, typer.Option(help="last, first, mean, tokens, text, image, query or answer.")] = "last",
    data: Annotated[
        str | None, typer.Option(help="The probe set: a file, a folder, or scenes. Default: scenes.")
    ] = None,
    images: Images = None,
    regions: Regions = None,
    answers: Answers = None,
    columns: Columns = None,
    restval: Restval = True,
    n: Annotated[
        int | None, typer.Option("--n", help="Only the first n samples; fewer in the data is an error.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder, or one file .pt or .safetensors. Default: NAME.pt.")
    ] = None,
    base_model: show.BaseModel = None,
    processor: Annotated[
        Path | None, typer.Option(help="The folder of the tokenizer or processor, where the checkpoint keeps none.")
    ] = None,
    keep_special: Annotated[bool, typer.Option(help="Count special tokens as rows.")] = False,
    tokens_per_batch: Annotated[int, typer.Option(help="How many tokens a batch holds, padding included.")] = 8192,
    dtype: Annotated[str | None, typer.Option(help="Run the model in float32, bfloat16 or float16.")] = None,
    nonfinite: Annotated[str, typer.Option(help="What NaN or infinite features do: refuse or keep.")] = "refuse",
    shard: Annotated[str | None, typer.Option(help="Only part i of n, as 0/4; the parts share one folder.")] = None,
    device: show.Device = None,
    device_map: Annotated[
        str | None, typer.Option(help="Spread the model over devices: auto, balanced, cuda:1 …")
    ] = None,
    load_in_4bit: Annotated[bool, typer.Option("--load-in-4bit", help="Quantise the base to 4 bits (a GPU).")] = False,
    padding_side: Annotated[str, typer.Option(help="Where short samples are filled up: right or left.")] = "right",
    chat: Annotated[bool, typer.Option("--chat", help="Put the texts through the chat template.")] = False,
    name: Annotated[str | None, typer.Option(help="What tables call the run. Default: the output's name.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Allow code that lies in the checkpoint to run.")] = False,
    overwrite: show.Overwrite = False,
    dry_run: Annotated[bool, typer.Option(help="Say what it would read and write, and stop.")] = False,
    quiet: show.Quiet = False,
) -> None:
    """Read features from a checkpoint with forward hooks. A collect that was stopped continues where it was.

    Example: rankscope collect lora/ --layers decoder.0,final --rows tokens --data texts.jsonl --out lora.pt
    """
    from rankscope.collecting.collect import run_job
    from rankscope.collecting.prepare import prepare

    job = prepare(
        checkpoint,
        opened(data or "scenes", images=images, regions=regions, answers=answers, columns=columns, restval=restval),
        sites=layers,
        rows=rows,
        n=n,
        out=out,
        base_model=base_model,
        processor=processor,
        keep_special=keep_special,
        tokens_per_batch=tokens_per_batch,
        dtype=dtype,
        nonfinite=nonfinite,
        shard=shard,
        device=device,
        device_map=device_map,
        load_in_4bit=load_in_4bit,
        padding_side=padding_side,
        chat=chat,
        name=name,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
    )
    if not quiet or dry_run:
        show.note(job.in_words())
    if dry_run:
        return
    with show.progress("collecting", quiet=quiet) as progress:
        run = run_job(job, progress=progress)
    typer.echo(run.path)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(collect)
