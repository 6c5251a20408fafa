"""Stacks: where the sites of a model are read, resolved on the base model inside whatever wraps it.

A site is read on the base network's own modules, which stay in place under every tuning: so ``decoder.3`` means the same
in a plain model, inside a ``PeftModel``, with LoRA injected, with hooks of a device map, and around a prefix. What is
*called* is always the outermost, tuned model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from rankscope.errors import CheckpointError, UnknownName
from rankscope.models import structure
from rankscope.models.families import FAMILIES, Inner, Part
from rankscope.models.stack import Stack, unwrapped
from rankscope.reading.hooks import Tap
from rankscope.sites import Site, describe

__all__ = ["Stack", "sites", "stacks", "tap", "taps", "unwrapped"]


def stacks(model: nn.Module) -> dict[str, Stack]:
    """The stacks of a model by name, in the order in which an input passes them.

    A Hugging Face model of a family in :data:`~rankscope.models.families.FAMILIES` has those of the table, any other
    those found by its structure; in any other ``nn.Module`` each named submodule is a stack with the site ``output``.

    Args:
        model: the model, wrapped or not.
    """
    base = unwrapped(model)
    found = list(_family(base)) or structure.search(base) if isinstance(base, PreTrainedModel) else []
    if not found:
        return {name: Stack(name, (), output=module) for name, module in _named(base)}
    return {stack.name: stack for stack in found}


def sites(model: nn.Module) -> tuple[Site, ...]:
    """Every site of a model, in order."""
    return tuple(taps(model))


def taps(model: nn.Module) -> dict[Site, Tap]:
    """Where each site of a model is read."""
    return {site: tap for stack in stacks(model).values() for site, tap in stack.taps.items()}


def tap(model: nn.Module, site: Site) -> Tap:
    """Where one site is read.

    Raises:
        UnknownName: if the model has no such site; the message lists those it has.
    """
    there = taps(model)
    if site not in there:
        raise UnknownName(f"the model has no site {site}; it has {describe(tuple(there))}")
    return there[site]


def _named(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in base.named_modules():
        if name and not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict):
            yield name, module


def _family(model: nn.Module) -> Iterator[Stack]:
    """The stacks that the table gives for a model; none where it is not there or its paths do not exist."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    base = getattr(model, "base_model", model)
    for part in FAMILIES.get(str(kind), ()):
        if isinstance(part, Inner):
            yield from _inner(base, part)
        elif (stack := _stack(base, part)) is not None:
            yield stack


def _inner(base: nn.Module, part: Inner) -> list[Stack]:
    model = walk(base, part.path)[-1]
    if model is None:
        return []
    names = dict(part.rename)
    found = list(_family(model)) or structure.search(model)
    return [replace(stack, name=names.get(stack.name, stack.name)) for stack in found]


def _stack(base: nn.Module, part: Part) -> Stack | None:
    way = walk(base, part.blocks)
    if way[-1] is None:
        return None
    models = [m for m in way if isinstance(m, PreTrainedModel)]
    owner = next(m for m in models if m.config is models[-1].config)
    if part.single:
        return Stack(
            part.stack, (), output=way[-1], width=structure.width_out(way[-1]), columns=part.columns, owner=owner
        )
    blocks = tuple(way[-1].children())
    if not blocks:
        raise CheckpointError(f"the stack {part.stack} of this {type(base).__name__} has no blocks")
    final = walk(base, part.final)[-1] if part.final else None
    return Stack(
        part.stack, blocks, final, width=structure.width_of(owner, part.width), columns=part.columns, owner=owner
    )


def walk(module: nn.Module, path: str) -> list[nn.Module | None]:
    """The modules along a path, wrappers opened at each step; the last is None where the path does not exist."""
    way: list[nn.Module | None] = [unwrapped(module)]
    for name in path.split("."):
        child = getattr(way[-1], name, None)
        if not isinstance(child, nn.Module):
            return [*way, None]
        way.append(unwrapped(child))
    return way
