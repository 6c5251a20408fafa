"""Recipes: what is attached to a base, stage by stage, what is trained, and how. Plain data; no model is touched.

A recipe is an ordered list of stages. It is written as a method (``pt-lora``) or as stages (``prefix,lora``; ``+`` joins
what is attached at once), and changed by options whose names are the same in Python, on the command line and in a TOML
file, where ``[lora] rank = 4`` is the option ``lora_rank``. An option of a stage is one value for all stages, or a list
with one for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from rankscope.errors import UnknownName, UsageError, public
from rankscope.tuning.config import GROUPS, SCST, Precision, Recipe, Schedule, Stage
from rankscope.tuning.kinds import KINDS
from rankscope.tuning.options import PER_STAGE, WHOLE, chosen_options, read, read_options

LATER, REWARD = 0.3, 0.03
"""The learning rate of a later stage, and that of an SCST stage, as a share of a first stage's. A stage that attaches a prefix
keeps the whole rate: LoRA and adapters start as nothing, but a new prefix disturbs the model until it is learnt."""
_OTHERS = [kind for kind in KINDS if kind != "prefix"]
METHODS: dict[str, str] = {
    **{kind: kind for kind in reversed(KINDS)},
    **{f"pt-{kind}": f"prefix,{kind}" for kind in _OTHERS},
    **{f"prefix+{kind}": f"prefix+{kind}" for kind in _OTHERS},
    **{f"{kind}-prefix": f"{kind},prefix" for kind in _OTHERS},
}
"""Methods by name, each as its stages."""


@public
def recipe(
    method: str | None = None,
    *,
    stages: str | Sequence[str] | None = None,
    learning_rate: float | Sequence[float] | None = None,
    schedule: Schedule | Sequence[Schedule] | None = None,
    warmup: float | Sequence[float] | None = None,
    epochs: float | Sequence[float] | None = None,
    steps: int | Sequence[int] | None = None,
    batch_size: int | Sequence[int] | None = None,
    accumulation: int | Sequence[int] | None = None,
    weight_decay: float | Sequence[float] | None = None,
    max_grad_norm: float | Sequence[float] | None = None,
    freeze_prefix: bool | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    max_length: int | None = None,
    keep_epochs: bool | None = None,
    save_steps: int | None = None,
    prefix_length: int | None = None,
    prefix_projection: bool | None = None,
    prefix_embedding: int | None = None,
    prefix_hidden: int | None = None,
    prefix_depth: int | None = None,
    prefix_dropout: float | None = None,
    prefix_init: Literal["random", "tokens"] | None = None,
    prefix_init_std: float | None = None,
    prefix_stacks: str | Sequence[str] | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float | None = None,
    lora_targets: str | Sequence[str] | None = None,
    lora_stacks: str | Sequence[str] | None = None,
    adapter_size: int | None = None,
    adapter_function: str | None = None,
    adapter_dropout: float | None = None,
    adapter_scaling: float | None = None,
    adapter_targets: str | Sequence[str] | None = None,
    adapter_stacks: str | Sequence[str] | None = None,
    full_stacks: str | Sequence[str] | None = None,
    scst_samples: int | None = None,
    scst_temperature: float | None = None,
    scst_max_new_tokens: int | None = None,
) -> Recipe:
    """The recipe of a method, or of a list of stages, with options.

    An option that is left out, or None, has its default. Each stage can have its own value of an option that takes a sequence.

    Args:
        method: one of :data:`METHODS`, or stages written out (``prefix,lora``).
        stages: stages written out, instead of a method: ``"prefix,lora,scst"`` or ``["prefix+lora", "full"]``.
        learning_rate: highest learning rate; it depends on the kind and the stage if none is given.
        schedule: course of the learning rate, by transformers' name (linear, cosine, constant, …); linear by default.
        warmup: share of the steps over which the rate rises from 0; 0.06 by default.
        epochs: passes over the data; 3.0 by default.
        steps: optimiser steps, instead of epochs; 0 to count epochs; 0 by default.
        batch_size: samples in a batch on each device; 16 by default.
        accumulation: batches in an optimiser step; 1 by default.
        weight_decay: weight decay (AdamW's); 0.0 by default.
        max_grad_norm: norm to which longer gradients are shortened; 0 to leave them; 1.0 by default.
        freeze_prefix: whether later stages leave the prefix as the first one ended it; False by default.
        precision: precision: float32, or bf16 or fp16 for mixed precision; float32 by default.
        gradient_checkpointing: whether activations are computed again in the backward pass, which saves memory; refused
            with a prefix in a decoder; False by default.
        max_length: tokens of the longest text that is taken, longer ones are refused; 0 for what the model's positions
            hold; 0 by default.
        keep_epochs: whether the model at the end of each epoch is kept, as a checkpoint of its own; False by default.
        save_steps: optimiser steps between the states from which a killed run continues; 0 for once an epoch; 0 by
            default.
        prefix_length: rows of the prefix; 16 by default.
        prefix_projection: whether a network makes the rows (the prefix encoder); True by default.
        prefix_embedding: width of the embeddings that enter the network; 0 for heads × width of the stack; 0 by
            default.
        prefix_hidden: width of the network's hidden layers; 0 for that of the embeddings; 0 by default.
        prefix_depth: number of the network's linear layers; 2 by default.
        prefix_dropout: dropout before the network's last layer, which keeps rows apart; 0.1 by default.
        prefix_init: what the rows start as: random, or tokens (the keys and values of tokens of the task); random by
            default.
        prefix_init_std: standard deviation of the embeddings at the start (of the rows, without a network); 1.0 by
            default.
        prefix_stacks: stacks that get a prefix, those that read text if none is named.
        lora_rank: rank of each update; 8 by default.
        lora_alpha: numerator of the scale of the update, alpha / rank; 16.0 by default.
        lora_dropout: dropout before the update; 0.0 by default.
        lora_targets: endings of module paths; the query, key and value maps of every attention if none is named.
        lora_stacks: stacks in which targets are sought, those that read text if none is named.
        adapter_size: width of the bottleneck; 16 by default.
        adapter_function: activation function between the maps down and up; gelu by default.
        adapter_dropout: dropout before the map up; 0.0 by default.
        adapter_scaling: factor on what is added; 1.0 by default.
        adapter_targets: endings of module paths; the last map of every attention and feed-forward if none is named.
        adapter_stacks: stacks in which targets are sought, those that read text if none is named.
        full_stacks: stacks whose weights are trained, all weights of the model if none is named.
        scst_samples: number of captions sampled for each image; 5 by default.
        scst_temperature: temperature at which captions are sampled; 1.0 by default.
        scst_max_new_tokens: tokens of the longest sampled caption; 48 by default.

    Raises:
        WrongCall: for an option that does not exist.
        UnknownName: if there is no such method or stage.
        UsageError: if an option has no meaning, or not one value for each stage.
    """
    return build_recipe(method, stages, chosen_options(locals()))


def recipe_of(given: Mapping[str, Any]) -> Recipe:
    """The recipe that the arguments of ``train`` describe; what is given there goes before what is in the file ``config``.

    Raises:
        UnknownName, UsageError: as :func:`recipe`.
    """
    of_file = read_options(Path(given["config"])) if given["config"] else {}
    named_here = given["method"] is not None or given["stages"] is not None
    method, stages = ((given if named_here else of_file).get(name) for name in ("method", "stages"))
    options = {name: value for name, value in of_file.items() if name not in ("method", "stages")}
    return build_recipe(method, stages, options | chosen_options(given))


def build_recipe(method: str | None, stages: str | Sequence[str] | None, options: Mapping[str, Any]) -> Recipe:
    """The recipe of a method or stages, with the options that are given.

    Raises:
        UnknownName: if there is no such method, stage or option.
        UsageError: if an option has no meaning, or not one value for each stage.
    """
    if (method is None) == (stages is None):
        raise UsageError(f"give a method ({', '.join(METHODS)}) or stages, and not both")
    asked = method if stages is None else stages if isinstance(stages, str) else ",".join(stages)
    names = parse_stages(METHODS.get(str(asked), str(asked)))
    given = {name: read(name, value) for name, value in options.items()}
    groups = {
        name: group.options(
            **{f.name: given[f"{name}_{f.name}"] for f in fields(group.options) if f"{name}_{f.name}" in given}
        )
        for name, group in GROUPS.items()
    }
    whole = {name: given[name] for name in WHOLE if name in given}
    built = _stages(names, freeze_prefix=bool(whole.get("freeze_prefix")))
    changed = [replace(stage, **_own(given, i, len(built))) for i, stage in enumerate(built)]
    return Recipe(stages=tuple(changed), method=str(asked), options=groups, **whole)


def parse_stages(text: str) -> list[tuple[str, ...]]:
    """The stages that a text spells, each as the kinds that it attaches, or as ``scst``.

    Raises:
        UnknownName: if a part is neither a kind of tuning nor ``scst``.
        UsageError: if something is attached twice, or rewarded before anything is trained.
    """
    parsed = [tuple(part.strip() for part in stage.split("+")) for stage in text.split(",")]
    flat = [part for stage in parsed for part in stage]
    for part in flat:
        if part not in (*KINDS, SCST):
            raise UnknownName(
                f"there is no method {text!r}; the methods are {', '.join(METHODS)}, and stages of {', '.join((*KINDS, SCST))}"
            )
    twice = [kind for kind in KINDS if flat.count(kind) > 1]
    if twice:
        raise UsageError(f"{text!r} attaches {twice[0]} twice; once is enough, later stages train it on")
    if any(SCST in stage and len(stage) > 1 for stage in parsed) or parsed[0] == (SCST,):
        raise UsageError(f"{SCST} is a stage of its own, after one that attaches something; got {text!r}")
    return parsed


def _stages(names: Sequence[tuple[str, ...]], *, freeze_prefix: bool) -> list[Stage]:
    built: list[Stage] = []
    attached: tuple[str, ...] = ()
    for place, kinds in enumerate(names):
        attach = () if kinds == (SCST,) else kinds
        attached = (*attached, *attach)
        train = tuple(k for k in attached if not (freeze_prefix and k == "prefix" and k not in attach))
        if not train:
            raise UsageError(
                f"stage {place} ({SCST}) has nothing to train but the prefix, which freeze_prefix leaves alone"
            )
        undisturbed = all(KINDS[kind].starts_as_nothing for kind in attach)
        share = 1.0 if place == 0 or not undisturbed else LATER if attach else REWARD
        rate = share * min(KINDS[kind].learning_rate for kind in train)
        built.append(Stage(attach, train, rate, "cross-entropy" if attach else "scst"))
    return built


def _own(given: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    """The options of one stage."""
    own = {}
    for name in given.keys() & set(PER_STAGE):
        values = given[name] if isinstance(given[name], list) else [given[name]]
        if len(values) not in (1, count):
            raise UsageError(f"{name} has {len(values)} values for {count} stages; give one, or one for each")
        own[name] = values[place % len(values)]  # one value serves every stage
    return own
