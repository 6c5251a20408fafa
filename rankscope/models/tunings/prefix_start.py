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
from rankscope.models.tunings.attention import CACHES, cache_of, parameters_of
from rankscope.models.tunings.prefix import Prefix
from rankscope.models.tunings.prefix_join import join, unjoin
from rankscope.models.tunings.prefix_live import cached_owner


class Tokens(NamedTuple):
    """One sample to take tokens from."""

    inputs: Mapping[str, Tensor]
    """What the model is called with: a batch of one, without padding."""
    chosen: Mapping[str, Tensor]
    """``(t,)`` for each stack, True at the tokens that may be taken; a stack that is not named gives all of its tokens."""


@torch.no_grad()
def token_rows(model: nn.Module, prefix: Prefix, samples: Iterable[Tokens]) -> dict[str, Tensor]:
    """Rows for a prefix that is not attached yet, from as many samples as it takes; repeated if all have too few tokens.

    A stack gives the keys and values that its attentions see: keys after their rotation, if positions rotate them.

    Args:
        model: the model, without a prefix.
        prefix: the prefix to be filled.
        samples: samples in the order in which they are taken.

    Returns:
        ``(n, numbers)`` rows of each stack.

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
    """Inside the block each pass of the model leaves ``(t, numbers)`` keys and values of each stack."""
    captured: dict[str, Tensor] = {}
    hooks: list[Any] = []
    joined: list[Stack] = []
    try:
        for name, stack in there.items():
            owner, kept = cached_owner(model, stacks(model), name), Kept(captured, name)
            if owner is None:
                hooks.append(stack.blocks[0].register_forward_pre_hook(kept.forget))
                join(stack, kept)
                joined.append(stack)
            else:
                hooks += _hook_cache(owner, len(stack.blocks), kept)
        yield captured
    finally:
        for hook in hooks:
            hook.remove()
        unjoin(*(block for stack in joined for block in stack.blocks))


class Kept:
    """Rows that are none: what is before them, the attentions' own keys and values, is kept as one row for each token.

    Args:
        into: where the rows go.
        stack: under which name.
    """

    count = 0

    def __init__(self, into: dict[str, Tensor], stack: str) -> None:
        self.into, self.stack = into, stack
        self.parts: list[Tensor] = []

    def forget(self, *_: Any) -> None:
        """Begin anew, before a pass."""
        self.parts = []

    def before(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of one attention, of a batch of one, as they are."""
        # (heads, t, width) each to (t, heads · width): for each token its key, then its value, attention by attention.
        self.parts += [part[0].transpose(0, 1).flatten(1) for part in (key, value)]
        self.into[self.stack] = torch.cat(self.parts, dim=1)
        return key, value


def _hook_cache(owner: nn.Module, layers: int, kept: Kept) -> list[Any]:
    """Hooks that give the owner of a cache an empty one, and read afterwards what was written to it."""
    names, encoder_decoder = parameters_of(owner), getattr(getattr(owner, "config", None), "is_encoder_decoder", False)
    caches: list[DynamicCache] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        given = dict(zip(names, args, strict=False)) | kwargs
        caches[:] = [DynamicCache()]
        given |= {c: None for c in CACHES if c in given} | {"use_cache": True}
        given[str(cache_of(owner))] = EncoderDecoderCache(caches[0], DynamicCache()) if encoder_decoder else caches[0]
        return (), given

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        kept.forget()
        for number, layer in enumerate(caches[0].layers[:layers]):
            kept.before(number, layer.keys, layer.values)

    return [owner.register_forward_pre_hook(before, with_kwargs=True), owner.register_forward_hook(after)]
