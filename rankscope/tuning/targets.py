"""The linear maps that a method tunes, found per architecture by where they stand in a block, not by a list of models."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rankscope.errors import UnknownName, UsageError
from rankscope.models.stacks import Stack, stacks, unwrapped
from rankscope.models.tunings.attention import Attention, attentions, width_out
from rankscope.models.tunings.prefix_live import language_stacks


def blocks_of(model: nn.Module, names: Sequence[str] = ()) -> dict[str, nn.Module]:
    """The blocks of the stacks of these names, by their path in the base model; of those that read text unless named.

    Raises:
        UnknownName: if the model has no such stack of blocks.
    """
    there = {name: stack for name, stack in stacks(model).items() if stack.blocks}
    wanted = tuple(names) or tuple(name for name in language_stacks(model) if name in there)
    unknown = [name for name in wanted if name not in there]
    if unknown or not wanted:
        raise UnknownName(f"the model has no stack of blocks {', '.join(unknown)}; it has {', '.join(there) or 'none'}")
    paths = {id(module): path for path, module in unwrapped(model).named_modules()}
    return {paths[id(block)]: block for name in wanted for block in there[name].blocks}


def linear_maps(block: nn.Module) -> dict[str, nn.Module]:
    """The linear maps of a block by path, in its order."""
    return {path: module for path, module in block.named_modules() if path and _is_linear(module)}


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    try:
        return width_out(module) > 0 and getattr(weight, "ndim", 2) == 2
    except UsageError:
        return False


def named(model: nn.Module, endings: Sequence[str], *, in_stacks: Sequence[str] = ()) -> list[str]:
    """The paths of linear maps that end in one of these.

    Raises:
        UnknownName: if an ending fits none; the message lists the endings there are.
    """
    blocks = blocks_of(model, in_stacks)
    there = [f"{path}.{inner}" for path, block in blocks.items() for inner in linear_maps(block)]
    for ending in endings:
        if not any(_ends(path, ending) for path in there):
            known = sorted({path.rpartition(".")[2] for path in there})
            raise UnknownName(f"the model has no linear map {ending!r}; it has {', '.join(known)}")
    return [path for path in there if any(_ends(path, ending) for ending in endings)]


def _ends(path: str, ending: str) -> bool:
    return path == ending or path.endswith(f".{ending}")


def query_key_value(model: nn.Module, *, in_stacks: Sequence[str] = ()) -> list[str]:
    """The paths of the query, key and value maps of every attention.

    Raises:
        UsageError: if a block has no attention that is known by its maps.
    """
    found = []
    for path, block in blocks_of(model, in_stacks).items():
        inside = attentions(block)
        if not inside:
            raise UsageError(
                f"{path} ({type(block).__name__}) has no query, key and value maps that are known; name targets"
            )
        found += [".".join(filter(None, (path, a.path, name))) for a in inside for name in a.maps]
    return found


def sublayer_outputs(model: nn.Module, *, in_stacks: Sequence[str] = ()) -> list[str]:
    """The paths of the last map of every attention and of every feed-forward: where a sub-layer's output leaves it.

    Raises:
        UsageError: if a block has none that can be told.
    """
    there = stacks(model)
    wanted = tuple(in_stacks) or language_stacks(model)
    return [path for name in wanted for path in _outputs(model, name, there.get(name))]


def _outputs(model: nn.Module, name: str, stack: Stack | None) -> list[str]:
    found = []
    for path, block in blocks_of(model, (name,)).items():
        if not (linear := linear_maps(block)):
            raise UsageError(f"{path} ({type(block).__name__}) has no linear map that an adapter could stand behind")
        width = stack.width if stack is not None and stack.width else width_out(list(linear.values())[-1])
        wide = [inner for inner, module in linear.items() if width_out(module) == width]
        inside = [a for a in attentions(block) if a.path]
        own: list[str] = []
        claimed: set[str] = set()
        for a in inside:
            around = _around(a, wide)
            claimed |= {inner for inner in linear if inner.startswith(f"{around}.")}
            maps = {f"{a.path}.{n}" for n in a.maps}
            own += [inner for inner in wide if inner.startswith(f"{around}.") and inner not in maps][-1:]
        own += [inner for inner in wide if inner not in claimed][-1:]
        if len(own) < len(inside):
            raise UsageError(
                f"{path} ({type(block).__name__}) has sub-layers whose last map cannot be told; name targets"
            )
        found += [f"{path}.{inner}" for inner in own]
    return found


def _around(attention: Attention, wide: Sequence[str]) -> str:
    """The path of what holds an attention with its output map: itself, or the module around it (BERT)."""
    maps = {f"{attention.path}.{name}" for name in attention.maps}
    inside = [inner for inner in wide if inner.startswith(f"{attention.path}.") and inner not in maps]
    return attention.path if inside else attention.path.rpartition(".")[0] or attention.path
