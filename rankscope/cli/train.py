"""``rankscope train``: a checkpoint tuned by a recipe of stages."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from rankscope.cli import show
from rankscope.cli.data import Answers, Images, Regions, opened
from rankscope.errors import UsageError

EPILOG = (
    "Every other option of a recipe is given by its name, one value for all stages or one a stage by comma: "
    "--lora-rank 4, --prefix-length 32, --steps 200, --learning-rate 3e-3,1e-3. "
    "'rankscope train --list-options' lists them with their defaults; a TOML file given with --config says the same."
)


def train(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Argument(help="The base: a checkpoint folder. Default: the embedded one.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="full, lora, adapter, prefix, pt-lora, prefix+lora, lora-prefix …")
    ] = None,
    stages: Annotated[str | None, typer.Option(help="Stages instead of a method, as prefix,lora,scst.")] = None,
    data: Annotated[
        str, typer.Option(help="The training data: a file, a folder, or scenes.")
    ] = "scenes:captions/train",
    images: Images = None,
    regions: Regions = None,
    answers: Answers = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the checkpoint. Default: the method's name.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="captioning, vqa, lm, seq2seq or classification; told by the model and data unless given."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and dropout.")] = 0,
    config: Annotated[Path | None, typer.Option(help="A recipe as TOML; options given here go before it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    overwrite: show.Overwrite = False,
    device: show.Device = None,
    list_options: Annotated[bool, typer.Option("--list-options", help="List a recipe's options and stop.")] = False,
) -> None:
    """Tune a base: LoRA, adapters, prefixes, all weights, PT-PEFT and every order of them.

    Example: rankscope train base/ --method pt-lora --data captions.jsonl --out ptlora --steps 500
    """
    from rankscope.tuning import options

    if list_options:
        lines = [[name, kind, str(default), "yes" if own else ""] for name, (kind, default, own) in options().items()]
        show.table("options of a recipe", ["option", "type", "default", "one a stage"], lines)
        return
    if (method is None) == (stages is None) and config is None:
        raise UsageError("give --method, --stages or --config; 'rankscope train --help' tells of each")
    given = parse(context.args)
    from rankscope.data import embedded_checkpoint
    from rankscope.tuning import train as run_train

    result = run_train(
        model or embedded_checkpoint(),
        method=method,
        stages=stages,
        data=opened(data, images=images, regions=regions, answers=answers),
        out=out or Path((method or stages or config.stem if config else method or stages or "tuned").replace(",", "-")),
        task=task,
        seed=seed,
        config=config,
        resume=resume,
        overwrite=overwrite,
        device=device,
        **given,
    )
    for stage in result.training:
        show.note(", ".join(f"{key} {value}" for key, value in stage.items() if isinstance(value, int | float | str)))
    typer.echo(result.path)


def parse(arguments: list[str]) -> dict[str, Any]:
    """``["--lora-rank", "4", "--freeze-prefix"]`` as ``{"lora_rank": 4, "freeze_prefix": True}``.

    Raises:
        UsageError: if a value stands without an option.
    """
    found: dict[str, Any] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, text = argument[2:].partition("=")
            found[name.replace("-", "_")] = value(text) if equals else True
            name = "" if equals else name
        elif not name:
            raise UsageError(f"{argument!r} belongs to no option; an option is --name value")
        else:
            found[name.replace("-", "_")], name = value(argument), ""
    return found


def value(text: str) -> Any:
    """A number, a truth value, a list by comma, or the text itself."""
    if "," in text:
        return [value(part) for part in text.split(",")]
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    loose = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(epilog=EPILOG, context_settings=loose)(train)
