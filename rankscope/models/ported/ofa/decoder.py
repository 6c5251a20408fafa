"""The decoder: words from words before them and from the encoder, with positions untied from them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from rankscope.errors import UsageError
from rankscope.models.ported.ofa.attention import hidden
from rankscope.models.ported.ofa.configuration import OFAConfig
from rankscope.models.ported.ofa.encoder import OFAEncoderOutput, OFAPreTrainedModel, add_positions, drop_paths
from rankscope.models.ported.ofa.layers import DecoderLayer
from rankscope.models.ported.ofa.positions import code_places, products, scaling


class _Places(NamedTuple):
    """The positions of the words: those of this call are the last of the columns."""

    real: Tensor
    """``(b, q, k)``: which columns each word may see."""
    rows: Tensor
    columns: Tensor
    """``(b or 1, q)`` and ``(b or 1, k)`` positions."""


class OFADecoder(OFAPreTrainedModel):
    """Words in, states and scores of the next words out."""

    def __init__(self, config: OFAConfig, embed_tokens: nn.Embedding | None = None) -> None:
        super().__init__(config)
        width, heads = config.d_model, config.decoder_attention_heads
        self.embed_tokens = embed_tokens or nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else nn.Identity()
        if config.code_layernorm_embedding:
            self.code_layernorm_embedding = nn.LayerNorm(width)
        add_positions(self, config, layers=config.decoder_layers, heads=heads)
        self.register_buffer("image_position_idx", code_places(config))
        for name in ("self_pos_q_linear", "self_pos_k_linear", "cross_pos_q_linear", "cross_pos_k_linear"):
            setattr(self, name, nn.Linear(width, width))
        self.dropout = nn.Dropout(config.dropout)
        rates = drop_paths(config.decoder_drop_path_rate, config.decoder_layers)
        self.layers = nn.ModuleList(DecoderLayer(config, index, rate) for index, rate in enumerate(rates))
        self.layer_norm = nn.LayerNorm(width) if config.decoder_normalize_before else nn.Identity()
        self.output_projection = nn.Linear(width, config.vocab_size, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: OFAEncoderOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """States after the last norm, ``(b, q, d)``.

        Args:
            input_ids: ``(b, q)`` words that are not in the cache yet.
            attention_mask: ``(b, k)``, 1 at real words, those of the cache first; positions count them.
            encoder_outputs: what the encoder returned.
            past_key_values: the cache, or a prefix, which takes the first positions.
            inputs_embeds: ``(b, q, d)``, instead of ``input_ids``.
            options: ``use_cache``, ``output_hidden_states``, ``output_attentions``.

        Raises:
            UsageError: without words or encoder, for more words than positions, for a mask that does not fit, or for
                gradient checkpointing with a prefix.
        """
        real = None if encoder_outputs is None else encoder_outputs.attention_mask
        if encoder_outputs is None or real is None or (input_ids is None) == (inputs_embeds is None):
            raise UsageError("OFA's decoder needs its encoder's outputs, and either input_ids or inputs_embeds")
        words = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        past = self._past(past_key_values, bool(options.get("use_cache")))
        places = self._places(words, attention_mask, 0 if past is None else past.get_seq_length())
        rows, columns = self.embed_positions(places.rows), self.pos_ln(self.embed_positions(places.columns))
        x = words * math.sqrt(self.config.d_model) if self.config.scale_embedding else words
        if self.config.entangle_position_embedding:
            x = x + rows
        x = self.dropout(self.layernorm_embedding(x))
        heads = self.config.decoder_attention_heads
        factor = {"heads": heads, "scale": scaling(self.config, heads)}
        query, memory = self.pos_ln(rows), encoder_outputs.position_embedding
        # TUPE: a score is word · word + position · position, each with projections of its own; these are the second terms.
        own = products(self.self_pos_q_linear(query), self.self_pos_k_linear(columns), **factor)
        other = products(self.cross_pos_q_linear(query), self.cross_pos_k_linear(memory), **factor)
        mask = hidden(places.real, x.dtype)
        read = (hidden(real, x.dtype), other)
        buckets = self.token_rp_bucket[places.rows[:, :, None], places.columns[:, None, :]]
        states, seen = [x], []
        for index, block in enumerate(self.layers):
            if self.training and torch.rand(()) < self.config.decoder_layerdrop:
                continue
            bias = own + self.token_rel_pos_table_list.bias(index, buckets)
            wanted = bool(options.get("output_attentions"))
            out = block(states[-1], encoder_outputs.last_hidden_state, (mask, bias), read, past, wanted)
            states.append(out if isinstance(out, Tensor) else out[0])
            seen += [] if isinstance(out, Tensor) else [out[1:]]
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.layer_norm(states[-1]),
            past_key_values=past if options.get("use_cache") else None,
            hidden_states=tuple(states) if options.get("output_hidden_states") else None,
            attentions=tuple(pair[0] for pair in seen) if seen else None,
            cross_attentions=tuple(pair[1] for pair in seen) if seen else None,
        )

    def _past(self, past: Cache | None, wanted: bool) -> Cache | None:
        """The cache to use: the one given, a new one, or none.

        Raises:
            UsageError: if the blocks are to be run twice over a filled cache.
        """
        again = self.training and any(block.gradient_checkpointing for block in self.layers)
        if again and past is not None and past.get_seq_length():
            raise UsageError(
                "gradient checkpointing runs each block twice and would append to a prefix or cache twice; "
                "switch it off, or train without a prefix"
            )
        if past is None and wanted and not again:
            return EncoderDecoderCache(DynamicCache(), DynamicCache())
        return None if again else past

    def _places(self, words: Tensor, mask: Tensor | None, past: int) -> _Places:
        """Positions and visible columns of ``(b, q, d)`` words after ``past`` others.

        Raises:
            UsageError: if the mask does not fit, or the positions do not suffice.
        """
        b, q = words.shape[:2]
        total = past + q
        if total > self.config.max_position_embeddings:
            raise UsageError(
                f"{total} decoder positions (with prefix and cache) and max_position_embeddings "
                f"{self.config.max_position_embeddings}: write fewer words"
            )
        # Word i of this call has position past + i, and sees every column up to it.
        causal = torch.ones(q, total, dtype=torch.bool, device=words.device).tril(past)
        if mask is None:
            columns = torch.arange(total, device=words.device)[None]
            return _Places(causal.expand(b, q, total), columns[:, past:], columns)
        if mask.shape not in ((b, total), (b, q)):
            raise UsageError(f"a decoder mask of shape {tuple(mask.shape)} for {q} words after {past}, batch {b}")
        # A mask of this call's words alone says nothing of earlier columns: they are real.
        real = nn.functional.pad(mask.bool(), (total - mask.shape[1], 0), value=True)
        columns = (real.cumsum(1) - 1).clamp(min=0)
        return _Places(causal & real[:, None, :], columns[:, past:], columns)
