"""Rows for a prefix to start from: the keys and values that the model's own attention gives to real tokens.

Li & Liang, "Prefix-Tuning", ACL 2021, §7.4, found this start better than a random one where there is little data: the
prefix begins as something that the model has learned to read.
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
from rankscope.models.tunings.attention import Attention, self_attention
from rankscope.models.tunings.prefix import Prefix
from rankscope.models.tunings.prefix_live import CACHES, cached_owner, parameters_of


class Tokens(NamedTuple):
    """One sample to take tokens from."""

    inputs: Mapping[str, Tensor]
    """What the model is called with: a batch of one, without padding."""
    chosen: Mapping[str, Tensor]
    """``(t,)`` for each stack, True at the tokens whose keys and values may be taken; all of a stack that is not named."""


@torch.no_grad()
def token_rows(model: nn.Module, prefix: Prefix, samples: Iterable[Tokens]) -> dict[str, Tensor]:
    """Rows of a prefix that is not attached yet, from as many samples as it takes to fill it; repeated if all are too few.

    A stack that takes a cache gives what it writes there (rotated, where positions rotate the keys); one that takes none
    gives what its key and value maps return.

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
    found: dict[str, list[Tensor]] = {name: [] for name in there}
    was = model.training
    model.eval()
    for sample in samples:
        with _captured(model, there) as seen:
            model(**sample.inputs)
        for name, rows in seen.items():
            chosen = sample.chosen.get(name)
            if chosen is not None:  # an end token that was added after the choice is none of them
                chosen = chosen.nonzero().flatten().to(rows.device)
                rows = rows[chosen[chosen < len(rows)]]
            found[name].append(rows)
        if all(sum(map(len, several)) >= prefix.rows for several in found.values()):
            break
    model.train(was)
    return {name: _filled(torch.cat(several), prefix.rows, name) for name, several in found.items()}


def _filled(rows: Tensor, count: int, stack: str) -> Tensor:
    if not len(rows):
        raise UsageError(f"no sample has a token for a prefix in {stack} to start from; use prefix_init=random")
    return rows[torch.arange(count, device=rows.device) % len(rows)]


@contextmanager
def _captured(model: nn.Module, there: Mapping[str, Stack]) -> Iterator[dict[str, Tensor]]:
    """Inside the block each pass of the model leaves ``(t, layers · 2 · heads · width)`` keys and values of each stack."""
    seen: dict[str, Tensor] = {}
    hooks: list[Any] = []
    for name, stack in there.items():
        owner = cached_owner(model, stacks(model), name)
        hooks += _on_maps(stack, seen, name) if owner is None else _on_cache(owner, len(stack.blocks), seen, name)
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _on_cache(owner: nn.Module, layers: int, seen: dict[str, Tensor], name: str) -> list[Any]:
    caches: list[DynamicCache] = []
    taken = next(c for c in CACHES if c in parameters_of(owner))

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        given = dict(zip(parameters_of(owner), args, strict=False)) | kwargs
        caches[:] = [DynamicCache()]
        twofold = getattr(getattr(owner, "config", None), "is_encoder_decoder", False)
        given |= {c: None for c in CACHES if c in given} | {"use_cache": True}
        given[taken] = EncoderDecoderCache(caches[0], DynamicCache()) if twofold else caches[0]
        return (), given

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # (1, heads, t, width) keys and values of each layer, to a row a token: for each layer its key, then its value
        both = torch.stack([torch.stack([x.keys[0], x.values[0]]) for x in caches[0].layers[:layers]])
        seen[name] = both.permute(3, 0, 1, 2, 4).flatten(1)

    return [owner.register_forward_pre_hook(before, with_kwargs=True), owner.register_forward_hook(after)]


def _on_maps(stack: Stack, seen: dict[str, Tensor], name: str) -> list[Any]:
    found: list[Attention] = [self_attention(block) for block in stack.blocks]
    made: dict[tuple[int, int], Tensor] = {}

    def keep(layer: int, part: int | None) -> Any:
        def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            parts = output.chunk(3, dim=-1)[1:] if part is None else [output]
            made.update({(layer, i if part is None else part): x[0].flatten(0, -2) for i, x in enumerate(parts)})
            if len(made) == 2 * len(found):
                rows = [torch.stack([made[layer, 0], made[layer, 1]], dim=1) for layer in range(len(found))]
                seen[name] = torch.stack(rows, dim=1).flatten(1)

        return after

    hooks: list[Any] = []
    for layer, attention in enumerate(found):
        one, *two = attention.maps  # a fused map, or the query's and then key's and value's
        parts: list[tuple[int | None, str]] = [*enumerate(two)] if two else [(None, one)]
        hooks += [attention.module.get_submodule(m).register_forward_hook(keep(layer, part)) for part, m in parts]
    return hooks
