"""FSDP, as accelerate sets it up from its own configuration or environment, as far as it keeps parameters under their names."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import nn

from rankscope.errors import UsageError
from rankscope.models.stacks import stacks, unwrapped


def check_sharding(model: nn.Module, plugin: Any) -> None:
    """Check that a sharded model can still be saved by the names of its parameters, and have it sharded block by block.

    Args:
        model: the model, not sharded yet.
        plugin: accelerate's FSDP plugin; unless it names others, the blocks of the model's stacks become its units.

    Raises:
        UsageError: if it is FSDP's first version, which melts parameters together, or modules share parameters in a way that
            accelerate's FSDP2 cannot shard.
    """
    if plugin.fsdp_version < 2:
        raise UsageError(
            "FSDP's first version melts parameters together, and rankscope keeps what is trained by name; shard with FSDP2 "
            "(accelerate launch --use_fsdp --fsdp_version 2)"
        )
    if shared := _shared(model):
        raise UsageError(
            f"{', '.join(shared)} of this {type(unwrapped(model)).__name__} are one parameter, which accelerate's FSDP2 cannot "
            "shard; train data parallel (torchrun without FSDP)"
        )
    if not plugin.transformer_cls_names_to_wrap:
        kinds = {type(block).__name__ for stack in stacks(model).values() for block in stack.blocks}
        plugin.transformer_cls_names_to_wrap = sorted(kinds)


def _shared(model: nn.Module) -> list[str]:
    """The names of one parameter that several modules share, other than the input and output embeddings, which may."""
    names = defaultdict[int, list[str]](list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    ends = [getattr(model, f"get_{end}_embeddings", lambda: None)() for end in ("input", "output")]
    for shared in names.values():
        owners = [model.get_submodule(name.rpartition(".")[0]) for name in shared]
        if len(shared) > 1 and not all(any(owner is end for end in ends) for owner in owners):
            return shared
    return []
