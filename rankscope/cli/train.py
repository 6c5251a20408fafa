"""``rankscope train``: a checkpoint tuned by a recipe of stages."""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from rankscope.cli import show
from rankscope.cli.data import Answers, Columns, Images, Regions, Restval, opened
from rankscope.errors import UsageError
from rankscope.tuning.options import Option, options

PANELS = {
    "prefix": "Prefix",
    "lora": "LoRA",
    "adapter": "Bottleneck adapter",
    "full": "Full fine-tuning",
    "scst": "SCST",
}
"""What the options of a group are listed under."""
STAGES, WHOLE = "Stages: one value for all, or one a stage by comma", "Recipe"
EPILOG = "A TOML file given with --config says the same: a list for --steps 200,100, and rank = 4 in a table lora for --lora-rank 4."


def train(
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
    columns: Columns = None,
    restval: Restval = True,
    out: Annotated[Path | None, typer.Option(help="The folder of the checkpoint. Default: the method's name.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="captioning, vqa, lm, seq2seq or classification; told by the model and data unless given."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and dropout.")] = 0,
    config: Annotated[Path | None, typer.Option(help="A recipe as TOML; options given here go before it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    overwrite: show.Overwrite = False,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; the GPU where there is one.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow code that lies in the checkpoint to run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell steps and trained numbers, check the longest samples, and stop.")
    ] = False,
    quiet: show.Quiet = False,
    list_options: Annotated[bool, typer.Option("--list-options", help="List a recipe's options and stop.")] = False,
    **given: Any,
) -> None:
    """Tune a base: LoRA, adapters, prefixes, all weights, PT-PEFT and every order of them.

    Example: rankscope train base/ --method pt-lora --data captions.jsonl --out ptlora --steps 500
    """
    if list_options:
        lines = [[name, o.kind, _default(o), "yes" if o.own else "", o.about] for name, o in options().items()]
        show.table("options of a recipe", ["option", "type", "default", "one a stage", "about"], lines, words=5)
        return
    if (method is None) == (stages is None) and config is None:
        raise UsageError("give --method, --stages or --config; 'rankscope train --help' tells of each")
    from rankscope.data import embedded_checkpoint

    base, probes = (
        model or embedded_checkpoint(),
        opened(data, images=images, regions=regions, answers=answers, columns=columns, restval=restval),
    )
    given |= {"method": method, "stages": stages, "task": task, "seed": seed, "config": config, "device": device}
    given["trust_remote_code"] = trust_remote_code
    if dry_run:
        _show_preview(base, probes, given)
        return
    from rankscope.tuning import train as run_train

    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes one speaks
    name = (config.stem if config else "tuned") if method is stages is None else str(method or stages)
    with show.progress("training", quiet=quiet or not first) as progress:
        result = run_train(
            base, data=probes, out=out or Path(name.replace(",", "-")), resume=resume, overwrite=overwrite,
            progress=progress, **given,
        )  # fmt: skip
    if first and not quiet:
        for place, stage in enumerate(result.training):
            show.note(_in_words(place, stage))
    if first:
        typer.echo(result.path)


def _show_preview(base: Path, data: Any, given: dict[str, Any]) -> None:
    from rankscope.tuning import preview

    told = preview(base, data=data, **given)
    lines = [
        [s["stage"], s["objective"], f"{s['learning_rate']:g}", f"{s['steps']}", f"{s['batch_size']}", f"{s['samples']}",
         f"{s['trained']:,}", f"{s['share']:.2%}"]
        for s in told
    ]  # fmt: skip
    columns = ["stage", "objective", "rate", "steps", "samples a step", "samples", "trained numbers", "of all"]
    show.table("what would be trained", columns, lines, words=2)
    for prefix in filter(None, (s["untrained_prefix"] for s in told)):
        if not prefix.warning:  # a warning was given when it was found
            show.note(prefix.sentence)


def _in_words(place: int, stage: dict[str, Any]) -> str:
    trained = ", ".join(f"{count:,} of {kind}" for kind, count in stage["trained"].items())
    return (
        f"stage {place} ({stage['name']}): {stage['steps']} steps ({stage['epochs']:.2g} epochs) on {trained}; loss "
        f"{stage['first_loss']:.4g} → {stage['last_loss']:.4g}; {stage['seconds']:.1f} s, up to {show.size(stage['peak_bytes'])}"
    )


def _default(option: Option) -> str:
    return (
        "by kind and stage"
        if option.default is None
        else ",".join(option.default)
        if option.kind == "names"
        else str(option.default)
    )


def _command() -> Callable[..., None]:
    """:func:`train` with every option of a recipe among the command's own."""

    def command(**given: Any) -> None:
        train(**given)

    own = [p for p in signature(train, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    command.__signature__ = Signature([*own, *(_parameter(name, o) for name, o in options().items())])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in command.__signature__.parameters.values()}  # type: ignore[attr-defined]
    command.__name__, command.__doc__ = train.__name__, train.__doc__
    return command


def _parameter(name: str, option: Option) -> Parameter:
    flag, group = f"--{name.replace('_', '-')}", name.partition("_")[0]
    told: dict[str, Any] = {
        "help": option.about,
        "show_default": _default(option) or False,
        "rich_help_panel": STAGES if option.own else PANELS.get(group, WHOLE),
    }
    kind: Any = bool | None if option.kind == "bool" else str | None
    metavar = None if option.kind == "bool" else f"<{option.kind}>"
    decl = typer.Option(f"{flag}/--no-{flag[2:]}" if option.default is True else flag, metavar=metavar, **told)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, decl])


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(epilog=EPILOG)(_command())
