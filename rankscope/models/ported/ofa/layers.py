"""The blocks of the encoder and of the decoder, with norms before, after and inside (NormFormer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from rankscope.models.ported.ofa.attention import OFAAttention
from rankscope.models.ported.ofa.configuration import OFAConfig
from rankscope.models.ported.ofa.resnet import DropPath


class _Block(GradientCheckpointingLayer):
    """What the two blocks share; parameters belong directly to the block, as the checkpoint names them."""

    def __init__(self, config: OFAConfig, inner: int, *, before: bool, drop_path: float) -> None:
        super().__init__()
        self.before = before
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.activation = ACT2FN[config.activation_function]
        self.fc1 = nn.Linear(config.d_model, inner)
        self.fc2 = nn.Linear(inner, config.d_model)
        self.ffn_layer_norm = nn.LayerNorm(inner) if config.normformer else nn.Identity()
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.drop_path = DropPath(drop_path)

    def _attend(
        self, x: Tensor, names: str, memory: Tensor | None, given: tuple[Tensor | None, Tensor], past: Cache | None
    ) -> tuple[Tensor, Tensor]:
        """``x`` and what the attention of that name adds to it; its weights."""
        norm, middle = getattr(self, f"{names}_layer_norm"), getattr(self, f"{names}_mid_layer_norm")
        mixed, weights = getattr(self, names)(norm(x) if self.before else x, memory, *given, past)
        x = x + self.drop_path(self.dropout(middle(mixed)))
        return (x if self.before else norm(x)), weights

    def _feed(self, x: Tensor) -> Tensor:
        """``x`` and what the feed-forward network adds to it."""
        inner = self.activation(self.fc1(self.final_layer_norm(x) if self.before else x))
        inner = self.ffn_layer_norm(self.activation_dropout(inner))
        x = x + self.drop_path(self.dropout(self.fc2(inner)))
        x = x if self.before else self.final_layer_norm(x)
        if x.dtype == torch.float16:  # sums of large models overflow float16
            most = torch.finfo(x.dtype).max - 1000
            x = x.clamp(-most, most)
        return x

    def _norms(self, config: OFAConfig, names: str) -> None:
        """The norm before an attention and the one after it."""
        setattr(self, f"{names}_layer_norm", nn.LayerNorm(config.d_model))
        setattr(self, f"{names}_mid_layer_norm", nn.LayerNorm(config.d_model) if config.normformer else nn.Identity())


class EncoderLayer(_Block):
    """Self-attention and a feed-forward network. It returns ``(b, t, d)``, and attention weights with it on request."""

    def __init__(self, config: OFAConfig, index: int, drop_path: float) -> None:
        super().__init__(config, config.encoder_ffn_dim, before=config.encoder_normalize_before, drop_path=drop_path)
        self.self_attn = OFAAttention(config, config.encoder_attention_heads, index)
        self._norms(config, "self_attn")

    def forward(
        self, x: Tensor, mask: Tensor | None, bias: Tensor, weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """States ``(b, t, d)``, or states and weights; see :class:`OFAAttention` for mask and bias."""
        x, seen = self._attend(x, "self_attn", None, (mask, bias), None)
        x = self._feed(x)
        return (x, seen) if weights else x


class DecoderLayer(_Block):
    """Self-attention, attention to the encoder, and a feed-forward network."""

    def __init__(self, config: OFAConfig, index: int, drop_path: float) -> None:
        super().__init__(config, config.decoder_ffn_dim, before=config.decoder_normalize_before, drop_path=drop_path)
        heads = config.decoder_attention_heads
        self.self_attn = OFAAttention(config, heads, index)
        self.cross_attn = OFAAttention(config, heads, index, cross=True)
        self._norms(config, "self_attn")
        self._norms(config, "cross_attn")

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        own: tuple[Tensor | None, Tensor],
        other: tuple[Tensor | None, Tensor],
        past: Cache | None = None,
        weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """States ``(b, t, d)``, or states and both attentions' weights.

        Args:
            x: ``(b, t, d)``.
            memory: ``(b, k, d)`` encoder states.
            own: mask and bias among the decoder's words.
            other: mask and bias towards the encoder.
            past: the cache.
            weights: whether weights are returned.
        """
        x, seen = self._attend(x, "self_attn", None, own, past)
        x, read = self._attend(x, "cross_attn", memory, other, past)
        x = self._feed(x)
        return (x, seen, read) if weights else x
