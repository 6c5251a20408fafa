"""A prefix inside the attention of stacks that take no cache: an encoder, a vision tower, a Q-Former.

Each attention of such a stack gets a copy of its configuration, which names an attention function that puts the prefix's
keys and values before the attention's own and then calls the function that was configured before.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rankscope.errors import UsageError
from rankscope.models.stacks import Stack
from rankscope.models.tunings.attention import attending
from rankscope.models.tunings.prefix import Prefix

NAME = "rankscope_prefix"
"""The name of the prefix among the model's submodules, and of the attention that joins it."""
HELD = "_rankscope_prefix"
"""The attribute by which an attention, or a cache, remembers that it has the prefix."""


def many(rows: Tensor, batch: int) -> Tensor:
    """``(b, *)``: the same rows for every sample of a batch."""
    return rows.unsqueeze(0).expand(batch, *rows.shape)


def compute_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of the module's keys and values: autocast's if that is on, else the weights'."""
    weight = next(p for p in module.parameters() if p.is_floating_point())
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def widened(mask: Any, rows: int, *, hidden: bool = False) -> Any:
    """A mask with columns for the prefix before its own; None stays None.

    Args:
        mask: ``(b, t)``, or ``(b, *, q, t)`` boolean or additive.
        rows: the length of the prefix.
        hidden: whether the columns are closed, so that nothing sees the prefix.
    """
    if mask is None:
        return None
    if isinstance(mask, Mapping):
        return {key: widened(value, rows, hidden=hidden) for key, value in mask.items()}
    if mask.ndim > 2 and mask.is_floating_point():  # added to the scores: 0 is open
        column = torch.finfo(mask.dtype).min if hidden else 0.0
    else:
        column = 0.0 if hidden else 1.0
    return torch.cat([mask.new_full((*mask.shape[:-1], rows), column), mask], dim=-1)


class Folded:
    """A hook before a stack's first block: makes the prefix's keys and values, once for all its blocks."""

    def __init__(self, prefix: Prefix, stack: str) -> None:
        self.prefix, self.stack = prefix, stack
        self.now: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = self.prefix(self.stack).to(compute_dtype(module))
        # No rows at all is what hiding them means here: a joined prefix takes no position.
        self.now = rows[..., :0, :] if self.prefix.hidden else rows


class Joined(NamedTuple):
    """What an attention keeps that a prefix was joined to."""

    rows: Folded
    """Where the keys and values are."""
    layer: int
    """Which of the blocks it belongs to."""
    config: Any
    """Its configuration as it was."""


def join(stack: Stack, prefix: Prefix) -> None:
    """Make the prefix live in every block of a stack that has a self-attention.

    Raises:
        UsageError: if the architecture does not ask transformers for its attention function.
    """
    AttentionInterface.register(NAME, attention_with_prefix)
    rows = Folded(prefix, stack.name)
    stack.blocks[0].register_forward_pre_hook(rows)
    for layer, attention in enumerate(attending(stack.blocks)):
        module = attention.module
        dispatches = hasattr(sys.modules[type(module).__module__], "ALL_ATTENTION_FUNCTIONS")
        if not hasattr(module, "config") or not dispatches:
            raise UsageError(
                f"{type(module).__name__} computes its attention by itself, so that a prefix cannot join it in {stack.name}; "
                "leave that stack out"
            )
        module.__dict__[HELD] = Joined(rows, layer, module.config)
        own: Any = copy.copy(module.config)
        own._attn_implementation_internal = NAME
        module.config = own


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
    held: Joined = module.__dict__[HELD]
    assert held.rows.now is not None
    keys, values = held.rows.now[held.layer]
    if attention_mask is None and getattr(module, "is_causal", False) and query.shape[2] > 1:
        # Without a mask the function would be causal over prefix and text together; the prefix is to be seen by every row.
        attention_mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()
    key = torch.cat([many(keys, key.shape[0]).to(key.dtype), key], dim=2)
    value = torch.cat([many(values, value.shape[0]).to(value.dtype), value], dim=2)
    if (bias := options.get("position_bias")) is not None:  # the prefix has no position, so its bias is 0
        options["position_bias"] = torch.cat([bias.new_zeros(*bias.shape[:-1], keys.shape[1]), bias], dim=-1)
    return _own(module, held)(module, query, key, value, widened(attention_mask, keys.shape[1]), **options)


def _own(module: nn.Module, held: Joined) -> Callable[..., tuple[Tensor, Tensor | None]]:
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(held.config._attn_implementation, eager)
