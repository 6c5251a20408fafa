"""``rankscope train``: a checkpoint tuned by a recipe of stages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from rankscope.checkpoint import fetching
from rankscope.cli import early, interruption, options, show
from rankscope.cli.options import flat
from rankscope.errors import UsageError
from rankscope.tuning.options import Option as RecipeOption, options as recipe_options

STAGES, WHOLE = "Stages: one value for all, or one per stage, comma-separated", "Recipe"
"""The headings of the options that belong to no group."""


def _default(option: RecipeOption) -> str:
    if option.default is None:
        return "depends on kind and stage"
    return ",".join(option.default) if option.type == "names" else str(option.default)


def recipe_parameters() -> Iterator[Parameter]:
    """Every option of a recipe as one of the command."""
    for name, option in recipe_options().items():
        flag, switch = f"--{name.replace('_', '-')}", option.type == "bool"
        typed = Option(
            f"{flag}/--no-{flag[2:]}" if option.default is True else flag,
            metavar=None if switch else f"<{option.type}>",
            help=option.about,
            show_default=_default(option) or False,
            rich_help_panel=STAGES if option.own else option.title or WHOLE,
        )
        kind = bool | None if switch else str | None  # text is read by the recipe, as that of a TOML file is
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, typed])


@partial(flat, more=recipe_parameters())
def train(
    probes: options.Data,
    model: Annotated[Path | None, Argument(help="The base: a checkpoint folder. Default: the embedded one.")] = None,
    method: Annotated[str | None, Option(help="full, lora, adapter, prefix, pt-lora, prefix+lora …")] = None,
    stages: Annotated[str | None, Option(help="Stages instead of a method, e.g. prefix,lora,scst.")] = None,
    data: Annotated[
        str | None, Option(help="The training data: a file or folder. Default: scenes, for the embedded model only.")
    ] = None,
    out: Annotated[Path | None, Option(help="The folder of the checkpoint. Default: the method's name.")] = None,
    task: Annotated[options.Task | None, Option(help="What is trained for. Default: chosen by model and data.")] = None,
    seed: Annotated[int, Option(help="Seed of initial weights, order and dropout.")] = 0,
    config: Annotated[Path | None, Option(help="A recipe as TOML; options given here take precedence.")] = None,
    resume: Annotated[bool, Option("--resume", help="Continue an interrupted run.")] = False,
    overwrite: options.Overwrite = False,
    device: options.Device = None,
    trust_remote_code: options.TrustRemoteCode = False,
    download: options.Download = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Show the steps and the trained parameters, then stop.")] = False,
    quiet: options.Quiet = False,
    list_options: Annotated[bool, Option("--list-options", help="List the options of a recipe, then stop.")] = False,
    **recipe: Any,
) -> None:
    """Tune a base with LoRA, adapters, prefixes, all weights or PT-PEFT, in any order.

    A TOML file given with --config takes the same options: steps = [200, 100] for --steps 200,100, and rank = 4 in the table lora for
    --lora-rank 4.

    Example: rankscope train base/ --method pt-lora --data captions.jsonl --out ptlora --steps 500
    """
    if list_options:
        lines = [[name, o.type, _default(o), "yes" if o.own else "", o.about] for name, o in recipe_options().items()]
        show.table("options of a recipe", ["option", "type", "default", "one a stage", "about"], lines, words=5)
        return
    if (method is None) == (stages is None) and config is None:
        raise UsageError("give --method, --stages or --config; 'rankscope train --help' explains each")
    name = (config.stem if config else "tuned") if method is stages is None else str(method or stages)
    out = out or Path(name.replace(",", "-"))
    if model is not None:
        if download:
            fetching.fetch(model)
        early.need_checkpoint(model)
    early.need_data(data)
    how: dict[str, Any] = {"method": method, "stages": stages, "config": config, **recipe}
    early.need_recipe(how, None if dry_run else out, resume=resume, overwrite=overwrite)
    import rankscope

    base = model or rankscope.embedded_checkpoint()
    how |= {
        "data": probes.open(options.or_scenes(data, base, "captions/train")),
        "task": task,
        "seed": seed,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    if dry_run:
        _show_preview(base, how)
        return

    def kept() -> str:
        from rankscope.tuning.record import has_kept

        return (
            f"its last state is kept in {out}, and the same command with --resume continues it" if has_kept(out) else ""
        )

    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes only the first one prints
    with show.progress("training", quiet=quiet or not first, unit="steps") as progress, interruption.keeping(kept):
        result = rankscope.train(base, out=out, resume=resume, overwrite=overwrite, progress=progress, **how)
    if first and not quiet:
        for place, stage in enumerate(result.training):
            show.note(_in_words(place, stage))
    if first:
        show.made(result.path)


def _show_preview(base: Path, how: dict[str, Any]) -> None:
    from rankscope.tuning import preview
    from rankscope.tuning.recipes import recipe_of

    given = {
        name: how.pop(name) for name in [*how] if name in ("method", "stages", "config") or name in recipe_options()
    }
    previews = preview(base, recipe_of(given), **how)
    lines = [
        [s["stage"], s["objective"], f"{s['learning_rate']:g}", f"{s['steps']}", f"{s['batch_size']}", f"{s['samples']}",
         f"{s['trained']:,}", f"{s['share']:.2%}"]
        for s in previews
    ]  # fmt: skip
    columns = ["stage", "objective", "rate", "steps", "samples a step", "samples", "trained parameters", "of all"]
    show.table("what would be trained", columns, lines, words=2)
    for untrained in filter(None, (s["untrained_prefix"] for s in previews)):
        if not untrained.warning:  # a warning was logged when the prefix was tried
            show.note(untrained.sentence)


def _in_words(place: int, stage: dict[str, Any]) -> str:
    from rankscope.collecting.budget import size_in_words

    trained = ", ".join(f"{count:,} {kind}" for kind, count in stage["trained"].items())
    return (
        f"stage {place} ({stage['name']}): {stage['steps']} steps ({stage['epochs']:.2g} epochs) on {trained} parameters; loss "
        f"{stage['first_loss']:.4g} → {stage['last_loss']:.4g}; {stage['seconds']:.1f} s, up to {size_in_words(stage['peak_bytes'])}"
    )
