"""Encoder and decoder as one model that generates."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import Seq2SeqLMOutput

from rankscope.models.ported.ofa.configuration import OFAConfig
from rankscope.models.ported.ofa.decoder import OFADecoder
from rankscope.models.ported.ofa.encoder import OFAEncoder, OFAEncoderOutput, OFAPreTrainedModel
from rankscope.models.ported.port import arguments

_FLAGS = ("use_cache", "output_hidden_states", "output_attentions")
_TENSORS = ("patch_masks", "inputs_embeds", "decoder_attention_mask", "decoder_inputs_embeds", "cache")
"""The rarer arguments of a forward pass."""


class OFAModel(OFAPreTrainedModel, GenerationMixin):
    """Images and a prompt in; a caption, an answer out."""

    main_input_name = "input_ids"
    _tied_weights_keys = {  # noqa: RUF012
        "decoder.embed_tokens.weight": "encoder.embed_tokens.weight",
        "decoder.output_projection.weight": "encoder.embed_tokens.weight",
    }

    def __init__(self, config: OFAConfig) -> None:
        super().__init__(config)
        self.encoder = OFAEncoder(config)
        self.decoder = OFADecoder(config)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
            setattr(self.generation_config, name, getattr(config, name))
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The words' embeddings."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the words' embeddings on both sides."""
        self.encoder.embed_tokens = value
        self.decoder.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        """The matrix of the vocabulary."""
        return self.decoder.output_projection

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the matrix of the vocabulary."""
        self.decoder.output_projection = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        patch_images: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: OFAEncoderOutput | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """``(b, q, V)`` scores of the next words.

        Args:
            input_ids, patch_images, attention_mask: what the encoder reads; see :class:`OFAEncoder`.
            decoder_input_ids: ``(b, q)``; ``labels`` moved to the right after the start word, unless given.
            encoder_outputs: what the encoder returned, if it ran already.
            past_key_values: a cache or prefix for the decoder; ``cache`` is the same under transformers' newer name. Of
                two, as PEFT and ``generate`` may give, the fuller one holds.
            labels: ``(b, q)`` words, −100 where none is predicted; the loss is their mean cross entropy.
            options: ``patch_masks``, ``inputs_embeds``, ``decoder_attention_mask``, ``decoder_inputs_embeds``,
                ``cache``, ``use_cache``, ``output_hidden_states``, ``output_attentions``, ``return_dict``.

        Raises:
            UsageError: for an unknown option, and whatever encoder and decoder refuse.
        """
        wanted = arguments(self.config, options, model="OFA", flags=_FLAGS, return_dict=True, **dict.fromkeys(_TENSORS))
        flags = {name: wanted[name] for name in ("output_hidden_states", "output_attentions")}
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids, patch_images, wanted["patch_masks"], attention_mask, wanted["inputs_embeds"], **flags
            )
        if labels is not None and decoder_input_ids is None and wanted["decoder_inputs_embeds"] is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        out = self.decoder(
            decoder_input_ids,
            wanted["decoder_attention_mask"],
            encoder_outputs,
            _fuller(past_key_values, wanted["cache"]),
            wanted["decoder_inputs_embeds"],
            use_cache=wanted["use_cache"] and labels is None,
            **flags,
        )
        logits = self.decoder.output_projection(out.last_hidden_state)
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        result = Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )
        return result if wanted["return_dict"] else result.to_tuple()

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """``(b, q)`` labels after the start word, without the last; −100 becomes padding."""
        start = labels.new_full((labels.shape[0], 1), self.config.decoder_start_token_id)
        shifted = nn.functional.pad(labels[:, :-1], (1, 0))
        shifted[:, :1] = start
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)


def _fuller(*caches: Cache | None) -> Cache | None:
    """The cache with the most positions; None if there is none."""
    return max((c for c in caches if c is not None), key=lambda c: c.get_seq_length(), default=None)
