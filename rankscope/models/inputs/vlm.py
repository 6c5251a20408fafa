"""Inputs of vision–language models whose images are placeholders in the text, as many as the model makes rows of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rankscope.data.probes import Example
from rankscope.errors import CheckpointError, DataError
from rankscope.features import ANSWER, IMAGE, TEXT
from rankscope.models.inputs.encode import Inputs
from rankscope.models.inputs.encoding import ABSENT, Encoding, Spans, arrays
from rankscope.models.inputs.patches import patch_roles

if TYPE_CHECKING:
    from rankscope.models.stacks import Stack

_MULTIPLE = 8
"""Of which the columns of a tile in Mllama are a multiple."""


class BlipInputs(Inputs):
    """One placeholder for each row of the queries; InstructBLIP's Q-Former reads the question, never the answer."""

    def complete(self, base: Any) -> None:
        """The number of placeholders from the model and their token from the tokenizer, which old folders do not name.

        Without them the language model would not see the image.

        Raises:
            CheckpointError: if the model has no embedding for the placeholder.
        """
        words = base.get_input_embeddings().num_embeddings
        if getattr(self.processor, "num_query_tokens", 0) is None:
            self.processor.num_query_tokens = self.config.num_query_tokens
        if self.config.image_token_id is None:
            self.config.image_token_id = self.tokenizer.convert_tokens_to_ids(str(self.processor.image_token))
        if self.config.image_token_id >= words:
            raise CheckpointError(
                f"the image's placeholder is token {self.config.image_token_id}, and the model has {words}; resize its "
                "embeddings (model.resize_token_embeddings), or take the tokenizer that belongs to it"
            )

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        made = super()._processed(example, text)
        if "qformer_input_ids" in made:
            asked = arrays(self.processor.qformer_tokenizer(example.text, return_tensors="pt"))
            made |= {f"qformer_{name}": asked[name] for name in ("input_ids", "attention_mask")}
        return made


class BlipOneInputs(Inputs):
    """BLIP's own first kind, whose answers look at a question; transformers drops the question's mask there, so padding would count."""

    def complete(self, base: nn.Module) -> None:
        """Give each cross-attention the mask of what it looks at under the name by which it asks for it."""
        hooked = (m for m in base.modules() if type(m).__name__ == "BlipTextSelfAttention")
        for module in (m for m in hooked if _mask_across not in m._forward_pre_hooks.values()):
            module.register_forward_pre_hook(_mask_across, with_kwargs=True)


def _mask_across(
    module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A hook before an attention of BLIP."""
    across = given.get("encoder_hidden_states") is not None and given.get("encoder_attention_mask") is None
    return args, {**given, "encoder_attention_mask": given.get("attention_mask")} if across else given


class LlavaInputs(Inputs):
    """As many placeholders as the tower makes patches, also for a folder older than the processors that count them."""

    def complete(self, base: nn.Module) -> None:
        """How many patches an image has, from the model's configuration."""
        processor, vision = self.processor, self.config.vision_config
        if getattr(processor, "patch_size", 0) is None:
            processor.patch_size = vision.patch_size
            processor.vision_feature_select_strategy = self.config.vision_feature_select_strategy
            processor.num_additional_image_tokens = int(vision.model_type == "clip_vision_model")


class PaliGemmaInputs(Inputs):
    """Placeholders and the prompt, which see each other, a line break, and then the target, which sees what is before it."""

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        suffix = example.target if self.answers and example.target else None
        marked = f"{self.processor.image_token}{example.text}"
        made = self.processor(images=example.open_image(), text=marked, suffix=suffix, return_tensors="pt")
        kinds = made["token_type_ids"][0].long()
        return {**arrays(made), "token_type_ids": kinds}

    def encode(self, example: Example) -> Encoding:
        """An example as the model takes it; the roles of its tokens follow the processor's own division."""
        made = super().encode(example)
        inputs = {name: tensor for name, tensor in made.inputs.items() if name != "labels"}
        roles = self._token_roles(inputs["input_ids"], TEXT)
        roles[(inputs["token_type_ids"] == 1) & (roles == TEXT)] = ANSWER
        return replace(made, inputs=inputs, roles={**made.roles, "decoder": roles})

    def _text(self, example: Example) -> tuple[str, Spans]:
        return example.text, ()


class ViltInputs(Inputs):
    """Words, then a class token and patches, which the model shuffles anew in each forward pass: they are no rows."""

    @property
    def notes(self) -> tuple[str, ...]:
        """That the rows of the image are left out."""
        return (
            "a ViLT shuffles the patches of an image in each forward pass, so that they are no rows; its words are",
        )

    def encode(self, example: Example) -> Encoding:
        """An example as the model takes it."""
        made = super().encode(example)
        words, size = made.roles["encoder"], self.config.patch_size
        _, tall, wide = made.inputs["pixel_mask"].shape
        patches = words.new_full((1 + (tall // size) * (wide // size),), ABSENT)
        parts = {"encoder": (len(words), len(patches))}
        return replace(made, roles={"encoder": torch.cat([words, patches])}, parts=parts)


class LxmertInputs(Inputs):
    """Words, and regions: the features of each, and then where it lies."""

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        if example.regions is None:
            raise DataError(f"example {example.id!r} has no regions, and LXMERT reads those; name a feature file")
        found = torch.tensor(example.regions.open().features)[None]
        width, places = self.config.visual_feat_dim, self.config.visual_pos_dim
        if found.shape[-1] < width + places:
            raise DataError(
                f"the regions of example {example.id!r} have {found.shape[-1]} features, and the model reads {width} and {places} places"
            )
        seen = {"visual_feats": found[..., :width], "visual_pos": found[..., width : width + places]}
        words = arrays(self.tokenizer(text, return_tensors="pt"))
        return {**words, **seen, "visual_attention_mask": torch.ones(found.shape[:2], dtype=torch.long)}

    def _roles(self, stack: Stack, inputs: dict[str, Tensor], example: Example, answer: Spans) -> Tensor:
        if stack.columns == "text":
            return super()._roles(stack, inputs, example, answer)
        return torch.full((inputs["visual_feats"].shape[1],), IMAGE, dtype=torch.uint8)


class MllamaInputs(Inputs):
    """As many tiles as the model can take, those that an image does not need masked, each filled up to a multiple of eight columns."""

    def _roles(self, stack: Stack, inputs: dict[str, Tensor], example: Example, answer: Spans) -> Tensor:
        if stack.columns != "patches":
            return super()._roles(stack, inputs, example, answer)
        tile = patch_roles(stack, inputs["pixel_values"][0, 0, 0])
        filled = torch.cat([tile, tile.new_full((-len(tile) % _MULTIPLE,), ABSENT)])
        there = inputs["aspect_ratio_mask"][0, 0, :, None] == 1
        return torch.where(there, filled, ABSENT).flatten()
