"""A prefix inside the attention of stacks that take no cache: an encoder, a vision tower, a Q-Former.

Each attention of such a stack gets a copy of its configuration, which names an attention function that puts the prefix's
keys and values before the attention's own and then calls the function that was configured before. An attention that asks
for no function (GIT's) but writes its keys and values to a cache gets them back from there with the prefix's before them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rankscope.errors import UsageError
from rankscope.models.stacks import Stack
from rankscope.models.tunings.attention import attending, cache_of, parameters_of
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


class RowsAhead(Protocol):
    """What is put before the keys and values of a stack's attentions."""

    @property
    def count(self) -> int:
        """How many rows that is."""

    def before(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of one attention, with the rows before them.

        Args:
            layer: which of the stack's attentions it is.
            key: ``(b, kv heads, t, width)``, and ``value`` alike.
        """


class Folded:
    """The prefix's rows, and a hook before a stack's first block that makes them, once for all its blocks."""

    def __init__(self, prefix: Prefix, stack: str) -> None:
        self.prefix, self.stack = prefix, stack
        self.now: list[tuple[Tensor, Tensor]] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.now = self.prefix(self.stack)

    @property
    def count(self) -> int:
        """How many rows there are: none where they are hidden, as a joined prefix takes no position."""
        return 0 if self.prefix.hidden else self.prefix.rows

    def before(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of one attention, with the prefix's before them."""
        keys, values = (many(rows[:, : self.count], key.shape[0]).to(key.dtype) for rows in self.now[layer])
        return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)


class Joined(NamedTuple):
    """What an attention keeps that rows were joined to."""

    rows: RowsAhead
    """The rows."""
    layer: int
    """Which of the stack's attentions it is."""
    config: Any
    """Its configuration as it was."""


def join(stack: Stack, rows: RowsAhead) -> None:
    """Put rows before the keys and values of every self-attention of a stack.

    Raises:
        UsageError: if an attention neither asks transformers for its function nor writes to a cache that it is given.
    """
    AttentionInterface.register(NAME, attention_with_rows)
    for layer, attention in enumerate(attending(stack.blocks)):
        module = attention.module
        if hasattr(module, "config") and hasattr(sys.modules[type(module).__module__], "ALL_ATTENTION_FUNCTIONS"):
            module.__dict__[HELD] = Joined(rows, layer, module.config)
            own: Any = copy.copy(module.config)
            own._attn_implementation_internal = NAME
            module.config = own
        elif cache_of(module) and "attention_mask" in parameters_of(module):
            around = AsCache(rows, layer, module)
            module.register_forward_pre_hook(around.enter, with_kwargs=True)
            module.register_forward_hook(around.leave)
        else:
            unjoin(*stack.blocks)
            raise UsageError(
                f"{type(module).__name__} computes its attention by itself, so that a prefix cannot join it in {stack.name}; "
                "leave that stack out"
            )


def unjoin(*modules: nn.Module) -> None:
    """Take out what :func:`join` put into the attentions inside some modules."""
    for module in (inner for outer in modules for inner in outer.modules()):
        if held := module.__dict__.pop(HELD, None):
            module.config = held.config
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [k for k, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), AsCache)]:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


class AsCache:
    """Stands in for the cache of an attention that computes by itself: what is read from it begins with the rows.

    Args:
        rows: the rows.
        layer: which of the stack's attentions it is.
        module: the attention.
    """

    def __init__(self, rows: RowsAhead, layer: int, module: nn.Module) -> None:
        self.rows, self.layer = rows, layer
        self.names, self.name = parameters_of(module), str(cache_of(module))
        self.cache: Any = None
        self.asked = False

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], Any]:
        """A hook before the attention."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        self.cache, self.asked = given.get(self.name), False
        return (), given | {self.name: self, "attention_mask": widened(given.get("attention_mask"), self.rows.count)}

    def update(self, key: Tensor, value: Tensor, *more: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """What the attention sees: the rows, then what the cache holds, which itself holds no rows."""
        self.asked = True
        if self.cache is not None:
            key, value = self.cache.update(key, value, *more, **named)
        return self.rows.before(self.layer, key, value)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A hook after the attention."""
        self.cache = None
        if not self.asked:
            raise UsageError(f"{type(module).__name__} did not write to its cache, so that it has seen no prefix")


def attention_with_rows(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """The module's own attention over the rows and then its own keys and values.

    Args:
        module: the attention, which holds the rows.
        query: ``(b, heads, q, width)``.
        key: ``(b, kv heads, t, width)``, and ``value`` alike.
        attention_mask: ``(b, 1, q, t)`` or None.
        options: passed on; a ``position_bias`` gets zeros for the rows.
    """
    held: Joined = module.__dict__[HELD]
    if attention_mask is None and getattr(module, "is_causal", False) and query.shape[2] > 1:
        # Without a mask the function would be causal over rows and text together; every token is to see the rows.
        attention_mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()
    key, value = held.rows.before(held.layer, key, value)
    if (bias := options.get("position_bias")) is not None:  # the rows have no position, so their bias is 0
        options["position_bias"] = torch.cat([bias.new_zeros(*bias.shape[:-1], held.rows.count), bias], dim=-1)
    return _own(module, held)(module, query, key, value, widened(attention_mask, held.rows.count), **options)


def _own(module: nn.Module, held: Joined) -> Callable[..., tuple[Tensor, Tensor | None]]:
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(held.config._attn_implementation, eager)
