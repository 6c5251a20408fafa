"""Attention with a learned scale for each head, over the usual interface of transformers.

The module asks ``ALL_ATTENTION_FUNCTIONS`` and passes positions as ``position_bias``, so that a prefix, or another
implementation, can take its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rankscope.errors import UsageError
from rankscope.models.ported.ofa.configuration import OFAConfig
from rankscope.models.ported.ofa.positions import scaling


def eager_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """``(b, q, heads, width)`` mixed values and ``(b, heads, q, k)`` weights.

    Args:
        module: the attention, asked whether it trains.
        query: ``(b, heads, q, width)``; ``key`` and ``value`` ``(b, heads, k, width)``.
        attention_mask: ``(b, 1, 1 or q, k)`` added to the scores, or None.
        options: ``scaling``, ``dropout`` and ``position_bias`` ``(b or 1, heads, q, k)``.
    """
    # softmax(s · QKᵀ + bias + mask) V
    scores = query @ key.transpose(-1, -2) * options["scaling"]
    if (bias := options.get("position_bias")) is not None:
        scores = scores + bias
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1)
    dropped = nn.functional.dropout(weights, p=options.get("dropout", 0.0), training=module.training)
    return (dropped @ value).transpose(1, 2), weights


def hidden(real: Tensor, dtype: torch.dtype) -> Tensor | None:
    """``(b, 1, *, k)`` to be added to scores: 0 where ``real``, ``(b, *, k)``, is true, the least number elsewhere.

    None if all is real.
    """
    if bool(real.all()):
        return None
    mask = torch.zeros(real.shape, dtype=dtype, device=real.device).masked_fill(~real, torch.finfo(dtype).min)
    return mask[:, None] if mask.dim() == 3 else mask[:, None, None]


class OFAAttention(nn.Module):
    """Queries from one sequence; keys and values from it, from its past, or from the encoder."""

    def __init__(self, config: OFAConfig, heads: int, index: int, *, cross: bool = False) -> None:
        super().__init__()
        if config.d_model % heads:
            raise UsageError(f"d_model {config.d_model} is not a multiple of {heads} attention heads")
        self.config, self.layer_idx, self.is_cross_attention = config, index, cross
        self.num_heads, self.head_dim = heads, config.d_model // heads
        self.scaling = scaling(config, heads)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)
        self.c_attn = nn.Parameter(torch.ones(heads))

    def forward(
        self, x: Tensor, memory: Tensor | None, mask: Tensor | None, bias: Tensor, past: Cache | None
    ) -> tuple[Tensor, Tensor]:
        """``(b, q, d)`` states and ``(b, heads, q, k)`` weights.

        Args:
            x: ``(b, q, d)``.
            memory: ``(b, k, d)`` encoder states, where this attention reads the encoder.
            mask: ``(b, 1, 1 or q, k)`` added to the scores, or None.
            bias: ``(b or 1, heads, q, k)`` of the positions.
            past: keys and values of earlier words, to which those of ``x`` are appended; the encoder's are kept there.
        """
        key, value = self._keys(x if memory is None else memory, past)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        query = self._split(self.q_proj(x))
        mixed, weights = attend(
            self, query, key, value, mask, scaling=self.scaling, dropout=dropout, position_bias=bias
        )
        # NormFormer: head h is multiplied by its learned scale before the heads are mixed.
        return self.out_proj((mixed * self.c_attn[:, None]).flatten(2)), weights

    def _keys(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Tensor]:
        """Keys and values ``(b, heads, k, width)``, with the past's."""
        if isinstance(past, EncoderDecoderCache):
            if self.is_cross_attention and past.is_updated.get(self.layer_idx):
                layer = past.cross_attention_cache.layers[self.layer_idx]
                return layer.keys, layer.values
            # The encoder's keys are made once; those of words grow with every call.
            past.is_updated[self.layer_idx] = past.is_updated.get(self.layer_idx) or self.is_cross_attention
            past = past.cross_attention_cache if self.is_cross_attention else past.self_attention_cache
        key, value = self._split(self.k_proj(x)), self._split(self.v_proj(x))
        if past is None:
            return key, value
        return past.update(key, value, self.layer_idx)

    def _split(self, x: Tensor) -> Tensor:
        """``(b, t, d)`` to ``(b, heads, t, width)``."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
