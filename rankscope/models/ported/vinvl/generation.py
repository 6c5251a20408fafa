"""Decoding by a moving ``[MASK]``: one word a step, greedily, by sampling or by beam search.

Tags and regions never look at the caption, so their keys are made once; each step runs the last word and ``[MASK]``,
and keeps only the word's keys. The scores follow the published ones: a caption's log-probabilities are summed and
divided by its length to ``length_penalty``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import ModelOutput

from rankscope.errors import UsageError
from rankscope.models.ported.vinvl.configuration import VinVLConfig
from rankscope.models.ported.vinvl.encoder import VinVLPreTrainedModel


@dataclass
class CaptionOutput(ModelOutput):
    """Captions with the score by which they were chosen."""

    sequences: Tensor
    """``(b · num_return_sequences, max_length)``."""
    sequences_scores: Tensor | None = None
    """``(b · num_return_sequences,)``: mean log-probability (at ``length_penalty`` 1)."""


@dataclass(frozen=True)
class Decoding:
    """How captions are searched."""

    bos: int
    eos: int
    pad: int
    mask: int
    max_length: int = 20
    """With the first and the last special word; the published default."""
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    exact_beams: bool = False
    """Whether a beam keeps its own history; the published search mixes them (see :meth:`Decoder.reorder`)."""
    tag_position: int | None = None
    """The position of the first tag; by default its place in ``input_ids`` (``od_labels_start_posid``)."""

    @classmethod
    def of(cls, config: VinVLConfig, options: dict[str, Any], *, slots: int) -> Decoding:
        """The options given, and the model's for the others.

        Args:
            config: the model's; it has the special words.
            options: those of the fields, and transformers' ``max_new_tokens`` (at most what fits the ``slots``).
            slots: places for the caption in the input.

        Raises:
            UsageError: for an option that does not exist, or a length or number of beams below what is possible.
        """
        given = {key: value for key, value in options.items() if key not in _IGNORED}
        eos = config.eos_token_id
        own = {"bos": config.bos_token_id, "pad": config.pad_token_id, "mask": config.mask_token_id}
        own["eos"] = eos[0] if isinstance(eos, list) else eos
        asked = {name: given.pop(f"{name}_token_id", None) for name in own}
        ids: dict[str, Any] = {name: value if asked[name] is None else asked[name] for name, value in own.items()}
        if "max_new_tokens" in given:
            given["max_length"] = min(given.pop("max_new_tokens") + 1, slots)
        for name, neutral in _NEUTRAL.items():
            if given.pop(name, neutral) not in (neutral, None):
                raise UsageError(f"VinVL's generate has no {name}; leave it at {neutral}")
        known = {field.name for field in fields(cls)} - set(ids)
        if unknown := sorted(set(given) - known):
            raise UsageError(f"VinVL's generate takes no {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
        decoding = cls(**ids, **given)
        if outside := sorted(name for name, value in ids.items() if not 0 <= (value or 0) < config.vocab_size):
            raise UsageError(
                f"the {' and '.join(outside)} token is not among the {config.vocab_size} words of this model; set "
                f"config.{outside[0]}_token_id, or pass {outside[0]}_token_id"
            )
        if decoding.max_length < 2 or decoding.num_beams < 1:
            raise UsageError(f"max_length {decoding.max_length} and num_beams {decoding.num_beams}: at least 2 and 1")
        if decoding.num_return_sequences > decoding.num_beams:
            raise UsageError(
                f"{decoding.num_return_sequences} sequences were asked of {decoding.num_beams} beam(s); raise num_beams"
            )
        return decoding


_IGNORED = frozenset({"use_cache", "return_dict", "output_hidden_states", "output_attentions", "early_stopping"})
"""Options of transformers' ``generate`` that change no word here."""
_NEUTRAL: dict[str, Any] = {
    "top_k": 0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
}
"""Options of transformers' ``generate`` that are not there, at the values at which they do nothing."""


@dataclass(frozen=True)
class Context:
    """What a caption is about: tags and regions, and who sees whom among them."""

    tags: Tensor
    """``(b, tags)``."""
    segments: Tensor
    positions: Tensor
    """``(b, tags)`` each."""
    regions: Tensor | None
    inner: Tensor
    """``(b, c, c)``: tags and regions among themselves."""
    outward: Tensor
    """``(b, 1, c)``: what any word of the caption sees of them."""

    @classmethod
    def of(
        cls, input_ids: Tensor, regions: Tensor | None, visible: Tensor, segments: Tensor | None, decoding: Decoding
    ) -> Context:
        """Split ``(b, slots + tags)`` ids and their mask at the first tag.

        Raises:
            UsageError: if the caption's slots are fewer than ``max_length``, or something sees the caption.
        """
        tagged = torch.zeros_like(input_ids) if segments is None else segments
        slots = slots_of(input_ids, segments)
        if slots < decoding.max_length and slots < input_ids.shape[1]:
            raise UsageError(
                f"a caption of max_length {decoding.max_length} does not fit the {slots} slots before the tags; encode "
                "with more, or ask for fewer words"
            )
        if visible[:, slots:, :slots].any():
            raise UsageError("the mask lets tags or regions see the caption; a cached decoding would then be wrong")
        first = slots if decoding.tag_position is None else decoding.tag_position
        tags = input_ids[:, slots:]
        positions = torch.arange(first, first + tags.shape[1], device=tags.device).expand(tags.shape)
        inner, outward = visible[:, slots:, slots:], visible[:, :1, slots:]
        return cls(tags, tagged[:, slots:], positions, regions, inner, outward)

    def repeat(self, times: int) -> Context:
        """Each entry ``times`` times in a row."""
        if times == 1:
            return self
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        repeated: dict[str, Any] = {k: None if v is None else v.repeat_interleave(times, 0) for k, v in values.items()}
        return Context(**repeated)


def slots_of(input_ids: Tensor, segments: Tensor | None) -> int:
    """The number of places before the first tag of a batch: all of them if there is no tag."""
    if segments is None or not (segments != 0).any():
        return input_ids.shape[1]
    return int((segments != 0).any(dim=0).nonzero()[0])


class Decoder:
    """Next-word scores for captions that grow by one word a step."""

    def __init__(self, model: VinVLPreTrainedModel, context: Context, decoding: Decoding, prefix: Cache | None) -> None:
        self.model, self.context, self.mask, self.exact = model, context, decoding.mask, decoding.exact_beams
        self.cache: Cache = DynamicCache() if prefix is None else prefix
        if context.inner.shape[1]:
            places = {"positions": context.positions, "use_cache": True}
            out = model(context.tags, context.regions, context.inner, context.segments, prefix, **places)
            self.cache = out.past_key_values

    def scores(self, captions: Tensor) -> Tensor:
        """``(b, V)`` scores of the word after ``(b, t)`` captions; the last word is new to the cache."""
        b, t = captions.shape
        words = torch.stack([captions[:, -1], torch.full_like(captions[:, -1], self.mask)], dim=1)
        positions = torch.tensor([[t - 1, t]], device=words.device).expand(b, 2)
        out = self.model(
            words,
            None,
            self._rows(b, t),
            torch.zeros_like(words),
            self.cache,
            positions=positions,
            use_cache=True,
            transient=1,
        )
        return out.logits[:, 1].float()

    def reorder(self, order: Tensor) -> None:
        """Keep the captions that ``order`` names, ``(b,)``.

        The authors' beam search moves only the newest word's states and leaves those of earlier words in the rows of
        the beams that wrote them. That is followed, since published captions came from it, unless ``exact_beams``.
        """
        if self.exact:
            self.cache.reorder_cache(order)
            return
        for layer in self.cache.layers:
            layer.keys[:, :, -1:] = layer.keys[order, :, -1:]
            layer.values[:, :, -1:] = layer.values[order, :, -1:]

    def _rows(self, b: int, t: int) -> Tensor:
        """``(b, 2, c + t + 1)``: the word sees itself and what is before it; ``[MASK]`` sees both."""
        outward = self.context.outward.bool().expand(b, 2, -1)
        caption = torch.ones(b, 2, t + 1, dtype=torch.bool, device=outward.device)
        caption[:, 0, t] = False
        return torch.cat([outward, caption], dim=2)
