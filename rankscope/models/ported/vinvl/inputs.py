"""Examples as VinVL's tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.data.probes import Example
from rankscope.errors import DataError
from rankscope.features import ANSWER, IMAGE, SPECIAL, TEXT
from rankscope.models.inputs.encode import Inputs
from rankscope.models.inputs.encoding import ABSENT, Encoding
from rankscope.models.ported.vinvl.encoding import encode_caption_inputs, encode_vqa_inputs


class VinVLInputs(Inputs):
    """Words and tags, then regions.

    The captioning model reads the target in the slots of the caption (``[MASK]`` if there is none); the others read the
    text as a question. Slots that a short caption leaves empty are columns that never count.
    """

    def encode(self, example: Example) -> Encoding:
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
        return Encoding(example.id, inputs, {"encoder": roles}, {"encoder": parts, "attention_mask": parts})

    def _words(self, inputs: dict[str, Tensor]) -> Tensor:
        """``(t,)`` roles: words of the caption are the answer, those of a question and the tags are text."""
        ids = inputs["input_ids"]
        first = ANSWER if self.generates else TEXT
        roles = torch.where(inputs["segment_ids"] == 0, first, TEXT).to(torch.uint8)
        return roles.masked_fill(torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids)), SPECIAL)
