"""Tunings onto a base, strictly: every tensor of an adapter lands, none keeps its initial value, and something changes.

A single adapter is attached as PEFT does it. Several are put *inside* the base, in order, each under its own name,
because PEFT refuses to wrap one kind in another; a prefix is hooked into the base's own modules
(:mod:`rankscope.models.tunings.prefix_live`), so that it is alive in ``forward`` and in ``generate``; a prompt wraps what is
left from outside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import peft
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from rankscope.checkpoint import Checkpoint, Tuning, digest
from rankscope.checkpoint.kinds import adapters_inside
from rankscope.errors import CheckpointError
from rankscope.models.heads import are_heads
from rankscope.models.notes import note
from rankscope.models.stacks import unwrapped
from rankscope.models.tunings.adapters import (
    check_landed,
    check_reproducible,
    differs_on_merged,
    ignored_entries,
    merges,
    peft_config,
    read_weights,
    understood,
)
from rankscope.models.tunings.effect import adapters_in, changes
from rankscope.models.tunings.fold import fold
from rankscope.models.tunings.keys import SHARED, WRAPPED, place, plain_names, speak_of_host, targets_in
from rankscope.models.tunings.offload import check_lent, lent, make_room
from rankscope.models.tunings.prefix_files import PEFT_ROWS, load_prefix, task_type
from rankscope.models.tunings.prefix_live import attach_prefix
from rankscope.models.tunings.vocabulary import fit_vocabulary

PREFIX = "prefix_tuning"
PROMPTS = ("prompt_tuning", "p_tuning", "cpt", "cartridge")
"""The kinds that PEFT passes along with the text: as rows before it, or (a cartridge) in the cache."""
OUTSIDE = (PREFIX, *PROMPTS)
"""The kinds that leave every layer of the base as it is."""


class WrongBase(CheckpointError):
    """The base is not the one that was tuned."""


def attach(model: PreTrainedModel, checkpoint: Checkpoint, *, must_change: bool = True) -> nn.Module:
    """The model with every adapter of a checkpoint attached, in order.

    Args:
        model: the checkpoint's weights, loaded; changed in place.
        checkpoint: what to attach.
        must_change: refuse an adapter that changes nothing, as a LoRA does whose B is zero.

    Raises:
        WrongBase: if the base is not the one that was tuned, by its recorded digest.
        CheckpointError: if an adapter does not land, or changes nothing.
    """
    _check_base(checkpoint)
    for folder in dict.fromkeys([checkpoint.path, *(t.path for t in checkpoint.adapters)]):
        if beside := adapters_inside(folder):
            listed = ", ".join(beside)
            note(
                model,
                f"{folder.name} also holds adapters in {listed}; they were not read: name them in a list to add them",
            )
    order = {PREFIX: 1, **dict.fromkeys(PROMPTS, 2)}
    adapters = sorted(checkpoint.adapters, key=lambda t: order.get(t.kind, 0))
    for what, kinds in (("prefix", (PREFIX,)), ("prompt", PROMPTS)):
        if (many := sum(t.kind in kinds for t in adapters)) > 1:
            raise CheckpointError(f"a model takes one {what}; {checkpoint.path} has {many}")
    alone, names = len(adapters) == 1, dict[str, Tuning]()
    for i, tuning in enumerate(adapters):
        if tuning.kind == PREFIX:
            _hook_prefix(unwrapped(model), tuning)
        elif tuning.kind in PROMPTS:
            model = _wrap_in_prompt(model, tuning)
        else:
            if not side_by_side([*names.values(), tuning]) and _settle(model, names, tuning, merged_first(checkpoint)):
                names = {}
            name = "default" if alone else f"stage{i}"
            model = _inject(model, tuning, name=name, wrap=alone, must_change=must_change)
            names[name] = tuning
    if len(names) > 1:
        _activate(model, names)
    return model.requires_grad_(False) if adapters else model


def merged_first(checkpoint: Checkpoint) -> bool:
    """Whether earlier adapters were merged before a later one was trained, by the record, or by the custom where there is none.

    What rankscope trains sits beside what came before, unmerged; a list of other adapters is a series of merged models,
    because PEFT alone offers no other way. ``"merged_stages"`` in ``rankscope.json`` says it of a folder of stages.
    """
    return bool(checkpoint.record.get("merged_stages", not checkpoint.record))


def side_by_side(adapters: Sequence[Tuning]) -> bool:
    """Whether PEFT can let adapters act beside each other, to the same effect as if each was merged before the next."""
    plain = [t.kind in ("lora", "bottleneck") and not t.config.get("trainable_token_indices") for t in adapters]
    return len(adapters) < 2 or (all(plain) and not any(map(differs_on_merged, adapters[1:])))


def _settle(model: nn.Module, names: Mapping[str, Tuning], tuning: Tuning, merged: bool) -> bool:
    """Make ready what a later stage sits on, and say what was assumed of it; gives whether earlier ones were merged into it."""
    if differs := differs_on_merged(tuning):
        on, other = ("merged with", "unmerged beside") if merged else ("unmerged beside", "merged with")
        note(
            model,
            f"{tuning.path.name} ({tuning.kind}) reads the weights that it sits on: taken as trained on the base {on} the adapters "
            f"before it. If it was trained on the base {other} them, that is another model: say so with "
            f'{{"merged_stages": {str(not merged).lower()}}} in the rankscope.json of a folder that holds the stages in order',
        )
    # A stage that is the same on either goes onto the merged base, or around what cannot be merged.
    if not (merged if differs else all(map(merges, names.values()))):
        return False
    _activate(model, names)
    fold(model)
    return True


def _activate(model: nn.Module, names: Collection[str]) -> None:
    """Let every adapter act; PEFT leaves only the last one active."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            held = adapters_in(module)
            module.set_adapter([name for name in names if name in held])
        elif isinstance(module, ModulesToSaveWrapper):
            # A module saved whole takes the place of what was there, and the last one of those that came before it.
            module.set_adapter([name for name in names if name in module.modules_to_save][-1:])


def _check_base(checkpoint: Checkpoint) -> None:
    """Check that the base is the one that was tuned, if its digest was recorded.

    Raises:
        WrongBase: if it is another one.
    """
    if checkpoint.base_digest is None:
        return
    found = digest(checkpoint.base)
    if found != checkpoint.base_digest:
        raise WrongBase(
            f"{checkpoint.path} was tuned on a base with digest {checkpoint.base_digest[:12]}…, and {checkpoint.base} has "
            f"{found[:12]}…: it is another model, or was changed since; give the right one with --base-model (base_model=…)"
        )


def _inject(model: nn.Module, tuning: Tuning, *, name: str, wrap: bool, must_change: bool = True) -> nn.Module:
    """The model with an adapter in its layers (LoRA and its kin, IA³, bottleneck adapters).

    Args:
        model: the base, or the base with earlier adapters; changed in place.
        tuning: the adapter.
        name: the name that it gets in the layers.
        wrap: whether a ``PeftModel`` is returned, as PEFT does it; otherwise the model itself.
        must_change: refuse an adapter that changes nothing.

    Raises:
        CheckpointError: if its tensors do not land, or it changes nothing.
    """
    check_reproducible(tuning)
    base = unwrapped(model)
    config, placed = peft_config(tuning), place(tuning, plain_names(tuning, read_weights(tuning.path), base), base)
    host: nn.Module = base.get_submodule(placed.host) if placed.moved else model
    if entries := ignored_entries(tuning, config):
        peft_version = tuning.config.get("peft_version", "unknown")
        note(
            base,
            f"{tuning.path.name}: ignored {', '.join(entries)}, which PEFT {peft.__version__} does not know (it was saved by "
            f"PEFT {peft_version}); if that changes what the adapter computes, the numbers are of another model",
        )
    if getattr(config, "alora_invocation_tokens", None) and (placed.moved or not wrap):
        raise CheckpointError(
            f"{tuning.path} is an aLoRA, which acts from its invocation tokens on; PEFT finds them only where it wraps the model "
            "that the aLoRA was made with, so it is read alone on that base and not in a list or under another head"
        )
    fit_vocabulary(base, placed, tuning)
    if placed.moved:
        note(base, _other_head(tuning, placed.heads))
        speak_of_host(config, host, placed)
    if placed.renamed:
        note(
            base,
            f"{tuning.path.name} names its tensors as an older transformers did; they are read under today's names",
        )
        if isinstance(pattern := getattr(config, "target_modules", None), str) and pattern != "all-linear":
            config.target_modules = targets_in(tuning.kind, placed.weights)  # the pattern is of the old names
    with understood(tuning):
        # A PeftModel around the host also serves kinds that keep a state shared by all layers, which cannot be injected.
        shared = getattr(PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type], "uses_shared_state", True)
        shared = shared or any(key.startswith(SHARED) for key in placed.weights)
        wrapped = (wrap and not placed.moved) or shared
        tuned = (
            peft.get_peft_model(host, config, adapter_name=name)
            if wrapped
            else peft.inject_adapter_in_model(config, host, adapter_name=name)
        )
        if not wrapped:
            cast_adapter_dtype(host, name)  # float32 under half-precision weights, as PEFT's own wrapper has it
    weights = {
        f"{WRAPPED}{key}" if wrapped and not key.startswith(SHARED) else key: t for key, t in placed.weights.items()
    }
    model = tuned if wrap and not placed.moved else model
    without_memory = lent(model, name)
    check_lent(model, tuning, without_memory)
    make_room(without_memory)
    with understood(tuning):
        result = peft.set_peft_model_state_dict(tuned, weights, adapter_name=name)
        missing = _missing(tuned, name, weights) if any(name in key.split(".") for key in result.missing_keys) else []
    check_landed(tuning, missing, list(result.unexpected_keys))
    if must_change and not changes(model, name, weights):
        raise CheckpointError(
            f"{tuning.path} ({tuning.kind}) changes nothing: with it the model computes what the base does. It was saved "
            "before it was trained"
        )
    return model


def _other_head(tuning: Tuning, heads: Sequence[str]) -> str:
    aside = f", and {', '.join(heads)} set aside" if heads else ""
    return (
        f"{tuning.path.name} ({tuning.kind}) was made with another head than the base has; it is put into the body, which is "
        f"the same{aside}"
    )


def _missing(model: nn.Module, name: str, weights: dict[str, Tensor]) -> list[str]:
    """The tensors that PEFT would save of an adapter and its file lacks."""
    whole = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return sorted(set(whole) - set(weights))


def _hook_prefix(model: nn.Module, tuning: Tuning) -> None:
    """Make a prefix live in the model, with the classification head that was trained with it.

    Raises:
        CheckpointError: if the prefix belongs to a base of another shape.
    """
    prefix, own = load_prefix(tuning.path, model), dict(model.named_parameters())
    strays = [name for name in prefix.head if name not in own]
    if strays and are_heads(model, strays):
        note(model, _other_head(tuning, strays))
        prefix.head = {name: tensor for name, tensor in prefix.head.items() if name in own}
    check_landed(tuning, [], [n for n, t in prefix.head.items() if n not in own or own[n].shape != t.shape])
    with understood(tuning):
        attach_prefix(model, prefix)


def _wrap_in_prompt(model: nn.Module, tuning: Tuning) -> nn.Module:
    """The model with rows before its text; they wrap the language model inside, if that generates by itself.

    Raises:
        CheckpointError: if the prompt belongs to a base of another width.
    """
    config, weights = peft_config(tuning), read_weights(tuning.path)
    path, own = _language_model(model), dict(model.named_parameters())
    host = model.get_submodule(path)
    brought = {name: name.removeprefix(SHARED).removeprefix("model.") for name in weights if name != PEFT_ROWS}
    strays = sorted(name for name in brought.values() if name not in own)
    if strays and are_heads(model, strays):
        note(model, _other_head(tuning, strays))
        weights = {name: tensor for name, tensor in weights.items() if brought.get(name) not in strays}
        config.task_type, config.modules_to_save = task_type(host), None
    with understood(tuning):
        check_landed(tuning, [PEFT_ROWS] if PEFT_ROWS not in weights else [], [])
        wrapped = peft.get_peft_model(host, config)
        result = peft.set_peft_model_state_dict(wrapped, weights)
    check_landed(tuning, [], sorted(set(result.unexpected_keys) - {PEFT_ROWS}))
    if not path:
        return wrapped
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, wrapped)
    return model


def _language_model(model: nn.Module) -> str:
    """The path of the model inside that generates text by itself, as BLIP-2's does; empty for the model as a whole."""
    base, named = unwrapped(model), model.named_modules()
    return next((path for path, m in named if path and isinstance(m, GenerationMixin) and m is not base), "")
