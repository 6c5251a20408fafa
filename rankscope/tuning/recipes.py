"""Recipes: what is attached to a base, stage by stage, what is trained, and how. Plain data; no model is touched.

A recipe is an ordered list of stages. It is written as a method (``pt-lora``) or as stages (``prefix,lora``; ``+`` joins
what is attached at once), and changed by options whose names are the same in Python, on the command line and in a TOML
file, where ``[lora] rank = 4`` is the option ``lora_rank``. An option of a stage is one value for all stages, or a list
with one for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from rankscope.errors import UnknownName, UsageError
from rankscope.tuning.config import GROUPS, KINDS, SCST, Recipe, Stage
from rankscope.tuning.options import PER_STAGE, WHOLE, read

RATES = {"prefix": 5e-3, "lora": 1e-3, "adapter": 1e-3, "full": 3e-4}
"""Learning rates of a first stage; with several kinds at once the lowest counts."""
LATER, REWARD = 0.3, 0.03
"""What a later stage's rate, and that of an SCST stage, is of a first stage's. A stage that attaches a prefix is not slowed:
LoRA and adapters start as nothing, but a new prefix disturbs the model until it is learnt."""
OTHERS = ("lora", "adapter", "full")
METHODS: dict[str, str] = {
    **{kind: kind for kind in ("full", "lora", "adapter", "prefix")},
    **{f"pt-{kind}": f"prefix,{kind}" for kind in OTHERS},
    **{f"prefix+{kind}": f"prefix+{kind}" for kind in OTHERS},
    **{f"{kind}-prefix": f"{kind},prefix" for kind in OTHERS},
}
"""Methods by name, each as its stages."""


def recipe(method: str | None = None, *, stages: str | Sequence[str] | None = None, **given: Any) -> Recipe:
    """The recipe of a method, or of a list of stages, with options.

    Args:
        method: one of :data:`METHODS`, or stages written out (``prefix,lora``).
        stages: stages written out, instead of a method: ``"prefix,lora,scst"`` or ``["prefix+lora", "full"]``.
        given: the options (:func:`~rankscope.tuning.options.options`), those of a stage as one value or one for each stage.

    Raises:
        UnknownName: if there is no such method, stage or option.
        UsageError: if an option has no meaning, or not one value for each stage.
    """
    if (method is None) == (stages is None):
        raise UsageError(f"give a method ({', '.join(METHODS)}) or stages, and not both")
    asked = method if stages is None else stages if isinstance(stages, str) else ",".join(stages)
    names = parse_stages(METHODS.get(str(asked), str(asked)))
    given = {name: read(name, value) for name, value in given.items() if value is not None}
    groups = {
        g: kind(**{f.name: given[f"{g}_{f.name}"] for f in fields(kind) if f"{g}_{f.name}" in given})
        for g, kind in GROUPS.items()
    }
    whole = {name: given[name] for name in WHOLE if name in given}
    if whole.get("precision", "float32") not in ("float32", "bf16", "fp16"):
        raise UsageError(f"there is no precision {whole['precision']!r}; there is float32, bf16 and fp16")
    built = _stages(names, freeze_prefix=bool(whole.get("freeze_prefix")))
    changed = [replace(stage, **_own(given, i, len(built))) for i, stage in enumerate(built)]
    return Recipe(stages=tuple(changed), method=str(asked), **whole, **groups)


def parse_stages(text: str) -> list[tuple[str, ...]]:
    """The stages that a text spells, each as what it attaches.

    Raises:
        UnknownName: if a part is none of :data:`KINDS` and not ``scst``.
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
    there: tuple[str, ...] = ()
    for place, kinds in enumerate(names):
        attach = () if kinds == (SCST,) else kinds
        there = (*there, *attach)
        train = tuple(k for k in there if not (freeze_prefix and k == "prefix" and k not in attach))
        if not train:
            raise UsageError(
                f"stage {place} ({SCST}) has nothing to train but the prefix, which freeze_prefix leaves alone"
            )
        slower = 1.0 if place == 0 or "prefix" in attach else LATER if attach else REWARD
        rate = slower * min(RATES[kind] for kind in train)
        built.append(Stage(attach, train, rate, "cross-entropy" if attach else "scst"))
    return built


def _own(given: Mapping[str, Any], place: int, count: int) -> dict[str, Any]:
    """The options of one stage."""
    own = {}
    for name in PER_STAGE:
        if name not in given:
            continue
        value = given[name]
        several = value if isinstance(value, list) else [value]
        if len(several) not in (1, count):
            raise UsageError(f"{name} has {len(several)} values for {count} stages; give one, or one for each")
        own[name] = several[place] if len(several) > 1 else several[0]
    return own
