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
from types import MappingProxyType
from typing import Any

from rankscope.errors import UnknownName, UsageError, public
from rankscope.tuning.config import GROUPS, SCST, Recipe, Stage
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


def recipe_of(given: Mapping[str, Any]) -> Recipe:
    """The recipe that the arguments of ``train`` describe; what is given there goes before what is in the file ``config``.

    Raises:
        UnknownName, UsageError: as :func:`recipe`.
    """
    of_file = read_options(Path(given["config"])) if given["config"] else {}
    named_here = given["method"] is not None or given["stages"] is not None
    method, stages = ((given if named_here else of_file).get(name) for name in ("method", "stages"))
    options = {name: value for name, value in of_file.items() if name not in ("method", "stages")}
    return recipe(method, stages=stages, options=options | chosen_options(given))


@public
def recipe(
    method: str | None = None,
    *,
    stages: str | Sequence[str] | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """The recipe of a method, or of a list of stages, with options.

    ``recipe("pt-lora", options={"lora_rank": 4, "steps": [200, 100]})``. An option that is left out has its default. Each stage can
    have its own value of an option of stages.

    Args:
        method: one of :data:`METHODS`, or stages written out (``prefix,lora``).
        stages: stages written out, instead of a method: ``"prefix,lora,scst"`` or ``["prefix+lora", "full"]``.
        options: the options by name, as :func:`~rankscope.tuning.training.train` explains them; none by default.

    Raises:
        WrongCall: for a keyword that does not exist.
        UnknownName: if there is no such method, stage or option.
        UsageError: if an option has no meaning, or not one value for each stage.
    """
    if (method is None) == (stages is None):
        raise UsageError(f"give a method ({', '.join(METHODS)}) or stages, and not both")
    asked = method if stages is None else stages if isinstance(stages, str) else ",".join(stages)
    names = parse_stages(METHODS.get(str(asked), str(asked)))
    given = {name: read(name, value) for name, value in options.items() if value is not None}
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
        raise UsageError(f"{text!r} attaches {twice[0]} twice; once is enough, because later stages go on training it")
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
