"""The linear maps that LoRA and adapters tune, found by their place in a block and not by a list of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

from torch import nn

from rankscope.errors import UnknownName, UsageError
from rankscope.models.stacks import stacks, unwrapped
from rankscope.models.tunings.attention import Attention, attentions, width_out
from rankscope.models.tunings.prefix_live import language_stacks


def blocks_of(model: nn.Module, names: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The blocks of these stacks, by default of those that read text, by their path in the base model.

    Raises:
        UnknownName: if the model has no such stack of blocks.
    """
    there = {
        name: stack.blocks or (stack.output,) for name, stack in stacks(model).items() if stack.blocks or stack.stage
    }
    wanted = tuple(names) or tuple(name for name in language_stacks(model) if name in there)
    unknown = [name for name in wanted if name not in there]
    if unknown or not wanted:
        raise UnknownName(f"the model has no stack of blocks {', '.join(unknown)}; it has {', '.join(there) or 'none'}")
    paths = {id(module): path for path, module in unwrapped(model).named_modules()}
    return {paths[id(block)]: block for name in wanted for block in there[name] if block is not None}


def linear_maps(block: nn.Module) -> dict[str, nn.Module]:
    """The linear maps of a block by path, in its order."""
    return {path: module for path, module in block.named_modules() if path and _is_linear(module)}


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    try:
        return width_out(module) > 0 and getattr(weight, "ndim", 2) == 2
    except UsageError:
        return False


def target_maps(
    model: nn.Module, endings: Sequence[str], *, in_stacks: Sequence[str], by_default: Callable[..., list[str]]
) -> list[str]:
    """The paths of linear maps that end in one of these, or what an architecture has by default if none is named.

    Raises:
        UnknownName: if no linear map has an ending; the message lists those there are.
    """
    if not endings:
        return by_default(model, in_stacks=in_stacks)
    blocks = blocks_of(model, in_stacks)
    there = [f"{path}.{inner}" for path, block in blocks.items() for inner in linear_maps(block)]
    for ending in endings:
        if not any(f".{path}".endswith(f".{ending}") for path in there):
            raise UnknownName(f"the model has no linear map {ending!r}; it has {_endings(blocks)}")
    return [path for path in there if f".{path}".endswith(tuple(f".{ending}" for ending in endings))]


def query_key_value(model: nn.Module, *, in_stacks: Sequence[str] = ()) -> list[str]:
    """The paths of the query, key and value maps of every attention; blocks without one (of linear attention, Mamba) have none.

    Raises:
        UsageError: if no block has an attention whose maps have known names.
    """
    blocks = blocks_of(model, in_stacks)
    # The block itself can be the attention; its path inside the block is empty then.
    paths = [
        ".".join(filter(None, (path, a.path, name)))
        for path, block in blocks.items()
        for a in attentions(block)
        for name in a.maps
    ]
    if not paths:
        kinds = ", ".join(sorted({type(block).__name__ for block in blocks.values()}))
        raise UsageError(
            f"no {kinds} has query, key and value maps of known names; name the maps to tune with --lora-targets (lora_targets=…). Those "
            f"that there are end in {_endings(blocks)}"
        )
    return paths


def _endings(blocks: Mapping[str, nn.Module]) -> str:
    return ", ".join(sorted({path.rpartition(".")[2] for block in blocks.values() for path in linear_maps(block)}))


def sublayer_outputs(model: nn.Module, *, in_stacks: Sequence[str] = ()) -> list[str]:
    """The paths of the last map of every attention and of every feed-forward: where a sub-layer's output leaves it.

    Raises:
        UsageError: if a block has no linear map, or a sub-layer whose last map cannot be found.
    """
    there, paths = stacks(model), []
    for name in tuple(in_stacks) or language_stacks(model):
        for path, block in blocks_of(model, (name,)).items():
            paths += [f"{path}.{inner}" for inner in _outputs_in(block, path, there[name].width)]
    return paths


def _outputs_in(block: nn.Module, path: str, width: int | None) -> list[str]:
    if not (linear := linear_maps(block)):
        raise UsageError(f"{path} ({type(block).__name__}) has no linear map that an adapter could stand behind")
    # A sub-layer's output has the width of the stack: of its maps, the last of that width is the one that leaves it.
    width = width or width_out(list(linear.values())[-1])
    wide = [inner for inner, module in linear.items() if width_out(module) == width]
    inside = [a for a in attentions(block) if a.path]
    outputs: list[str] = []
    claimed: set[str] = set()
    for attention in inside:
        maps = {f"{attention.path}.{name}" for name in attention.maps}
        holder = _holder(attention, maps, wide)
        claimed |= {inner for inner in linear if inner.startswith(f"{holder}.")}
        outputs += [inner for inner in wide if inner.startswith(f"{holder}.") and inner not in maps][-1:]
    # What no attention claims is the feed-forward.
    outputs += [inner for inner in wide if inner not in claimed][-1:]
    if len(outputs) < len(inside):
        raise UsageError(
            f"{path} ({type(block).__name__}) has sub-layers whose last map is not found; name the maps with "
            f"--adapter-targets (adapter_targets=…). The available ones end in {_endings({path: block})}"
        )
    return outputs


def _holder(attention: Attention, maps: Set[str], wide: Sequence[str]) -> str:
    """The path of the module that holds an attention and its output map: itself, or the module around it (BERT)."""
    inside = [inner for inner in wide if inner.startswith(f"{attention.path}.") and inner not in maps]
    return attention.path if inside else attention.path.rpartition(".")[0] or attention.path
