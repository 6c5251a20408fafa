"""Whether an adapter changes what its layers compute: one that was saved before it was trained does not."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.lora.variants import ALoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

ROUNDING = torch.finfo(torch.float32).eps
"""Relative changes up to this, computed in float64, are rounding: factors of the base's own weights (DoRA's lengths, a
singular value decomposition) are stored in float32."""

_BY_NAME = nn.ModuleDict | nn.ParameterDict | Mapping


def changes(model: nn.Module, name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether an adapter changes what any of its layers computes, tried on random input to the layer alone.

    If the shape of a layer's input is unknown (it is no linear map, convolution, norm or embedding), or PEFT puts no layer
    of its own into the model, it counts as changed unless one of the adapter's factors is all zeros.

    Args:
        model: the model with the adapter in it.
        name: what the adapter is called there.
        weights: the adapter's tensors, by their names in its file.
    """
    tried = False
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save:
            tried, changed = True, _saved_differs(module, name)
        elif isinstance(module, BaseTunerLayer) and name in adapters_in(module):
            tried, changed = True, _layer_changes(module, name)
        else:
            continue
        if changed:
            return True
    factors: dict[str, bool] = {}
    for key, tensor in weights.items():
        factor = key.rpartition(".")[2]
        factors[factor] = factors.get(factor, False) or bool(tensor.any())
    return not tried and all(factors.values())


def _saved_differs(module: ModulesToSaveWrapper, name: str) -> bool:
    before, after = module.original_module.state_dict(), module.modules_to_save[name].state_dict()
    return any(not torch.equal(before[key], after[key].to(before[key])) for key in before)


@torch.no_grad()
def _layer_changes(layer: Any, name: str) -> bool:
    inputs = () if _waits(layer, name) else _inputs_of(layer.get_base_layer())
    if not inputs:
        return not any(
            _is_zero(factor[name]) for factor in held(layer) if isinstance(factor, _BY_NAME) and name in factor
        )
    before, active = layer.training, list(layer.active_adapters)
    try:
        layer.eval()
        layer.set_adapter([name])
        return any(_changes_for(layer, x) for x in inputs)
    finally:
        layer.set_adapter(active)
        layer.train(before)


def _changes_for(layer: Any, x: Tensor) -> bool:
    with_it, without = layer(x), layer.get_base_layer()(x)
    # Beyond 64 roundings of the layer's own dtype the change is real; below, float64 decides, where it can be computed.
    return not torch.equal(with_it, without) and (
        not _close(with_it, without, 64 * torch.finfo(without.dtype).eps)
        or not layer.get_base_layer().weight.is_floating_point()
        or _differs_in_float64(layer, x)
    )


def _waits(layer: Any, name: str) -> bool:
    """Whether an adapter acts only from its invocation tokens on (aLoRA), which a layer alone never sees."""
    return isinstance(getattr(layer, "lora_variant", {}).get(name), ALoraLinearVariant)


def _close(a: Tensor, b: Tensor, relative: float) -> bool:
    return bool((a - b).norm() <= relative * b.norm())


def _differs_in_float64(layer: Any, x: Tensor) -> bool:
    exact = copy.deepcopy(layer).double()
    x = x.double() if x.is_floating_point() else x
    return not _close(exact(x), exact.get_base_layer()(x), ROUNDING)


def held(layer: Any) -> list[Any]:
    """What a layer holds of its adapters: for most factors a dictionary from the adapter's name."""
    return [factor for name in layer.adapter_layer_names if (factor := getattr(layer, name, None)) is not None]


def adapters_in(layer: Any) -> set[str]:
    """The names of the adapters that a layer holds."""
    return {name for factor in held(layer) if isinstance(factor, _BY_NAME) for name in factor}


def _is_zero(part: Any) -> bool:
    tensors = list(part.parameters()) if isinstance(part, nn.Module) else [part]
    return all(not tensor.any() for tensor in tensors)


def _inputs_of(layer: nn.Module) -> tuple[Tensor, ...]:
    """Inputs for a layer, on its device and in its dtype: every word for an embedding, else random; none if its kind is not known."""
    generator = torch.Generator().manual_seed(0)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.device.type == "meta":
        return ()
    if isinstance(layer, nn.Embedding):  # an adapter changes the words alone that it was trained on
        return torch.arange(layer.num_embeddings, device=layer.weight.device).split(1024)
    shape = _shape_in(layer, weight)
    if shape is None:
        return ()
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return (torch.randn(4, *shape, generator=generator).to(weight.device, dtype),)


def _shape_in(layer: nn.Module, weight: Tensor) -> tuple[int, ...] | None:
    """The shape of one input of a linear map, a convolution or a norm; None for other layers."""
    width = getattr(layer, "in_features", None) or getattr(layer, "nx", None)
    if isinstance(width, int):
        return (width,)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return (layer.in_channels, *(d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)))
    return (len(weight),) if weight.ndim == 1 else None
