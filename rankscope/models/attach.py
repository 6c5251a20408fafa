"""Tunings onto a base, strictly: every tensor of an adapter lands, none is left at its start, and something changes.

A single adapter is attached as PEFT does it. Several are put *inside* the base, in order, each under a name of its own,
because PEFT refuses to wrap one kind in another; a prefix is hooked into the base's own modules
(:mod:`rankscope.models.prefix_live`), so that it is alive in ``forward`` and in ``generate``; a prompt wraps what is
left from outside.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from rankscope.checkpoint import Checkpoint, Tuning, digest
from rankscope.checkpoint.files import ADAPTER_WEIGHTS, weight_files
from rankscope.errors import CheckpointError, UnsafeError
from rankscope.models.prefix_files import load_prefix
from rankscope.models.prefix_live import attach_prefix
from rankscope.models.stacks import unwrapped

PREFIX = "prefix_tuning"
PROMPTS = ("prompt_tuning", "p_tuning", "multitask_prompt_tuning", "cpt")
"""The kinds that put rows before the text."""


def attach(model: PreTrainedModel, checkpoint: Checkpoint, *, must_change: bool = True) -> nn.Module:
    """The model with every adapter of a checkpoint attached, in order.

    Args:
        model: the checkpoint's weights, loaded; changed in place.
        checkpoint: what to attach.
        must_change: refuse an adapter that changes nothing, as a LoRA does whose B is zero.

    Raises:
        CheckpointError: if the base is not the one that was tuned, an adapter does not land, or changes nothing.
    """
    check_base(checkpoint)
    order = {PREFIX: 1, **dict.fromkeys(PROMPTS, 2)}
    adapters = sorted(checkpoint.adapters, key=lambda t: order.get(t.kind, 0))
    outside = [t for t in adapters if t.kind in PROMPTS]
    if len(outside) > 1:
        raise CheckpointError(f"only one prompt can stand before the text; {checkpoint.path} has {len(outside)}")
    alone = len(adapters) == 1
    for i, tuning in enumerate(adapters):
        if tuning.kind == PREFIX:
            attach_prefix(unwrapped(model), load_prefix(tuning.path, unwrapped(model)))
        elif tuning.kind in PROMPTS:
            model = prompt(model, tuning)
        else:
            model = inside(model, tuning, name="default" if alone else f"stage{i}", wrap=alone, must_change=must_change)
    return model


def check_base(checkpoint: Checkpoint) -> None:
    """See that the base is the one that was tuned, where its digest was recorded.

    Raises:
        CheckpointError: if it is another one.
    """
    if checkpoint.base_digest is None:
        return
    found = digest(checkpoint.base)
    if found != checkpoint.base_digest:
        raise CheckpointError(
            f"{checkpoint.path} was tuned on a base with digest {checkpoint.base_digest[:12]}…, and {checkpoint.base} has "
            f"{found[:12]}…: it is another model, or was changed since; give the right one with --base-model (base_model=…)"
        )


def peft_config(tuning: Tuning) -> peft.PeftConfig:
    """PEFT's configuration of an adapter; entries that this PEFT does not know are left out.

    Raises:
        CheckpointError: if this PEFT does not know the kind of adapter.
    """
    kinds = {str(getattr(kind, "value", kind)).lower(): cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if tuning.kind not in kinds:
        raise CheckpointError(
            f"{tuning.path} is an adapter of the kind {tuning.kind!r}, which PEFT {peft.__version__} does not know; it knows "
            f"{', '.join(sorted(kinds))}"
        )
    known = {field.name for field in fields(kinds[tuning.kind]) if field.init} - {"auto_mapping"}
    try:
        config = kinds[tuning.kind](**{k: v for k, v in tuning.config.items() if k in known and k != "peft_type"})
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{tuning.path / 'adapter_config.json'} is no configuration of {tuning.kind}: {error}"
        ) from error
    config.inference_mode = True
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter, on the CPU.

    Raises:
        CheckpointError: if the file is damaged, or a tensor holds NaN or infinite numbers.
        UnsafeError: if it is a pickle of more than tensors.
    """
    file = weight_files(folder, ADAPTER_WEIGHTS)[0]
    try:
        tensors = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise UnsafeError(
            f"{file} is a pickle with more than tensors in it; it is not opened. Ask for safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy it again") from error
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{file}: {len(bad)} tensors hold NaN or infinite numbers ({', '.join(bad[:4])})")
    return tensors


def inside(model: nn.Module, tuning: Tuning, *, name: str, wrap: bool, must_change: bool = True) -> nn.Module:
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
            model = peft.get_peft_model(model, config, adapter_name=name)  # type: ignore[arg-type]
        else:
            peft.inject_adapter_in_model(config, model, adapter_name=name)
        result = peft.set_peft_model_state_dict(model, weights, adapter_name=name)
    missing = [k for k in result.missing_keys if name in k.split(".")]
    check_landed(tuning, missing, list(result.unexpected_keys))
    model.requires_grad_(False)
    if must_change and not changes(model, name):
        raise CheckpointError(
            f"{tuning.path} ({tuning.kind}) changes nothing: with it the model computes what the base does. It was saved "
            "before it was trained"
        )
    return model


def prompt(model: nn.Module, tuning: Tuning) -> nn.Module:
    """The model with rows put before its text; around the language model inside, where that generates by itself.

    Raises:
        CheckpointError: if the prompt belongs to a base of another width.
    """
    config, weights = peft_config(tuning), read_weights(tuning.path)
    path = language_model(model)
    host = model.get_submodule(path)
    with understood(tuning):
        wrapped = peft.get_peft_model(host, config)  # type: ignore[arg-type]
        peft.set_peft_model_state_dict(wrapped, weights)
    check_landed(
        tuning,
        [] if "prompt_embeddings" in weights else ["prompt_embeddings"],
        sorted(set(weights) - {"prompt_embeddings"}),
    )
    wrapped.requires_grad_(False)
    if not path:
        return wrapped
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, wrapped)
    return model


def language_model(model: nn.Module) -> str:
    """The path of the model inside that generates text by itself, as BLIP-2's does; empty for the model as a whole."""
    inner = (
        path
        for path, m in model.named_modules()
        if path and isinstance(m, GenerationMixin) and m is not unwrapped(model)
    )
    return next(inner, "")


def check_landed(tuning: Tuning, missing: list[str], unexpected: list[str]) -> None:
    """See that an adapter's tensors are the ones that its layers wait for.

    Raises:
        CheckpointError: if some are missing or left over.
    """
    faults = [
        f"{len(keys)} {word} ({', '.join(sorted(keys)[:4])}{', …' if len(keys) > 4 else ''})"
        for word, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if faults:
        raise CheckpointError(
            f"the adapter {tuning.path} ({tuning.kind}) does not land: {'; '.join(faults)}. It was made for another base, or "
            "its file is incomplete; the base without it would give plausible numbers of the wrong model"
        )


@contextmanager
def understood(tuning: Tuning) -> Iterator[None]:
    """What PEFT raises inside the block, as an error that names the adapter."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        told = " ".join(line.strip() for line in str(error).splitlines()[:3])[:300]
        raise CheckpointError(
            f"the adapter {tuning.path} ({tuning.kind}) does not fit this base: {told}. It was made for another base, or its "
            "file is damaged"
        ) from error


def changes(model: nn.Module, name: str) -> bool:
    """Whether an adapter changes what any of its layers computes, tried on random input to the layer alone.

    A layer whose input cannot be told (not a linear map, a convolution or an embedding) counts as changed.
    """
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save and _saved_differs(module, name):
            return True
        if isinstance(module, BaseTunerLayer) and _layer_changes(module, name):
            return True
    return False


def _saved_differs(module: ModulesToSaveWrapper, name: str) -> bool:
    before, after = module.original_module.state_dict(), module.modules_to_save[name].state_dict()
    return any(not torch.equal(before[key], after[key].to(before[key])) for key in before)


@torch.no_grad()
def _layer_changes(layer: Any, name: str) -> bool:
    if name not in _adapters(layer):
        return False
    x = _input_of(layer.get_base_layer())
    if x is None:
        return True
    before, active = layer.training, list(layer.active_adapters)
    try:
        layer.eval()
        layer.set_adapter([name])
        return not torch.equal(layer(x), layer.get_base_layer()(x))
    finally:
        layer.set_adapter(active)
        layer.train(before)


def _adapters(layer: Any) -> set[str]:
    held = [getattr(layer, attribute, None) for attribute in layer.adapter_layer_names]
    return {key for part in held if isinstance(part, nn.ModuleDict | nn.ParameterDict | Mapping) for key in part.keys()}  # noqa: SIM118


def _input_of(layer: nn.Module) -> Tensor | None:
    """A random input for a layer, on its device and in its dtype; None if its kind is not known."""
    generator = torch.Generator().manual_seed(0)
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.Embedding):
        return torch.arange(min(layer.num_embeddings, 64), device=layer.weight.device)
    width = getattr(layer, "in_features", None) or getattr(layer, "nx", None)
    if not isinstance(width, int) or not isinstance(weight, Tensor):
        return None
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return torch.randn(4, width, generator=generator).to(weight.device, dtype)


def count(weights: Mapping[str, Tensor]) -> int:
    """The numbers in an adapter's file."""
    return sum(t.numel() for t in weights.values())


def recorded(folder: Path) -> dict[str, Any]:
    """What ``rankscope.json`` in a folder tells; empty where there is none."""
    path = folder / "rankscope.json"
    return json.loads(path.read_text()) if path.is_file() else {}
