"""Where the attention of a block is: its query, key and value maps, its heads, and whether it looks at another stack.

It is found by the names of its maps, so one table serves every architecture: prefixes need the heads, LoRA the maps.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from rankscope.errors import UsageError

QKV = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q", "k", "v"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("wq", "wk", "wv"),
)
"""What architectures call the three maps, which are direct children of the attention module."""
FUSED = ("c_attn", "qkv", "query_key_value", "qkv_proj", "Wqkv", "in_proj")
"""What they call one map that makes all three."""
_LATENT = ("kv_a_proj_with_mqa", "kv_b_proj")
"""What they call the maps to a latent, and from there to keys and values, in multi-head latent attention (MLA)."""
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_heads", "n_kv_heads")
_HEAD_WIDTH = ("head_dim", "attention_head_size", "key_value_proj_dim")
_CROSS = ("cross", "encoder_attn", "encdec")
CACHES = ("cache", "past_key_values")
"""What a module may call the cache that it takes: transformers renamed the second the first in 5.24."""


@dataclass(frozen=True)
class Attention:
    """One attention of one block."""

    path: str
    """Its path inside the block."""
    module: nn.Module
    """The module whose direct children the maps are."""
    maps: tuple[str, ...]
    """The names of the maps: query, key and value, or the fused one; none if keys and values are made of one latent."""
    cross: bool
    """Whether its keys and values come from another stack."""

    @property
    def latent(self) -> bool:
        """Whether it caches one latent instead of the keys and values that it makes of it (MLA)."""
        return not self.maps

    @property
    def recurrent(self) -> bool:
        """Whether it carries a state along instead of looking back at keys (linear attention), after a convolution over time."""
        return any(isinstance(m, nn.Conv1d) for name, m in self.module.named_children() if name not in self.maps)

    @property
    def value_width(self) -> int:
        """The width of a head's values."""
        if self.latent:
            return int(self.module.v_head_dim)  # type: ignore[arg-type]
        return width_out(getattr(self.module, self.maps[2])) // self.heads if len(self.maps) == 3 else self.head_width

    @property
    def head_width(self) -> int:
        """The width of a head, of its keys."""
        if self.latent:
            return int(self.module.qk_head_dim)  # type: ignore[arg-type]
        named = _first(self.module, _HEAD_WIDTH)
        if named is not None:
            return named
        if len(self.maps) == 3:
            return width_out(getattr(self.module, self.maps[1])) // self._query_heads
        return width_out(getattr(self.module, self.maps[0])) // (self._query_heads + 2 * self._fused_heads)

    @property
    def heads(self) -> int:
        """The number of heads of keys and values.

        Raises:
            UsageError: if the width of a fused map is not that of its queries, keys and values.
        """
        if self.latent:  # every head of queries has keys and values of its own
            return self._query_heads
        if len(self.maps) == 3:
            return width_out(getattr(self.module, self.maps[1])) // self.head_width
        fused, keys = width_out(getattr(self.module, self.maps[0])), self._fused_heads
        if fused != (self._query_heads + 2 * keys) * self.head_width:
            raise UsageError(
                f"{self.path}.{self.maps[0]} of {fused} outputs does not hold queries of {self._query_heads} heads with keys and values "
                f"of {keys}, each {self.head_width} wide, so that a prefix cannot be shaped for it"
            )
        # Falcon's newer architecture repeats its keys for every head of queries before it caches them.
        repeated = getattr(getattr(self.module, "config", None), "new_decoder_architecture", False)
        return self._query_heads if repeated else keys

    @property
    def _fused_heads(self) -> int:
        """How many heads of keys a fused map gives: as many as of queries, unless the module or its configuration says otherwise."""
        config = getattr(self.module, "config", None)
        return _first(self.module, _KV_HEADS) or _first(config, _KV_HEADS) or self._query_heads

    @property
    def _query_heads(self) -> int:
        named = _first(self.module, _HEADS) or _first(getattr(self.module, "config", None), _HEADS)
        if named is None:
            raise UsageError(
                f"{type(self.module).__name__} does not say how many heads it has, so that a prefix cannot be shaped for it"
            )
        return named


def parameters_of(module: nn.Module) -> list[str]:
    """The names of what a module's ``forward`` takes, in order."""
    parameters = inspect.signature(module.forward).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def cache_of(module: nn.Module) -> str | None:
    """What a module's ``forward`` calls the cache that it takes; None if it takes none."""
    return next((name for name in CACHES if name in parameters_of(module)), None)


def _first(thing: object, names: Sequence[str]) -> int | None:
    return next((value for name in names if isinstance(value := getattr(thing, name, None), int)), None)


def width_out(module: nn.Module) -> int:
    """The width of what a linear map returns, whatever its class (``Linear``, GPT-2's ``Conv1D``, PEFT's layers).

    Raises:
        UsageError: if the module is no linear map.
    """
    for name in ("out_features", "nf"):
        if isinstance(width := getattr(module, name, None), int):
            return width
    base = getattr(module, "base_layer", None)
    if not isinstance(base, nn.Module):
        raise UsageError(f"{type(module).__name__} is no linear map")
    return width_out(base)


def attentions(block: nn.Module) -> tuple[Attention, ...]:
    """Every attention in a block, in the block's order.

    Args:
        block: one block of a stack.
    """
    found = []
    for path, module in block.named_modules():
        names = {name for name, _ in module.named_children()}
        maps: tuple[str, ...] | None = next((three for three in QKV if names.issuperset(three)), None)
        if "atten" in type(module).__name__.lower():  # a Mamba or a gated convolution has an in_proj too
            maps = maps or next(((one,) for one in FUSED if one in names), None)
        if maps is None and names.issuperset(_LATENT):
            maps = ()
        if maps is not None:
            cross = bool(getattr(module, "is_cross_attention", False)) or any(word in path.lower() for word in _CROSS)
            found.append(Attention(path, module, maps, cross))
    return tuple(found)


def attending(blocks: Sequence[nn.Module]) -> list[Attention]:
    """The self-attentions of the blocks that have one, in their order; other blocks mix tokens in another way, or not at all.

    Raises:
        UsageError: if a block has more than one, or no block has any.
    """
    found = [self_attention(block) for block in blocks if any(not (a.cross or a.recurrent) for a in attentions(block))]
    return found or [self_attention(blocks[0])]


def self_attention(block: nn.Module) -> Attention:
    """The one attention of a block whose keys come from the block's own stack.

    Raises:
        UsageError: if there is none, or more than one.
    """
    own = [a for a in attentions(block) if not a.cross]
    if len(own) != 1:
        raise UsageError(
            f"{type(block).__name__} has {len(own)} self-attentions with maps of known names; a prefix needs exactly 1"
        )
    return own[0]
