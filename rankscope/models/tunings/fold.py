"""Adapters folded into the weights that they sit on, as before a second stage that was trained on the merged model."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from rankscope.errors import CheckpointError, UsageError


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Merge every adapter into the weights under it and take its layers out, in place.

    Args:
        model: a model with adapters injected, all active.

    Raises:
        CheckpointError: if the weights are offloaded or quantised, or an adapter is not linear, so that they cannot take it up.
    """
    there: list[tuple[str, Any]] = [
        (path, m) for path, m in model.named_modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    for path, module in there:
        if not all(p.is_floating_point() and not p.is_meta for p in module.parameters()):
            raise _stays(path, "its weights are offloaded or quantised")
    outer = [(path, m) for path, m in there if not any(path.startswith(f"{other}.") for other, _ in there)]
    for path, module in there[::-1]:  # the innermost first: what is around it acts on what it gives
        held = [o for o, m in there if isinstance(m, AuxiliaryTrainingWrapper) and path.startswith(f"{o}.")]
        if isinstance(module, BaseTunerLayer) and not held:
            try:
                module.merge()
            except (NotImplementedError, ValueError, RuntimeError, UsageError) as error:
                raise _stays(path, str(error)) from error
    for path, module in outer:
        if isinstance(module, BaseTunerLayer):
            plain = module.get_base_layer()
        else:
            plain = module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    if hasattr(model, "peft_config"):
        del model.peft_config  # which the kinds that share a state between layers would read as theirs


def _stays(path: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"an earlier stage cannot be merged into {path}: {why}. The stage after it was taken as trained on the merged model; merge the "
        "earlier ones where they were trained, and give that model as the base"
    )
