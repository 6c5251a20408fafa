"""Tunings onto a base, strictly: every tensor of an adapter lands, none keeps its initial value, and something changes.

A single adapter is attached as PEFT does it. Several are put *inside* the base, in order, each under its own name,
because PEFT refuses to wrap one kind in another; a prefix is hooked into the base's own modules
(:mod:`rankscope.models.tunings.prefix_live`), so that it is alive in ``forward`` and in ``generate``; a prompt wraps what is
left from outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import peft
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from rankscope.checkpoint import Checkpoint, Tuning, digest
from rankscope.errors import CheckpointError
from rankscope.models.stacks import unwrapped
from rankscope.models.tunings.adapters import check_landed, peft_config, read_weights, understood
from rankscope.models.tunings.effect import adapters_in, changes
from rankscope.models.tunings.offload import check_lent, lent, make_room
from rankscope.models.tunings.prefix_files import PEFT_ROWS, load_prefix
from rankscope.models.tunings.prefix_live import attach_prefix

PREFIX = "prefix_tuning"
PROMPTS = ("prompt_tuning", "p_tuning", "cpt", "cartridge")
"""The kinds that PEFT passes along with the text: as rows before it, or (a cartridge) in the cache."""


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
    order = {PREFIX: 1, **dict.fromkeys(PROMPTS, 2)}
    adapters = sorted(checkpoint.adapters, key=lambda t: order.get(t.kind, 0))
    for what, kinds in (("prefix", (PREFIX,)), ("prompt", PROMPTS)):
        if (many := sum(t.kind in kinds for t in adapters)) > 1:
            raise CheckpointError(f"a model takes one {what}; {checkpoint.path} has {many}")
    alone, attached = len(adapters) == 1, list[str]()
    for i, tuning in enumerate(adapters):
        if tuning.kind == PREFIX:
            _hook_prefix(unwrapped(model), tuning)
        elif tuning.kind in PROMPTS:
            model = _wrap_in_prompt(model, tuning)
        else:
            attached.append("default" if alone else f"stage{i}")
            model = _inject(model, tuning, name=attached[-1], wrap=alone, must_change=must_change)
    if len(attached) > 1:
        _activate(model, attached)
    return model.requires_grad_(False) if adapters else model


def _activate(model: nn.Module, names: Sequence[str]) -> None:
    """Let every adapter act; PEFT leaves only the last one active."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            held = adapters_in(module)
            module.set_adapter([name for name in names if name in held])


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
    config, weights = peft_config(tuning), read_weights(tuning.path)
    with understood(tuning):
        if wrap:
            model = peft.get_peft_model(model, config, adapter_name=name)
        else:
            peft.inject_adapter_in_model(config, model, adapter_name=name)
            cast_adapter_dtype(model, name)  # float32 under half-precision weights, as PEFT's own wrapper has it
    without_memory = lent(model, name)
    check_lent(model, tuning, without_memory)
    make_room(without_memory)
    with understood(tuning):
        result = peft.set_peft_model_state_dict(model, weights, adapter_name=name)
        missing = _missing(model, name, weights) if any(name in key.split(".") for key in result.missing_keys) else []
    check_landed(tuning, missing, list(result.unexpected_keys))
    if must_change and not changes(model, name, weights):
        raise CheckpointError(
            f"{tuning.path} ({tuning.kind}) changes nothing: with it the model computes what the base does. It was saved "
            "before it was trained"
        )
    return model


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
    check_landed(tuning, [], [n for n, t in prefix.head.items() if n not in own or own[n].shape != t.shape])
    with understood(tuning):
        attach_prefix(model, prefix)


def _wrap_in_prompt(model: nn.Module, tuning: Tuning) -> nn.Module:
    """The model with rows before its text; they wrap the language model inside, if that generates by itself.

    Raises:
        CheckpointError: if the prompt belongs to a base of another width.
    """
    config, weights = peft_config(tuning), read_weights(tuning.path)
    path = _language_model(model)
    host = model.get_submodule(path)
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
