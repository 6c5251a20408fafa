"""The encoder: patches, then words, each with its positions untied from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from rankscope.errors import UsageError
from rankscope.models.ported.ofa.attention import hidden
from rankscope.models.ported.ofa.configuration import OFAConfig
from rankscope.models.ported.ofa.layers import EncoderLayer
from rankscope.models.ported.ofa.positions import (
    Tables,
    code_places,
    grid_places,
    image_bucket_count,
    image_buckets,
    products,
    scaling,
    token_buckets,
)
from rankscope.models.ported.ofa.resnet import PIXELS, WIDTH, Stem


class OFAPreTrainedModel(PreTrainedModel):
    """What encoder, decoder and the whole share."""

    config_class = OFAConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # a Trainer passes no count of words: the loss is a mean already
    _no_split_modules = ("EncoderLayer", "DecoderLayer")
    _skip_keys_device_placement = ("past_key_values",)
    _keys_to_ignore_on_load_unexpected = (r"(encoder|decoder)\.version$",)

    def _init_weights(self, module: nn.Module) -> None:
        """transformers' defaults at ``init_std``; relative positions start at 0, and buckets at what they are."""
        super()._init_weights(module)
        if isinstance(module, Tables):
            for table in module:
                initialization.zeros_(table.weight)
        for name, make in _BUFFERS.items():
            if name in module._buffers:
                initialization.copy_(module._buffers[name], make(self.config))


_BUFFERS = {
    "token_rp_bucket": lambda config: token_buckets(config.token_bucket_size),
    "image_rp_bucket": lambda config: image_buckets(config.image_bucket_size),
    "image_position_idx": code_places,
}
"""Tables of integers that checkpoints hold in addition to the weights."""


def add_positions(module: nn.Module, config: OFAConfig, *, layers: int, heads: int) -> None:
    """Give an encoder or decoder its embeddings, norms and tables of positions, under the checkpoint's names."""
    width, side = config.d_model, config.image_bucket_size
    module.embed_positions = nn.Embedding(config.max_position_embeddings + 2, width)
    module.embed_image_positions = nn.Embedding(side**2 + 1, width)
    module.pos_ln = nn.LayerNorm(width)
    module.image_pos_ln = nn.LayerNorm(width)
    module.token_rel_pos_table_list = Tables(layers, 2 * config.token_bucket_size - 1, heads)
    module.image_rel_pos_table_list = Tables(layers, image_bucket_count(side), heads)
    for name in ("token_rp_bucket", "image_rp_bucket"):
        module.register_buffer(name, _BUFFERS[name](config))


def drop_paths(rate: float, layers: int) -> list[float]:
    """The rate of each block: from 0 to ``rate``."""
    return torch.linspace(0, rate, layers).tolist()


@dataclass
class OFAEncoderOutput(ModelOutput):
    """What the encoder returns, with what the decoder needs of it."""

    last_hidden_state: Tensor | None = None
    """``(b, patches + words, d)``, after the last norm."""
    hidden_states: tuple[Tensor, ...] | None = None
    """What enters each block and what leaves the last, before the last norm."""
    attentions: tuple[Tensor, ...] | None = None
    attention_mask: Tensor | None = None
    """``(b, patches + words)``, true at real ones."""
    position_embedding: Tensor | None = None
    """``(b, patches + words, d)``, normed."""


@dataclass(frozen=True)
class _Sequence:
    """One half of what is read: words or patches."""

    x: Tensor
    real: Tensor
    """``(b, n)``."""
    places: Tensor
    """``(b, n, d)`` normed embeddings of positions."""


class OFAEncoder(OFAPreTrainedModel):
    """Images and words in, states out."""

    main_input_name = "input_ids"

    def __init__(self, config: OFAConfig, embed_tokens: nn.Embedding | None = None) -> None:
        super().__init__(config)
        width, heads = config.d_model, config.encoder_attention_heads
        self.embed_tokens = embed_tokens or nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.layernorm_embedding = nn.LayerNorm(width) if config.layernorm_embedding else nn.Identity()
        self.patch_layernorm_embedding = nn.LayerNorm(width) if config.patch_layernorm_embedding else nn.Identity()
        if config.add_type_embedding:
            self.type_embedding = nn.Embedding(2, width)
        self.embed_images = Stem(config)
        self.image_proj = nn.Linear(WIDTH, width)
        add_positions(self, config, layers=config.encoder_layers, heads=heads)
        self.pos_q_linear = nn.Linear(width, width)
        self.pos_k_linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        rates = drop_paths(config.encoder_drop_path_rate, config.encoder_layers)
        self.layers = nn.ModuleList(EncoderLayer(config, index, rate) for index, rate in enumerate(rates))
        self.layer_norm = nn.LayerNorm(width) if config.encoder_normalize_before else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        patch_images: Tensor | None = None,
        patch_masks: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> OFAEncoderOutput | tuple[Any, ...]:
        """Read images and words; patches come before the words.

        Args:
            input_ids: ``(b, t)``; the padding word is not read, on either side.
            patch_images: ``(b, 3, h, w)`` pixels, of which 16 × 16 make a patch.
            patch_masks: ``(b,)`` or ``(b, 1)``, false for an entry whose image is not to be read.
            attention_mask: ``(b, t)``, 1 at the words to read; those that are not padding, unless given.
            inputs_embeds: ``(b, t, d)`` embedded words, instead of ``input_ids``.
            options: ``output_hidden_states``, ``output_attentions``, ``return_dict``.

        Raises:
            UsageError: if there are no words, or more words or patches than positions.
        """
        text = self._words(input_ids, inputs_embeds, attention_mask)
        patches = None if patch_images is None else self._patches(patch_images, patch_masks)
        parts = [text] if patches is None else [patches, text]
        x, real = torch.cat([p.x for p in parts], dim=1), torch.cat([p.real for p in parts], dim=1)
        places = torch.cat([p.places for p in parts], dim=1)
        x = x * real[:, :, None].to(x.dtype)
        grid = None if patch_images is None else self._grid(patch_images)
        # TUPE: position · position, the same for every block.
        shared = products(
            self.pos_q_linear(places),
            self.pos_k_linear(places),
            heads=self.config.encoder_attention_heads,
            scale=scaling(self.config, self.config.encoder_attention_heads),
        )
        mask = hidden(real, x.dtype)
        states, seen = [x], []
        for index, block in enumerate(self.layers):
            if self.training and torch.rand(()) < self.config.encoder_layerdrop:
                continue
            bias = self._bias(shared, index, grid, text.x.shape[1])
            out = block(states[-1], mask, bias, bool(options.get("output_attentions")))
            states.append(out if isinstance(out, Tensor) else out[0])
            seen += [] if isinstance(out, Tensor) else [out[1]]
        result = OFAEncoderOutput(
            last_hidden_state=self.layer_norm(states[-1]),
            hidden_states=tuple(states) if options.get("output_hidden_states") else None,
            attentions=tuple(seen) if options.get("output_attentions") else None,
            attention_mask=real,
            position_embedding=places,
        )
        return result.to_tuple() if options.get("return_dict") is False else result

    def _words(self, ids: Tensor | None, embeds: Tensor | None, mask: Tensor | None) -> _Sequence:
        """The words, embedded; a word's position counts from the first real one."""
        if embeds is None and ids is None:
            raise UsageError("OFA's encoder reads words: give input_ids, the prompt, even with an image")
        words = self.embed_tokens(ids) if embeds is None else embeds
        if mask is None:
            mask = words.new_ones(words.shape[:2]) if ids is None else ids != self.config.pad_token_id
        real, length = mask.bool(), words.shape[1]
        if real.shape != words.shape[:2]:
            raise UsageError(f"an attention mask of shape {tuple(real.shape)} for words {tuple(words.shape[:2])}")
        if length > self.config.max_position_embeddings:
            raise UsageError(
                f"{length} words and max_position_embeddings {self.config.max_position_embeddings}: shorten the text"
            )
        # The number of padding columns before the first real word; % makes a row of nothing but padding count as 0.
        padding = (real.cumsum(1) == 0).sum(1, keepdim=True) % max(length, 1)
        places = (torch.arange(length, device=words.device) - padding).clamp(min=0)
        positions = self.embed_positions(places)
        x = self._embedded(words, positions, 0, self.layernorm_embedding)
        return _Sequence(x, real, self.pos_ln(positions))

    def _patches(self, images: Tensor, masks: Tensor | None) -> _Sequence:
        """The patches, row by row."""
        patches = self.embed_images(images.to(self.image_proj.weight.dtype)).flatten(2).transpose(1, 2)
        count = patches.shape[:2]
        positions = self.embed_image_positions(self._grid(images)).expand(*count, -1)
        x = self._embedded(self.image_proj(patches), positions, 1, self.patch_layernorm_embedding)
        real = torch.ones(count, dtype=torch.bool, device=x.device)
        if masks is not None:
            real = real & masks.reshape(-1, 1).bool()
        return _Sequence(x, real, self.image_pos_ln(positions))

    def _embedded(self, x: Tensor, positions: Tensor, kind: int, norm: nn.Module) -> Tensor:
        """``(b, n, d)``: scaled, typed (0 words, 1 patches), normed and dropped out."""
        x = x * math.sqrt(self.config.d_model) if self.config.scale_embedding else x
        if self.config.entangle_position_embedding:
            x = x + positions
        if self.config.add_type_embedding:
            x = x + self.type_embedding.weight[kind]
        return self.dropout(norm(x))

    def _grid(self, images: Tensor) -> Tensor:
        """``(patches,)`` positions in the grid.

        Raises:
            UsageError: if the image is larger than the grid.
        """
        height, width = (-(-size // PIXELS) for size in images.shape[-2:])
        side = self.config.image_bucket_size
        if max(height, width) > side:
            raise UsageError(
                f"an image of {images.shape[-2]} × {images.shape[-1]} pixels makes {height} × {width} patches; the grid "
                f"has {side} × {side}, so at most {side * PIXELS} pixels"
            )
        return grid_places(height, width, side, device=images.device)

    def _bias(self, shared: Tensor, layer: int, grid: Tensor | None, words: int) -> Tensor:
        """``(b, heads, n, n)``: the shared products and the layer's own relative positions; between patches and words there are none."""
        text = self.token_rel_pos_table_list.bias(layer, self.token_rp_bucket[:words, :words])
        patches = shared.shape[-1] - words
        own = nn.functional.pad(text, (patches, 0, patches, 0))
        if grid is not None:
            image = self.image_rel_pos_table_list.bias(layer, self.image_rp_bucket[grid][:, grid])
            own = own + nn.functional.pad(image, (0, words, 0, words))
        return shared + own
