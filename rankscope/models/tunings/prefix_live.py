"""A prefix at work inside a model: in ``forward`` and in ``generate``, in decoders and in encoders.

Hooks on the base network's own modules, so that it does not matter who calls them: the model's ``forward``, its
``generate``, the ``generate`` of a language model inside a vision–language model, or a PEFT wrapper around it all. To the
caller the model has no prefix: the masks and positions that it passes are shifted here.

Two routes. A stack that takes a cache gets the prefix as the cache's first entries, which is what PEFT does, so that
both give the same function (positions start after the prefix). A stack that takes none (the encoder of T5 or BART, a
vision tower, a Q-Former) gets the rows joined to the keys and values inside each attention; positions stay as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from rankscope.errors import CheckpointError, UnknownName, UsageError
from rankscope.models.families import family_of
from rankscope.models.stacks import Stack, stacks, unwrapped
from rankscope.models.tunings.attention import CACHES, attending, attentions, cache_of, parameters_of
from rankscope.models.tunings.prefix import Prefix, PrefixEncoder, PrefixShape
from rankscope.models.tunings.prefix_join import HELD, NAME, Folded, compute_dtype, join, many, unjoin, widened


def shape_of(stack: Stack) -> PrefixShape:
    """What the self-attention of a stack's blocks takes, of all that have one.

    Raises:
        UsageError: if there are no blocks, their attentions differ, or are not known.
    """
    if not stack.blocks:
        raise UsageError(f"{stack.name} has no blocks of attention; a prefix does not fit in it")
    found = attending(stack.blocks)
    shapes = {(a.heads, a.head_width, a.value_width) for a in found}
    if len(shapes) != 1:
        raise UsageError(
            f"the blocks of {stack.name} differ in their attention: {sorted(shapes)} heads, width of keys and of values; a prefix needs "
            "them equal"
        )
    heads, width, values = shapes.pop()
    return PrefixShape(len(found), heads, width, values if values != width else None)


def language_stacks(model: nn.Module) -> tuple[str, ...]:
    """The stacks that read text (``encoder``, ``decoder``, ``text``), or every stack of a model that reads none."""
    names = tuple(stacks(model))
    return tuple(n for n in names if n in ("encoder", "decoder", "text")) or names


def new_prefix(
    model: nn.Module, *, rows: int = 16, stacks_in: Sequence[str] | None = None, encoder: PrefixEncoder | None = None
) -> Prefix:
    """A prefix that fits the model, drawn at random from torch's generator; not attached yet.

    Args:
        model: the model, wrapped or not.
        rows: the length of the prefix.
        stacks_in: the stacks that get one; those that read text unless given.
        encoder: how the rows are made.

    Raises:
        UnknownName: if the model has no such stack.
        UsageError: if the attention of a stack is not known.
    """
    there = stacks(model)
    wanted = tuple(stacks_in) if stacks_in else language_stacks(model)
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise UnknownName(f"the model has no stack {unknown[0]!r} for a prefix; it has {', '.join(there)}")
    return Prefix({name: shape_of(there[name]) for name in wanted}, rows=rows, encoder=encoder)


def prefix_of(model: nn.Module) -> Prefix | None:
    """The prefix that is attached to the model, or None."""
    return next((m for m in model.modules() if isinstance(m, Prefix)), None)


def attach_prefix(model: nn.Module, prefix: Prefix) -> Prefix:
    """Make the prefix live in the model, in place; it becomes the submodule ``rankscope_prefix``.

    Attach it to the base model, before PEFT wraps that: a wrapper then calls the model with the prefix in it.

    Raises:
        UsageError: if there is a prefix already, or the prefix does not fit the stack.
        UnknownName: if the model has no such stack.
    """
    if prefix_of(model) is not None:
        raise UsageError("the model has a prefix already; detach it first")
    there = stacks(model)
    for name, shape in prefix.shapes.items():
        if name not in there:
            raise UnknownName(f"the model has no stack {name!r} for the prefix; it has {', '.join(there)}")
        if (fits := shape_of(there[name])) != shape:
            raise UsageError(
                f"the prefix is made for {shape} and the model's {name} is {fits}; it belongs to another base"
            )
    for name in prefix.shapes:
        owner = cached_owner(model, there, name)
        if owner is None:
            rows = Folded(prefix, name)
            there[name].blocks[0].register_forward_pre_hook(rows)
            join(there[name], rows)
        else:
            owner.register_forward_pre_hook(InCache(prefix, name, owner, there[name].blocks[0]), with_kwargs=True)
    _swap_head(model, prefix)
    first = next(model.parameters())
    model.add_module(NAME, prefix.to(first.device))
    return prefix


def detach_prefix(model: nn.Module) -> Prefix | None:
    """Take the prefix out again, in place; returns it."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, InCache | Folded):
                module._forward_pre_hooks.pop(key)
                module._forward_pre_hooks_with_kwargs.pop(key, None)
    unjoin(model)
    found = None
    for module in list(model.modules()):
        if isinstance(child := module._modules.get(NAME), Prefix):
            found = child
            del module._modules[NAME]
            _swap_head(module, child)
    return found


@torch.no_grad()
def _swap_head(model: nn.Module, prefix: Prefix) -> None:
    """Exchange the model's classification head with the one that the prefix holds; a second time puts it back."""
    own = dict(model.named_parameters())
    for name, tensor in prefix.head.items():
        if name not in own or own[name].shape != tensor.shape:
            raise CheckpointError(
                f"the prefix comes with a head {name} of {tuple(tensor.shape)} that the model has no place for"
            )
        before = own[name].detach().clone()
        own[name].copy_(tensor)
        prefix.head[name] = before


def cached_owner(model: nn.Module, there: Mapping[str, Stack], name: str) -> nn.Module | None:
    """The module around a stack, and no other, that takes its cache, makes its masks and counts its positions."""
    if not there[name].blocks:
        return None
    # Beside its attentions, a stack may have blocks that keep a state of their own (Mamba, linear attention): the one mask of
    # the cache is theirs too, and they have no rows for a prefix.
    found = attending(there[name].blocks)
    uneven = len(found) < len(there[name].blocks)
    if family_of(unwrapped(model)).masks_outside or uneven or any(a.latent for a in found):
        return None
    first = there[name].blocks[0]
    others = {id(stack.blocks[0]) for other, stack in there.items() if other != name and stack.blocks}
    path = next(path for path, module in model.named_modules() if module is first)
    while path:
        path = path.rpartition(".")[0]
        module = model.get_submodule(path)
        if any(id(inner) in others for inner in module.modules()):
            return None
        takes = inspect.signature(module.forward).parameters
        if cache_of(module) and ("inputs_embeds" in takes or "input_ids" in takes):
            return None if getattr(module, "is_decoder", None) is False and _fills_two_caches(module) else module
    return None


def passes_cache_on(stack: Stack) -> bool:
    """Whether a stack that has no cache of its own hands on what it does not know to attentions that take one (EuroBERT).

    There PEFT's prefix is before the keys and values, and positions stay as they are, as in a prefix that is joined.
    """
    if not stack.blocks or stack.owner is None or cache_of(stack.owner):
        return False
    hands_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(stack.owner.forward).parameters.values())
    return hands_on and any(cache_of(a.module) for a in attentions(stack.blocks[0]) if not a.cross)


def _fills_two_caches(module: nn.Module) -> bool:
    """Whether the module belongs to a model whose decoder also caches what it reads of an encoder."""
    # T5Gemma's decoder has a configuration of its own, which does not say so; its blocks show it.
    told = bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))
    return told or any(cache_of(a.module) for a in attentions(module) if a.cross)


def no_checkpointing(stack: str) -> UsageError:
    """The error for a prefix in a stack with gradient checkpointing."""
    return UsageError(
        f"a prefix in {stack} does not work with gradient checkpointing: the blocks drop the cache that holds it; train "
        "without gradient_checkpointing, or with a smaller batch and accumulation"
    )


class InCache:
    """A hook before a stack: puts the prefix into an empty cache, and makes room for it in the caller's mask and positions."""

    def __init__(self, prefix: Prefix, stack: str, owner: nn.Module, block: nn.Module) -> None:
        self.prefix, self.stack, self.block = prefix, stack, block
        self.names = parameters_of(owner)
        self.cache = str(cache_of(owner))

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        if module.training and getattr(self.block, "gradient_checkpointing", False):
            raise no_checkpointing(self.stack)
        given = dict(zip(self.names, args, strict=False)) | kwargs
        inputs = next(given[k] for k in ("inputs_embeds", "input_ids") if given.get(k) is not None)
        caches = [given.pop(name, None) for name in CACHES]
        past = self._filled(module, next((c for c in caches if c is not None), None), inputs)
        self._fits(module, past, inputs.shape[1])
        given[self.cache] = past
        mask, hidden = given.get("attention_mask"), self.prefix.hidden
        if hidden:
            mask = inputs.new_ones(inputs.shape[:2], dtype=torch.long) if mask is None else mask
            if "position_ids" in self.names and given.get("position_ids") is None and mask.ndim == 2:
                # A model that counts positions from the mask would not count the rows that it does not see.
                given["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)[:, -inputs.shape[1] :]
        given["attention_mask"] = widened(mask, self.prefix.rows, hidden=hidden)
        if given.get("position_ids") is not None:
            given["position_ids"] = given["position_ids"] + self.prefix.rows
        return (), given

    def _filled(self, module: nn.Module, cache: Any, inputs: Tensor) -> Any:
        if cache is None:
            own = DynamicCache(config=module.config) if not _fills_two_caches(module) else DynamicCache()
            cache = EncoderDecoderCache(own, DynamicCache()) if _fills_two_caches(module) else own
        # The mark is on the cache of the self-attention, because BLIP wraps that into a new cache for both.
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        if getattr(own, HELD, False):
            return cache
        if not isinstance(own, DynamicCache):
            raise UsageError(f"a prefix needs a cache that grows (DynamicCache); got {type(own).__name__}")
        if own.get_seq_length():
            raise UsageError("the cache was filled without the prefix; start with an empty one")
        dtype, blocks = compute_dtype(module), self.prefix(self.stack)
        # T5 sizes the cache by its encoder, which may have fewer blocks than the decoder that fills it.
        for part in {id(own): own, id(cache): getattr(cache, "cross_attention_cache", own)}.values():
            part.layers.extend(DynamicLayer() for _ in range(len(blocks) - len(part.layers)) if part.layers)
        for layer, (keys, values) in enumerate(blocks):
            own.update(*(many(rows.to(dtype), inputs.shape[0]) for rows in (keys, values)), layer)
        setattr(own, HELD, True)
        return cache

    def _fits(self, module: nn.Module, cache: Any, new: int) -> None:
        most = getattr(module.config, "max_position_embeddings", None)
        if isinstance(most, int) and (asked := cache.get_seq_length() + new) > most:
            raise UsageError(
                f"{asked} positions ({self.prefix.rows} of them the prefix's) do not fit the {most} of {self.stack}; "
                "shorten the texts or the prefix"
            )
