"""The captioning head: a word is predicted in the place of ``[MASK]``, from the words before it, the tags and the regions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from rankscope.errors import UsageError
from rankscope.models.ported.vinvl.attention import caption_visibility
from rankscope.models.ported.vinvl.configuration import VinVLConfig
from rankscope.models.ported.vinvl.encoder import VinVLModel, VinVLPreTrainedModel
from rankscope.models.ported.vinvl.generation import CaptionOutput, Context, Decoder, Decoding, slots_of
from rankscope.models.ported.vinvl.search import beam_search, step_search


class Predictions(nn.Module):
    """States to scores over the vocabulary, with the word embeddings as weights, and a bias."""

    def __init__(self, config: VinVLConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """``(*, vocabulary)``."""
        return self.decoder(self.transform(x)) + self.bias


class Head(nn.Module):
    """Holds the predictions under the checkpoint's name."""

    def __init__(self, config: VinVLConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)


class CaptioningLoss(nn.Module):
    r"""Divergence from the smoothed word, averaged over the words kept.

    .. math:: \mathrm{KL}(q \,\|\, p), \qquad q = (1 - \varepsilon)\,\text{word} + \tfrac{\varepsilon}{V - 1}(1 - \text{word})

    After ``drop_worst_after`` steps the worst ``drop_worst_ratio`` of a batch's words are left out.
    """

    def __init__(self, config: VinVLConfig) -> None:
        super().__init__()
        self.smoothing, self.ratio, self.after = (
            config.label_smoothing,
            config.drop_worst_ratio,
            config.drop_worst_after,
        )
        self.steps = 0

    def forward(self, logits: Tensor, words: Tensor) -> Tensor:
        """A scalar from ``(m, V)`` logits and ``(m,)`` words."""
        # q: 1 − ε at the word, ε / (V − 1) at every other.
        target = torch.full_like(logits, self.smoothing / (logits.shape[1] - 1))
        target.scatter_(1, words[:, None], 1 - self.smoothing)
        loss = nn.functional.kl_div(logits.log_softmax(-1), target, reduction="none").sum(1)
        self.steps += int(self.training)
        if self.training and self.ratio > 0 and self.steps > self.after:
            loss = loss.topk(int(len(loss) * (1 - self.ratio)), largest=False).values
        return loss.mean()


class VinVLForImageCaptioning(VinVLPreTrainedModel, GenerationMixin):
    """Captions from tags and regions.

    A checkpoint of the pre-training loads too; its contrast between matching and swapped tags (``cls.seq_relationship``)
    answers no caption and is left out.
    """

    main_input_name = "input_ids"
    _keys_to_ignore_on_load_unexpected = (r"embeddings\.position_ids$", r"^cls\.seq_relationship\.")

    def __init__(self, config: VinVLConfig) -> None:
        super().__init__(config)
        self.bert = VinVLModel(config)
        self.cls = Head(config)
        self.loss = CaptioningLoss(config)
        self.post_init()
        self.bert.embeddings.word_embeddings.weight.requires_grad_(not config.freeze_embedding)

    _tied_weights_keys = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def get_output_embeddings(self) -> nn.Linear:
        """The matrix of the vocabulary."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the matrix of the vocabulary."""
        self.cls.predictions.decoder = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        img_feats: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """``(b, text, V)`` logits.

        Args:
            input_ids: ``(b, text)``: the caption with ``[MASK]`` where words are wanted, then the tags.
            attention_mask: ``(b, n)`` real positions, from which the two-dimensional mask is made (the caption is
                what comes before the first ``segment_ids`` of 1), or that mask itself, ``(b, n, n)``.
            labels: ``(b, text)`` words, −100 where none is predicted.

        Raises:
            UsageError: if no position has a label.
        """
        plain = options.pop("return_dict", None)
        segments = segment_ids if segment_ids is not None else options.pop("token_type_ids", None)
        visible = self._visibility(input_ids, img_feats, attention_mask, segments)
        out = self.bert(input_ids, img_feats, visible, segments, past_key_values, **options)
        text = out.last_hidden_state.shape[1] - (0 if img_feats is None else img_feats.shape[1])
        logits = self.cls.predictions(out.last_hidden_state[:, :text])
        result = MaskedLMOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
        if out.past_key_values is not None:
            result["past_key_values"] = out.past_key_values
        return result.to_tuple() if plain is False else result

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        """What a first step starts from. Wrappers add a prefix here as ``past_key_values``; :meth:`generate` keeps it."""
        return {"input_ids": input_ids, **kwargs}

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        img_feats: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        **options: Any,
    ) -> Tensor | CaptionOutput:
        """Captions, word by word: ``[MASK]`` is put after the caption so far and its most likely word is taken.

        Args:
            input_ids: ``(b, slots + tags)``; the contents of the caption's slots are not read.
            img_feats, attention_mask, segment_ids: as for :meth:`forward`.
            options: the fields of :class:`Decoding`; ``token_type_ids`` for ``segment_ids``; ``return_dict_in_generate``
                for a :class:`CaptionOutput`.

        Returns:
            ``(b · num_return_sequences, max_length)`` ids from ``[CLS]`` on, padded; or those with their scores.
        """
        segments = options.pop("token_type_ids", None) if segment_ids is None else segment_ids
        full = options.pop("return_dict_in_generate", False)
        decoding = Decoding.of(self.config, options, slots=slots_of(input_ids, segments))
        start = torch.full_like(input_ids[:, :1], decoding.bos)
        beams = 1 if decoding.do_sample else decoding.num_beams
        start = start.repeat_interleave(beams, dim=0)
        prefix = self.prepare_inputs_for_generation(start).get("past_key_values")
        visible = self._visibility(input_ids, img_feats, attention_mask, segments)
        context = Context.of(input_ids, img_feats, visible, segments, decoding).repeat(beams)
        out = (beam_search if beams > 1 else step_search)(Decoder(self, context, decoding, prefix), start, decoding)
        return out if full else out.sequences

    def _visibility(
        self, input_ids: Tensor | None, img_feats: Tensor | None, mask: Tensor | None, segments: Tensor | None
    ) -> Tensor:
        """The two-dimensional mask as booleans, made from a one-dimensional one if need be."""
        if mask is not None and mask.dim() == 3:
            return mask.bool()
        if input_ids is None:
            raise UsageError("captioning without input_ids needs the two-dimensional mask, (batch, n, n)")
        caption = torch.ones_like(input_ids, dtype=torch.bool) if segments is None else (segments != 0).cumsum(1) == 0
        caption = nn.functional.pad(caption, (0, 0 if img_feats is None else img_feats.shape[1]))
        if mask is None:
            mask = torch.ones_like(caption)
        if mask.dim() != 2 or mask.shape[1] < caption.shape[1]:
            raise UsageError(
                f"an attention mask of shape {tuple(mask.shape)} does not cover the {caption.shape[1]} words, tags and regions"
            )
        return caption_visibility(mask, caption)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss over the labelled positions."""
        asked = labels != -100
        if not asked.any():
            raise UsageError("no position has a label; mark the masked words in labels, with -100 elsewhere")
        return self.loss(logits[asked].float(), labels[asked])
