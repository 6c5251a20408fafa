"""Rows for a prefix to start from: the keys and values that the model's own attention gives to real tokens.

Li & Liang, "Prefix-Tuning", ACL 2021, §7.4, found this start better than a random one if there is little data: the prefix
begins as something that the model has learned to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from rankscope.errors import UsageError
from rankscope.models.stacks import Stack, stacks
from rankscope.models.tunings.attention import attending
from rankscope.models.tunings.prefix import Prefix
from rankscope.models.tunings.prefix_live import CACHES, cached_owner, parameters_of


class Tokens(NamedTuple):
    """One sample to take tokens from."""

    inputs: Mapping[str, Tensor]
    """What the model is called with: a batch of one, without padding."""
    chosen: Mapping[str, Tensor]
    """``(t,)`` for each stack, True at the tokens that may be taken; a stack that is not named gives all of its tokens."""


@torch.no_grad()
def token_rows(model: nn.Module, prefix: Prefix, samples: Iterable[Tokens]) -> dict[str, Tensor]:
    """Rows for a prefix that is not attached yet, from as many samples as it takes; repeated if all have too few tokens.

    A stack that takes a cache gives what it writes there (keys after their rotation, if positions rotate them); one that takes
    none gives what its key and value maps return.

    Args:
        model: the model, without a prefix.
        prefix: the prefix to be filled.
        samples: samples in the order in which they are taken.

    Returns:
        ``(n, layers · 2 · heads · width)`` rows of each stack.

    Raises:
        UsageError: if no sample has a token for a stack.
    """
    there = {name: stacks(model)[name] for name in prefix.shapes}
    taken: dict[str, list[Tensor]] = {name: [] for name in there}
    was_training = model.training
    model.eval()
    for sample in samples:
        with _captured(model, there) as captured:
            model(**sample.inputs)
        for name, rows in captured.items():
            if (chosen := sample.chosen.get(name)) is not None:
                places = chosen.nonzero().flatten().to(rows.device)
                # The choice was made before an end token was added to the inputs; that token is not taken.
                rows = rows[places[places < len(rows)]]
            taken[name].append(rows)
        if all(sum(map(len, parts)) >= prefix.rows for parts in taken.values()):
            break
    model.train(was_training)
    return {name: _repeated(torch.cat(parts), prefix.rows, name) for name, parts in taken.items()}


def _repeated(rows: Tensor, count: int, stack: str) -> Tensor:
    """The first rows, so many, from the start again if there are too few."""
    if not len(rows):
        raise UsageError(f"no sample has a token for a prefix in {stack} to start from; use prefix_init=random")
    return rows[torch.arange(count, device=rows.device) % len(rows)]


@contextmanager
def _captured(model: nn.Module, there: Mapping[str, Stack]) -> Iterator[dict[str, Tensor]]:
    """Inside the block each pass of the model leaves ``(t, layers · 2 · heads · width)`` keys and values of each stack."""
    captured: dict[str, Tensor] = {}
    hooks: list[Any] = []
    for name, stack in there.items():
        owner = cached_owner(model, stacks(model), name)
        if owner is None:
            hooks += _hook_maps(stack, captured, name)
        else:
            hooks += _hook_cache(owner, len(stack.blocks), captured, name)
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()


def _hook_cache(owner: nn.Module, layers: int, captured: dict[str, Tensor], name: str) -> list[Any]:
    """Hooks that give the owner of a cache an empty one, and read afterwards what was written to it."""
    names, encoder_decoder = parameters_of(owner), getattr(getattr(owner, "config", None), "is_encoder_decoder", False)
    argument = next(c for c in CACHES if c in names)
    caches: list[DynamicCache] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        given = dict(zip(names, args, strict=False)) | kwargs
        caches[:] = [DynamicCache()]
        given |= {c: None for c in CACHES if c in given} | {"use_cache": True}
        given[argument] = EncoderDecoderCache(caches[0], DynamicCache()) if encoder_decoder else caches[0]
        return (), given

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # (layers, 2, heads, t, width), from a batch of one, to one row for each token: its key, then its value, layer by layer.
        both = torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in caches[0].layers[:layers]])
        captured[name] = both.permute(3, 0, 1, 2, 4).flatten(1)

    return [owner.register_forward_pre_hook(before, with_kwargs=True), owner.register_forward_hook(after)]


def _hook_maps(stack: Stack, captured: dict[str, Tensor], name: str) -> list[Any]:
    """Hooks that read what the key and value maps of every block return."""
    attentions = attending(stack.blocks)
    outputs: dict[tuple[int, int], Tensor] = {}
    """``(t, heads · width)`` by layer, and by 0 for keys or 1 for values."""

    def keep(layer: int, part: int | None) -> Any:
        def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            # A fused map returns queries, keys and values side by side.
            parts = dict(enumerate(output.chunk(3, dim=-1)[1:])) if part is None else {part: output}
            outputs.update({(layer, i): x[0].flatten(0, -2) for i, x in parts.items()})
            if len(outputs) == 2 * len(attentions):
                rows = [torch.stack([outputs[i, 0], outputs[i, 1]], dim=1) for i in range(len(attentions))]
                captured[name] = torch.stack(rows, dim=1).flatten(1)

        return after

    hooks: list[Any] = []
    for layer, attention in enumerate(attentions):
        first, *others = attention.maps  # a fused map alone, or the maps of query, key and value
        maps: list[tuple[int | None, str]] = [*enumerate(others)] if others else [(None, first)]
        hooks += [attention.module.get_submodule(m).register_forward_hook(keep(layer, part)) for part, m in maps]
    return hooks
