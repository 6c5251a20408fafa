"""The inputs of vision–language models whose images stand in the text as placeholders, as many as the model makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rankscope.data.probes import Example
from rankscope.errors import CheckpointError
from rankscope.features import ANSWER, IMAGE, SPECIAL, TEXT
from rankscope.models.inputs.encode import Inputs, Sample, open_processor
from rankscope.models.stacks import Stack, unwrapped


class BlipInputs(Inputs):
    """The queries' rows stand in the text as placeholders; the Q-Former of InstructBLIP reads the question, never the answer.

    Folders older than the placeholders tell neither how many nor which token they are, and the language model would not see the
    image; the model tells the one, the tokenizer the other.
    """

    @classmethod
    def of(cls, model: nn.Module, checkpoint: Any, **options: Any) -> Inputs:
        """As for any model.

        Raises:
            CheckpointError: if the model has no embedding for the placeholder.
        """
        made = super().of(model, checkpoint, **options)
        base: Any = unwrapped(model)
        processor, config, words = made.processor, made.config, base.get_input_embeddings().num_embeddings
        if getattr(processor, "num_query_tokens", 0) is None:
            processor.num_query_tokens = config.num_query_tokens
        if config.image_token_id is None:
            config.image_token_id = made.tokenizer.convert_tokens_to_ids(str(processor.image_token))
        if config.image_token_id >= words:
            raise CheckpointError(
                f"the placeholder of the image is token {config.image_token_id}, and the model has {words}; resize its embeddings "
                "(model.resize_token_embeddings), or take the tokenizer that belongs to it"
            )
        return made

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        made = super()._processed(example, text)
        if "qformer_input_ids" in made:
            asked = self._arrays(self.processor.qformer_tokenizer(example.text, return_tensors="pt"))
            made |= {f"qformer_{name}": asked[name] for name in ("input_ids", "attention_mask")}
        return made


class LlavaInputs(Inputs):
    """As many placeholders as the tower makes patches, also where a folder is older than a processor that counts them."""

    @classmethod
    def of(cls, model: nn.Module, checkpoint: Any, **options: Any) -> Inputs:
        """As for any model; what the processor does not tell is the model's."""
        made = super().of(model, checkpoint, **options)
        processor, config = made.processor, made.config
        if getattr(processor, "patch_size", 0) is None:
            processor.patch_size = config.vision_config.patch_size
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            processor.num_additional_image_tokens = int(config.vision_config.model_type == "clip_vision_model")
        return made


class FlorenceInputs(Inputs):
    """Placeholders and the prompt in the encoder; the decoder reads what is to be said.

    A prompt may be one of the processor's tasks (``<OD>``); an image without a text is asked what it shows (``<CAPTION>``).
    """

    reads_images = True

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        return self._arrays(self.processor(images=example.open_image(), text=text or "<CAPTION>", return_tensors="pt"))


class PaliGemmaInputs(Inputs):
    """Placeholders and the prompt, which see each other, a line break, and then the target, which sees what is before it."""

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        said = example.target if self.answers and example.target else None
        marked = f"{self.processor.image_token}{example.text}"
        made = self.processor(images=example.open_image(), text=marked, suffix=said, return_tensors="pt")
        kinds = made["token_type_ids"][0].long()
        return {**self._arrays(made), "token_type_ids": kinds}

    def encode(self, example: Example) -> Sample:
        """An example as the model takes it; the roles of its tokens follow the processor's own division."""
        made = super().encode(example)
        inputs = {name: tensor for name, tensor in made.inputs.items() if name != "labels"}
        ids, kinds = inputs["input_ids"], inputs["token_type_ids"]
        roles = self._token_roles(ids, TEXT, 0)
        roles[(kinds == 1) & (roles == TEXT)] = ANSWER
        return Sample(inputs, {**made.roles, "decoder": roles})

    def _text(self, example: Example) -> tuple[str, int]:
        return example.text, 0


FRAME = ("<|vision_start|>", "<|vision_end|>")
"""What stands around the placeholders of an image."""


@dataclass(frozen=True)
class QwenProcessor:
    """Qwen's processor without its part for videos, which needs packages that images do not."""

    image_processor: Any
    tokenizer: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """The tokenizer's."""
        return self.tokenizer.apply_chat_template(conversation, **options)

    def save_pretrained(self, folder: Path) -> None:
        """Write both parts."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class QwenInputs(Inputs):
    """Patches of all images in one list, as many as each image's size gives; in the text one placeholder for four of them."""

    packed: ClassVar[frozenset[str]] = frozenset({"pixel_values", "image_grid_thw"})

    @classmethod
    def open(cls, folder: Path, **given: Any) -> Any:
        """Tokenizer and image processor, from a checkpoint's folder."""
        options = {"trust_remote_code": bool(given.get("trust_remote_code"))}
        tokenizer = open_processor(folder, text=True, image=False, **options)
        return QwenProcessor(open_processor(folder, text=False, image=True, **options), tokenizer)

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        pictures = self.processor.image_processor(images=[example.open_image()], return_tensors="pt")
        grid = pictures["image_grid_thw"]
        count = int(grid.prod()) // self.processor.image_processor.merge_size**2
        token = self.tokenizer.convert_ids_to_tokens(self.image_token)
        placed = text if token in text else f"{FRAME[0]}{token}{FRAME[1]}{text}"
        tokens = self._arrays(self.tokenizer(placed.replace(token, token * count), return_tensors="pt"))
        kinds = tokens["input_ids"].eq(self.image_token or 0).long()
        return {**tokens, "mm_token_type_ids": kinds, "pixel_values": pictures["pixel_values"], "image_grid_thw": grid}

    def _roles(self, stack: Stack, inputs: dict[str, Tensor], example: Example, answer: int) -> Tensor:
        if stack.columns == "patches":
            return torch.full((len(inputs["pixel_values"]),), IMAGE, dtype=torch.uint8)
        return super()._roles(stack, inputs, example, answer)

    def _token_roles(self, ids: Tensor, plain: int, answer: int) -> Tensor:
        roles = super()._token_roles(ids, plain, answer)
        marks = self.tokenizer.convert_tokens_to_ids(list(FRAME))
        return roles.masked_fill(torch.isin(ids, torch.tensor(marks)), SPECIAL)
