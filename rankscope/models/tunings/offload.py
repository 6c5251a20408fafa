"""Adapters in parts of a base that a device map offloads to the CPU or to disk.

The weights of such a part are on no device: a hook of accelerate lends them for each call. What PEFT puts into it would
be on none either, and compute with whatever the memory held; so it is put where the part runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from rankscope.checkpoint import Tuning
from rankscope.errors import CheckpointError
from rankscope.models.tunings.adapters import reads_base
from rankscope.models.tunings.effect import adapters_in, held


def lent(model: nn.Module, name: str) -> list[Any]:
    """The layers with an adapter of that name whose base's weights are lent to each call."""
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer) and name in adapters_in(m)]
    return [layer for layer in layers if any(p.is_meta for p in layer.get_base_layer().parameters())]


def check_lent(model: nn.Module, tuning: Tuning, layers: Sequence[Any]) -> None:
    """Refuse an adapter that would read weights which are not there.

    Raises:
        CheckpointError: if it is of a kind that reads the weights of its layers, or brings a whole module in place of one.
    """
    reads = bool(layers) and reads_base(tuning)
    whole = (m for m in model.modules() if isinstance(m, ModulesToSaveWrapper))
    if reads or any(p.is_meta for m in whole for p in m.parameters()):
        raise CheckpointError(
            f"{tuning.path} ({tuning.kind}) needs the weights of layers that device_map offloads; spread the model so that all of "
            "it is on devices, or run it on the CPU"
        )


def make_room(layers: Sequence[Any]) -> None:
    """Give an adapter's tensors memory where their layers run; what is in it waits to be overwritten."""
    for layer in layers:
        hooks = (getattr(module, "_hf_hook", None) for module in layer.get_base_layer().modules())
        device = next(hook.execution_device for hook in hooks if hook is not None)
        for factor in held(layer):
            if isinstance(factor, nn.Module):
                factor._apply(lambda x, to=device: torch.empty_like(x, device=to) if x.is_meta else x)
