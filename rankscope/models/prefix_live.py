"""A prefix at work inside a model: in ``forward`` and in ``generate``, in decoders and in encoders.

Hooks on the base network's own modules, so that it does not matter who calls them: the model's ``forward``, its
``generate``, the ``generate`` of a language model inside a vision–language model, or a PEFT wrapper around it all. The
caller's view is that of a model without a prefix; masks and positions that it hands over are shifted here.

Two routes. A stack that takes a cache gets the prefix as the cache's first entries, which is what PEFT does, so that
both give the same function (positions start after the prefix). A stack that takes none (the encoder of T5 or BART, a
vision tower, a Q-Former) gets the rows joined to the keys and values inside each attention; positions stay as they are.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rankscope.errors import UnknownName, UsageError
from rankscope.models.prefix import Encoder, Prefix, Shape
from rankscope.models.prefix_attention import self_attention
from rankscope.models.stacks import Stack, stacks

NAME = "rankscope_prefix"
"""The name of the prefix among the model's submodules, and of the attention that joins it."""
_HELD = "_rankscope_prefix"


def shape_of(stack: Stack) -> Shape:
    """What the self-attention of every block of a stack takes.

    Raises:
        UsageError: if the blocks differ, or their attention is not known.
    """
    found = [self_attention(block) for block in stack.blocks]
    shapes = {(a.heads, a.head_width) for a in found}
    if len(shapes) != 1:
        raise UsageError(f"the blocks of {stack.name} differ in their attention {sorted(shapes)}; a prefix needs them equal")
    heads, width = shapes.pop()
    return Shape(len(found), heads, width)


def language_stacks(model: nn.Module) -> tuple[str, ...]:
    """The stacks that read text (``encoder``, ``decoder``, ``text``), or every stack of a model that reads none."""
    names = tuple(stacks(model))
    return tuple(n for n in names if n in ("encoder", "decoder", "text")) or names


def new_prefix(
    model: nn.Module, *, rows: int = 16, stacks_in: Sequence[str] | None = None, encoder: Encoder | None = None
) -> Prefix:
    """A prefix that fits the model, drawn at random from torch's generator; not attached yet.

    Args:
        model: the model, wrapped or not.
        rows: the length of the prefix.
        stacks_in: the stacks to stand in; those that read text unless given.
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
            raise UsageError(f"the prefix is made for {shape} and the model's {name} is {fits}; it belongs to another base")
    for name in prefix.shapes:
        owner = cached_owner(model, there, name)
        if owner is None:
            _join(there[name], prefix)
        else:
            owner.register_forward_pre_hook(InCache(prefix, name, owner, there[name].blocks[0]), with_kwargs=True)
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
        if held := module.__dict__.pop(_HELD, None):
            module.config = held.config
    found = None
    for module in list(model.modules()):
        if isinstance(child := module._modules.get(NAME), Prefix):
            found = child
            del module._modules[NAME]
    return found


def cached_owner(model: nn.Module, there: Mapping[str, Stack], name: str) -> nn.Module | None:
    """The module around a stack, and no other, that takes its cache, makes its masks and counts its positions."""
    first = there[name].blocks[0]
    others = {id(stack.blocks[0]) for other, stack in there.items() if other != name and stack.blocks}
    path = next(path for path, module in model.named_modules() if module is first)
    while path:
        path = path.rpartition(".")[0]
        module = model.get_submodule(path)
        if any(id(inner) in others for inner in module.modules()):
            return None
        takes = inspect.signature(module.forward).parameters
        if "past_key_values" in takes and ("inputs_embeds" in takes or "input_ids" in takes):
            return None if getattr(module, "is_decoder", None) is False and _twofold(module) else module
    return None


def _twofold(module: nn.Module) -> bool:
    """Whether the module belongs to a model with an encoder and a decoder."""
    return bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))


class InCache:
    """Before a stack runs: the prefix goes into an empty cache, and the caller's mask and positions make room for it."""

    def __init__(self, prefix: Prefix, stack: str, owner: nn.Module, block: nn.Module) -> None:
        self.prefix, self.stack, self.block = prefix, stack, block
        signature = inspect.signature(owner.forward)
        self.names = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        if module.training and getattr(self.block, "gradient_checkpointing", False):
            raise UsageError(
                f"a prefix in {self.stack} does not work with gradient checkpointing: the blocks drop the cache that holds "
                "it; train without gradient_checkpointing, or with a smaller batch and accumulation"
            )
        given = dict(zip(self.names, args, strict=False)) | kwargs
        inputs = next(given[k] for k in ("inputs_embeds", "input_ids") if given.get(k) is not None)
        past = self._filled(module, given.get("past_key_values"), inputs)
        self._fits(module, past, inputs.shape[1])
        given["past_key_values"] = past
        given["attention_mask"] = widened(given.get("attention_mask"), self.prefix.rows)
        if given.get("position_ids") is not None:
            given["position_ids"] = given["position_ids"] + self.prefix.rows
        return (), given

    def _filled(self, module: nn.Module, cache: Any, inputs: Tensor) -> Any:
        if cache is None:
            own = DynamicCache(config=module.config) if not _twofold(module) else DynamicCache()
            cache = EncoderDecoderCache(own, DynamicCache()) if _twofold(module) else own
        if getattr(cache, _HELD, False):
            return cache
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        if not isinstance(own, DynamicCache):
            raise UsageError(f"a prefix needs a cache that grows (DynamicCache); got {type(own).__name__}")
        if own.get_seq_length():
            raise UsageError("the cache was filled without the prefix; start with an empty one")
        blocks = self.prefix(self.stack).to(compute_dtype(module)).unbind(0)
        # T5 sizes the cache by its encoder, which may have fewer blocks than the decoder that fills it.
        own.layers.extend(DynamicLayer() for _ in range(len(blocks) - len(own.layers)) if own.layers)
        for layer, (keys, values) in enumerate(blocks):
            own.update(_many(keys, inputs.shape[0]), _many(values, inputs.shape[0]), layer)
        setattr(cache, _HELD, True)
        return cache

    def _fits(self, module: nn.Module, cache: Any, new: int) -> None:
        most = getattr(module.config, "max_position_embeddings", None)
        if isinstance(most, int) and (asked := cache.get_seq_length() + new) > most:
            raise UsageError(
                f"{asked} positions ({self.prefix.rows} of them the prefix's) do not fit the {most} of {self.stack}; "
                "shorten the texts or the prefix"
            )


def _many(rows: Tensor, batch: int) -> Tensor:
    return rows.unsqueeze(0).expand(batch, *rows.shape)


def compute_dtype(module: nn.Module) -> torch.dtype:
    """The dtype in which the module's keys and values come: autocast's where that is on, else the weights'."""
    weight = next(p for p in module.parameters() if p.is_floating_point())
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def widened(mask: Any, rows: int) -> Any:
    """A mask with open columns for the prefix before its own; None stays None.

    Args:
        mask: ``(b, t)``, or ``(b, *, q, t)`` boolean or additive.
        rows: the length of the prefix.
    """
    if mask is None:
        return None
    if isinstance(mask, Mapping):
        return {key: widened(value, rows) for key, value in mask.items()}
    additive = mask.ndim > 2 and mask.is_floating_point()
    shape = (*mask.shape[:-1], rows)
    return torch.cat([mask.new_zeros(shape) if additive else mask.new_ones(shape), mask], dim=-1)


class Folded:
    """Before a stack's first block runs: the prefix's keys and values are made, once for all its blocks."""

    def __init__(self, prefix: Prefix, stack: str) -> None:
        self.prefix, self.stack = prefix, stack
        self.now: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.now = self.prefix(self.stack).to(compute_dtype(module))


class Joined:
    """What an attention that joins a prefix holds: where the rows are, and its configuration as it was."""

    def __init__(self, rows: Folded, layer: int, config: Any) -> None:
        self.rows, self.layer, self.config = rows, layer, config


def _join(stack: Stack, prefix: Prefix) -> None:
    AttentionInterface.register(NAME, attention_with_prefix)
    rows = Folded(prefix, stack.name)
    stack.blocks[0].register_forward_pre_hook(rows)
    for layer, block in enumerate(stack.blocks):
        module = self_attention(block).module
        if not hasattr(module, "config") or not _dispatches(module):
            raise UsageError(
                f"{type(module).__name__} computes its attention by itself, so that a prefix cannot join it in {stack.name}; "
                "leave that stack out"
            )
        module.__dict__[_HELD] = Joined(rows, layer, module.config)
        module.config = copy.copy(module.config)
        module.config._attn_implementation_internal = NAME


def _dispatches(module: nn.Module) -> bool:
    return hasattr(sys.modules[type(module).__module__], "ALL_ATTENTION_FUNCTIONS")


def attention_with_prefix(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """The module's own attention over the prefix's rows and then its own.

    Args:
        module: the attention, which holds the prefix.
        query: ``(b, heads, q, width)``.
        key: ``(b, kv heads, t, width)``, and ``value`` alike.
        attention_mask: ``(b, 1, q, t)`` or None.
        options: passed on; a ``position_bias`` gets zeros for the prefix.
    """
    held: Joined = module.__dict__[_HELD]
    assert held.rows.now is not None
    keys, values = held.rows.now[held.layer]
    if attention_mask is None and getattr(module, "is_causal", False) and query.shape[2] > 1:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()[None, None]
    key = torch.cat([_many(keys, key.shape[0]).to(key.dtype), key], dim=2)
    value = torch.cat([_many(values, value.shape[0]).to(value.dtype), value], dim=2)
    if options.get("position_bias") is not None:
        bias = options["position_bias"]
        options["position_bias"] = torch.cat([bias.new_zeros(*bias.shape[:-1], keys.shape[1]), bias], dim=-1)
    return _own(module, held)(module, query, key, value, widened(attention_mask, keys.shape[1]), **options)


def _own(module: nn.Module, held: Joined) -> Callable[..., tuple[Tensor, Tensor | None]]:
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(held.config._attn_implementation, eager)
