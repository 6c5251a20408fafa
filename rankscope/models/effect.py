"""Whether an adapter changes what its layers compute; one that was saved before it was trained does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn


def changes(model: nn.Module, name: str) -> bool:
    """Whether an adapter changes what any of its layers computes, tried on random input to the layer alone.

    A layer whose input cannot be told (not a linear map or an embedding) counts as changed unless one of the adapter's
    factors in it is all zeros.
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
    if name not in adapters_in(layer):
        return False
    x = _input_of(layer.get_base_layer())
    if x is None:
        return not any(_is_zero(part[name]) for part in _parts(layer) if name in part)
    before, active = layer.training, list(layer.active_adapters)
    try:
        layer.eval()
        layer.set_adapter([name])
        return not torch.equal(layer(x), layer.get_base_layer()(x))
    finally:
        layer.set_adapter(active)
        layer.train(before)


def _parts(layer: Any) -> list[Mapping[str, Any]]:
    """What a layer holds of its adapters: for each factor a dictionary from the adapter's name."""
    held = (getattr(layer, attribute, None) for attribute in layer.adapter_layer_names)
    return [dict(part.items()) for part in held if isinstance(part, nn.ModuleDict | nn.ParameterDict | Mapping)]


def adapters_in(layer: Any) -> set[str]:
    """The names of the adapters that a layer holds."""
    return {name for part in _parts(layer) for name in part}


def _is_zero(part: Any) -> bool:
    tensors = list(part.parameters()) if isinstance(part, nn.Module) else [part]
    return all(not tensor.any() for tensor in tensors)


def _input_of(layer: nn.Module) -> Tensor | None:
    """A random input for a layer, on its device and in its dtype; None if its kind is not known."""
    generator = torch.Generator().manual_seed(0)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.device.type == "meta":
        return None
    if isinstance(layer, nn.Embedding):
        return torch.arange(min(layer.num_embeddings, 64), device=layer.weight.device)
    width = getattr(layer, "in_features", None) or getattr(layer, "nx", None)
    if not isinstance(width, int):
        return None
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return torch.randn(4, width, generator=generator).to(weight.device, dtype)
