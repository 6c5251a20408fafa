"""The encoder: word embeddings, regions joined after them, and BERT's blocks (post-norm, no norm at the end).

The maps and norms of a block are transformers' own of BERT; embeddings and attention differ and are written here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.modeling_utils import PreTrainedModel
from transformers.models.bert.modeling_bert import BertIntermediate, BertOutput, BertPooler, BertSelfOutput

from rankscope.errors import UsageError
from rankscope.models.ported.port import arguments
from rankscope.models.ported.vinvl.attention import SelfAttention, additive
from rankscope.models.ported.vinvl.configuration import VinVLConfig


class Embeddings(nn.Module):
    """The sum of word, position and token-type embeddings, normalised."""

    def __init__(self, config: VinVLConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """``(b, t, d)`` from ``(b, t, d)`` embedded words and ``(b, t)`` segments and positions."""
        x = words + self.position_embeddings(positions) + self.token_type_embeddings(segments)
        return self.dropout(self.LayerNorm(x))


class VinVLAttention(nn.Module):
    """Self-attention with its output projection; named as the checkpoint names it (``self``, ``output``)."""

    def __init__(self, config: VinVLConfig, index: int) -> None:
        super().__init__()
        self.self = SelfAttention(config, index)
        self.output = BertSelfOutput(config)

    def forward(self, x: Tensor, bias: Tensor, past: Cache | None, transient: int) -> tuple[Tensor, Tensor]:
        """States ``(b, t, d)`` and weights."""
        mixed, weights = self.self(x, bias, past, transient)
        return self.output(mixed, x), weights


class Layer(GradientCheckpointingLayer):
    """One block. It returns ``(b, t, d)`` states, and the attention weights with them on request."""

    def __init__(self, config: VinVLConfig, index: int) -> None:
        super().__init__()
        self.attention = VinVLAttention(config, index)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(
        self, x: Tensor, bias: Tensor, past: Cache | None = None, transient: int = 0, weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """States ``(b, t, d)``, or states and weights."""
        x, seen = self.attention(x, bias, past, transient)
        x = self.output(self.intermediate(x), x)
        return (x, seen) if weights else x


class Blocks(nn.Module):
    """The blocks in order."""

    def __init__(self, config: VinVLConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(
        self, x: Tensor, bias: Tensor, *, past: Cache | None = None, transient: int = 0, weights: bool = False
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The input and every block's output, each ``(b, t, d)``; and every block's weights, if asked."""
        states, seen = [x], []
        for block in self.layer:
            out = block(states[-1], bias, past, transient, weights)
            if weights:
                seen.append(out[1])
            states.append(out[0] if weights else out)
        return states, seen


class VinVLPreTrainedModel(PreTrainedModel):
    """What the heads share: configuration, initialisation, names."""

    config_class = VinVLConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # a Trainer passes no count of words: the loss is a mean already
    _no_split_modules = ("Layer",)
    _keys_to_ignore_on_load_unexpected: tuple[str, ...] = (r"embeddings\.position_ids$",)

    def _init_weights(self, module: nn.Module) -> None:
        """BERT's: normal of ``initializer_range``, biases 0, norms 1."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            nn.init.zeros_(module.bias)


class VinVLModel(VinVLPreTrainedModel):
    """Words, tags and regions in; states of every position out."""

    _input_embed_layer = "word_embeddings"

    def __init__(self, config: VinVLConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Blocks(config)
        self.pooler = BertPooler(config)
        self.img_embedding = nn.Linear(config.img_feature_dim, config.hidden_size)
        if config.use_img_layernorm:
            self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.img_layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.post_init()

    def embed(
        self,
        input_ids: Tensor | None,
        img_feats: Tensor | None,
        *,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """``(b, text + regions, d)``: embedded words, then embedded regions, which have no position and no type."""
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        shape = words.shape[:2]
        if segments is None:
            segments = torch.zeros(shape, dtype=torch.long, device=words.device)
        if positions is None:
            positions = torch.arange(shape[1], device=words.device).expand(shape)
        x = self.embeddings(words, segments, positions)
        if img_feats is None:
            return x
        regions = self.img_embedding(img_feats.to(self.img_embedding.weight.dtype))
        if self.config.use_img_layernorm:
            regions = self.LayerNorm(regions)
        return torch.cat([x, self.dropout(regions)], dim=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        img_feats: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions | tuple[Any, ...]:
        """Run the encoder.

        Args:
            input_ids: ``(b, text)`` words, then tags.
            img_feats: ``(b, regions, 2054)`` region features.
            attention_mask: ``(b, n)`` or ``(b, n, n)`` with ``n = text + regions``; see the module ``attention``.
            segment_ids: ``(b, text)``, 0 for words and 1 for tags. ``token_type_ids`` is the same under BERT's name;
                wrappers for prompt learning drop that one.
            past_key_values: a prefix, or the keys of an earlier call.
            options: ``token_type_ids``; ``positions``, ``(b, text)`` (not ``position_ids``, which prompt learning
                shifts: a word keeps its position behind a prefix); ``inputs_embeds``, ``use_cache``, ``transient``,
                ``output_attentions``, ``output_hidden_states``, ``return_dict``.

        Raises:
            UsageError: for an unknown option, a mask that does not fit, or gradient checkpointing with a prefix.
        """
        flags = ("output_attentions", "output_hidden_states")
        wanted = arguments(
            self.config, options, model="VinVL", flags=flags, token_type_ids=None, positions=None, inputs_embeds=None,
            transient=0, use_cache=False, return_dict=True,
        )  # fmt: skip
        x = self.embed(
            input_ids,
            img_feats,
            segments=segment_ids if segment_ids is not None else wanted["token_type_ids"],
            positions=wanted["positions"],
            inputs_embeds=wanted["inputs_embeds"],
        )
        if past_key_values is None and wanted["use_cache"]:
            past_key_values = DynamicCache()
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        checkpointing = any(block.gradient_checkpointing for block in self.encoder.layer)
        if past_key_values is not None and self.training and checkpointing:
            raise UsageError(
                "gradient checkpointing runs each block twice and would append to a prefix or cache twice; "
                "call model.gradient_checkpointing_disable(), or train without a prefix"
            )
        if attention_mask is None:
            attention_mask = torch.ones(x.shape[:2], device=x.device)
        bias = additive(attention_mask, past=past, rows=x.shape[1], dtype=x.dtype)
        states, seen = self.encoder(
            x, bias, past=past_key_values, transient=wanted["transient"], weights=wanted["output_attentions"]
        )
        out = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=states[-1],
            pooler_output=self.pooler(states[-1]),
            past_key_values=past_key_values if wanted["use_cache"] else None,
            hidden_states=tuple(states) if wanted["output_hidden_states"] else None,
            attentions=tuple(seen) if wanted["output_attentions"] else None,
        )
        return out if wanted["return_dict"] else out.to_tuple()
