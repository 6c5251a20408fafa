"""The inputs of the ported families, which take other tensors than pixels and tokens in one row."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rankscope.data.probes import Example
from rankscope.errors import DataError
from rankscope.features import ANSWER, IMAGE, SPECIAL, TEXT
from rankscope.models.inputs.encode import ABSENT, Inputs, Sample
from rankscope.models.ported.ofa.prompts import CAPTION_PROMPT, vqa_prompt
from rankscope.models.ported.vinvl import encode_caption_inputs, encode_vqa_inputs


class OFAInputs(Inputs):
    """Patches, then the prompt; the decoder reads the target after the start token.

    An image without a text is asked what it shows, and a question about an image is put in the words that OFA was trained
    to be asked with; any other text is taken as it is. What is to be said begins with a space, as every word of OFA's does.
    """

    reads_images = True

    def encode(self, example: Example) -> Sample:
        """An example as the model takes it.

        Raises:
            DataError: if it has neither an image nor a text.
        """
        if example.image is None and not example.text.strip():
            raise DataError(f"example {example.id!r} has neither an image nor a text for OFA to read; name the images")
        image = None if example.image is None else example.open_image()
        text = _asked(example)
        inputs = self._arrays(self.processor(images=image, text=text, return_tensors="pt"))
        targets = (f" {example.target.strip()}",) if example.target else ()
        inputs |= self._target(replace(example, targets=targets))
        words = self._token_roles(inputs["input_ids"], TEXT, 0)
        side = self.config.patch_size if hasattr(self.config, "patch_size") else 16
        pixels = inputs.get("patch_images")
        count = 0 if pixels is None else (pixels.shape[-2] // side) * (pixels.shape[-1] // side)
        patches = words.new_full((count,), IMAGE)
        said = self._token_roles(inputs["decoder_input_ids"], ANSWER if example.target else TEXT, 0)
        return Sample(inputs, {"encoder": torch.cat([patches, words]), "decoder": said})


def _asked(example: Example) -> str:
    """The prompt of an example."""
    if example.image is None:
        return example.text
    question = example.about.get("task") == "question" or example.text.rstrip().endswith("?")
    return vqa_prompt(example.text) if question else example.text or CAPTION_PROMPT


class VinVLInputs(Inputs):
    """Words and tags, then regions.

    The captioning model reads the target in the slots of the caption (``[MASK]`` where there is none); the others read
    the text as a question. Slots that a short caption leaves empty are columns that never count.
    """

    reads_regions = True

    def encode(self, example: Example) -> Sample:
        """An example as the model takes it.

        Raises:
            DataError: if it has no regions, or those are of another width than the model reads.
        """
        if example.regions is None:
            raise DataError(
                f"example {example.id!r} has no regions, and VinVL reads those instead of pixels; name a feature file"
            )
        found = example.regions.open()
        if (width := found.features.shape[1]) != self.config.img_feature_dim:
            raise DataError(
                f"the regions of example {example.id!r} have {width} features, and the model reads {self.config.img_feature_dim}"
            )
        features, tags = [torch.tensor(found.features)], [found.tags]
        said = (self.answers and example.target) or None
        if self.generates:
            made = encode_caption_inputs(self.tokenizer, features, tags=tags, captions=said and [said])
        else:
            made = encode_vqa_inputs(self.tokenizer, features, [example.text], tags=tags)
        inputs = {name: tensor[0] for name, tensor in made.items()}
        parts = (len(inputs["input_ids"]), len(inputs["img_feats"]))
        roles = torch.cat([self._words(inputs), torch.full(parts[1:], IMAGE, dtype=torch.uint8)])
        roles[inputs["attention_mask"] == 0] = ABSENT
        return Sample(inputs, {"encoder": roles}, {"encoder": parts, "attention_mask": parts})

    def _words(self, inputs: dict[str, Tensor]) -> Tensor:
        """``(t,)`` roles: words of the caption are the answer, those of a question and the tags are text."""
        ids = inputs["input_ids"]
        first = ANSWER if self.generates else TEXT
        roles = torch.where(inputs["segment_ids"] == 0, first, TEXT).to(torch.uint8)
        return roles.masked_fill(torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids)), SPECIAL)
