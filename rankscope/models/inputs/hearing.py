"""Inputs of models that read a sound beside a text: placeholders in the text, as many as the model makes rows of the sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankscope.data.probes import Example
from rankscope.errors import DataError
from rankscope.features import AUDIO, SPECIAL
from rankscope.models.inputs.encode import Inputs
from rankscope.models.inputs.encoding import Spans, arrays
from rankscope.models.inputs.sound import sound_columns, sound_of

if TYPE_CHECKING:
    from rankscope.models.stacks import Stack

SOUND_MASKS = ("feature_attention_mask", "input_features_mask")
"""What models call the mask of a spectrum over time, where ``attention_mask`` is that of the text."""


class HearingInputs(Inputs):
    """A spectrum filled up with silence to one length, and a placeholder in the text for each row that is no silence."""

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        """The tensors of the text and of the sound.

        Raises:
            DataError: if the sound is too short to have a row, or longer than what the model hears at once.
        """
        sound, most = sound_of(self._extractor, example), self._extractor.n_samples
        if len(sound.samples) > most:
            raise DataError(
                f"the sound of example {example.id!r} lasts {len(sound.samples) / sound.rate:.1f} s, and the model hears "
                f"{most / sound.rate:g} s at once; cut it"
            )
        placed, options = self._placed(text), self._framing
        made = arrays(
            self.processor(text=placed, audio=sound.samples, sampling_rate=sound.rate, return_tensors="pt", **options)
        )
        if not (made["input_ids"] == self.config.audio_token_id).any():
            raise DataError(
                f"the sound of example {example.id!r} is too short to be heard: {len(sound.samples)} samples"
            )
        return made

    def _placed(self, text: str) -> str:
        """A text with the placeholder of its sound before it, between the two tokens that frame it, unless it has one already."""
        token = str(self.processor.audio_token)
        before, behind = (getattr(self.processor, f"audio_{end}_token", "") for end in ("bos", "eos"))
        return text if token in text else f"{before}{token}{behind}{text}"

    def _roles(self, stack: Stack, inputs: dict[str, Tensor], example: Example, answer: Spans) -> Tensor:
        if stack.columns == "text":
            return super()._roles(stack, inputs, example, answer)
        (tower,) = self._with("audio")
        mask = next(inputs[name] for name in SOUND_MASKS if name in inputs)
        pooled = int(stack.columns == "projected")
        whole, real = (int(sound_columns(tower.owner, n)[pooled]) for n in (torch.tensor(mask.shape[-1]), mask.sum()))
        roles = torch.full((whole,), SPECIAL, dtype=torch.uint8)
        roles[:real] = AUDIO
        return roles

    def _token_roles(
        self, ids: Tensor, plain: int, answers: Spans = (), *, seen: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """``(t,)`` roles of tokens, placeholders being a part of the sound."""
        return (
            super()._token_roles(ids, plain, answers, seen=seen).masked_fill(ids == self.config.audio_token_id, AUDIO)
        )
