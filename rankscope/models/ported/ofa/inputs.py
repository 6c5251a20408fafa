"""Examples as OFA's tensors."""

from __future__ import annotations

from dataclasses import replace

import torch

from rankscope.data.probes import Example
from rankscope.errors import DataError
from rankscope.features import ANSWER, IMAGE, TEXT
from rankscope.models.inputs.encode import Inputs
from rankscope.models.inputs.encoding import Encoding, arrays
from rankscope.models.ported.ofa.prompts import CAPTION_PROMPT, vqa_prompt
from rankscope.models.ported.ofa.resnet import PIXELS


class OFAInputs(Inputs):
    """Patches, then the prompt; the decoder reads the target after the start token.

    An image without a text is asked what it shows, and a question about an image is worded as in OFA's training; any other
    text is taken as it is. The target begins with a space, as every word of OFA's does.
    """

    def reads(self, example: Example) -> Example:
        """An example of what the model reads of another: a question about an image is worded otherwise than a caption."""
        return replace(super().reads(example), text=_asked(example))

    def encode(self, example: Example) -> Encoding:
        """An example as the model takes it.

        Raises:
            DataError: if it has neither an image nor a text.
        """
        if example.image is None and not example.text.strip():
            raise DataError(f"example {example.id!r} has neither an image nor a text for OFA to read; name the images")
        image = None if example.image is None else example.open_image()
        text = _asked(example)
        inputs = arrays(self.processor(images=image, text=text, return_tensors="pt"))
        targets = (f" {example.target.strip()}",) if example.target else ()
        inputs |= self._target(replace(example, targets=targets))
        words = self._token_roles(inputs["input_ids"], TEXT)
        pixels = inputs.get("patch_images")
        count = 0 if pixels is None else (pixels.shape[-2] // PIXELS) * (pixels.shape[-1] // PIXELS)
        patches = words.new_full((count,), IMAGE)
        said = self._token_roles(inputs["decoder_input_ids"], ANSWER if example.target else TEXT)
        return Encoding(example.id, inputs, {"encoder": torch.cat([patches, words]), "decoder": said})


def _asked(example: Example) -> str:
    """The prompt of an example."""
    if example.image is None:
        return example.text
    question = example.about.get("task") == "question" or example.text.rstrip().endswith("?")
    return vqa_prompt(example.text) if question else example.text or CAPTION_PROMPT
