"""One example as tensors: tokens and pixels by the checkpoint's own tokenizer and processor, and the role of each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from rankscope.data.probes import ASSISTANT, Example, Turn
from rankscope.errors import CheckpointError, DataError
from rankscope.features import ANSWER, IMAGE, QUERY, SPECIAL, TEXT
from rankscope.models.quiet import quiet

if TYPE_CHECKING:
    from rankscope.models.family import Family
    from rankscope.models.stacks import Stack

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken", "*.spm")
"""Files of which a tokenizer has at least one; without them transformers makes one that knows no word."""
ABSENT = 255
"""The role of a column that the model computes and that never counts."""
Spans = tuple[tuple[int, int], ...]
"""Where answers begin and end among a text's tokens, counted backwards from its last token that is not special: placeholders and
special tokens that a processor puts in stand before them or after all of them."""


@dataclass(frozen=True)
class Encoding:
    """One example as tensors, without padding and without a batch dimension."""

    id: str
    """The example's id."""
    inputs: Mapping[str, Tensor]
    """What the model takes."""
    roles: Mapping[str, Tensor]
    """For each stack ``(t,)`` uint8, the role of each of its columns; without the rows that a prompt adds."""
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """For a stack or an input whose columns are several sequences, each padded separately: their lengths."""

    @property
    def length(self) -> int:
        """The number of columns of its longest stack."""
        return max(len(role) for role in self.roles.values())


@dataclass(frozen=True)
class Inputs:
    """How the examples of one model become tensors."""

    processor: Any
    """The checkpoint's tokenizer, image processor or processor."""
    config: Any
    """The base model's configuration."""
    stacks: dict[str, Stack]
    """Its stacks."""
    family: Family
    """What is known of its type."""
    answers: bool = True
    """Whether a decoder-only model reads the target after the text."""
    chat: bool = False
    """Whether the text is put through the chat template."""
    generates: bool = False
    """Whether the model has a ``generate``."""

    @classmethod
    def open(cls, folder: Path, *, text: bool, image: bool, trust_remote_code: bool = False) -> Any:
        """The tokenizer, image processor or processor of a checkpoint, whichever its model needs.

        Raises:
            CheckpointError: if it is not in the folder, or cannot be read.
        """
        what, auto = "tokenizer", AutoTokenizer
        if image:
            what, auto = ("processor", AutoProcessor) if text else ("image processor", AutoImageProcessor)
        if text and not any(True for pattern in _VOCABULARIES for _ in folder.glob(pattern)):
            raise CheckpointError(
                f"{folder} has no tokenizer: none of {', '.join(_VOCABULARIES)}; save it there with tokenizer.save_pretrained, or "
                "name the folder that has it (--processor, processor=…), or the base that was tuned (--base-model, base_model=…)"
            )
        try:
            with quiet():
                return auto.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{folder} has no {what} that can be read ({reason}); save it there with processor.save_pretrained"
            ) from error

    def complete(self, base: nn.Module) -> None:
        """Take from the model what the files of an older checkpoint leave out; here nothing.

        Args:
            base: the base model.
        """

    @property
    def sees(self) -> bool:
        """Whether images are read, as pixels or as regions."""
        return self.family.reads_images or self.reads_regions or bool(self._with("patches"))

    @property
    def reads_regions(self) -> bool:
        """Whether features of image regions are read instead of pixels."""
        return self.family.reads_regions

    def lacks(self, example: Example) -> str:
        """What an example lacks of its image for this model: ``an image``, ``regions``, or nothing."""
        if self.reads_regions:
            return "" if example.regions is not None else "regions"
        needed = self._with("patches") or self._with("projected")
        return "an image" if needed and example.image is None else ""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None for a model that reads images only."""
        return getattr(self.processor, "tokenizer", self.processor if hasattr(self.processor, "encode") else None)

    @property
    def pad(self) -> int:
        """What tokens are padded with; it is always masked."""
        found = (getattr(self.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        return next((token for token in found if token is not None), 0)

    @property
    def image_token(self) -> int | None:
        """The placeholder in the text for a part of the image."""
        return getattr(self.config, "image_token_id", None) or getattr(self.config, "image_token_index", None)

    def _with(self, columns: str) -> list[Stack]:
        return [stack for stack in self.stacks.values() if stack.columns == columns]

    @property
    def answers_follow(self) -> bool:
        """Whether what is said of a text is read after it, or in a decoder of its own; encoders read one text alone."""
        return self._decodes or bool(self._with("target"))

    @property
    def _decodes(self) -> bool:
        """Whether the text is read by a decoder."""
        return any(stack.name == "decoder" for stack in self._with("text"))

    def length(self, example: Example) -> int:
        """The tokens of an example, its image not counted."""
        if self.tokenizer is None:
            return 1
        return len(self._tokens(example.text)) + len(self._tokens(example.target))

    def reads(self, example: Example) -> Example:
        """An example of what the model reads of another; two for which it is equal are one input to the model."""
        text, target, turns = example.text, example.target, example.turns
        if self.tokenizer is None:
            text, target, turns = "", "", ()
        elif not (self.answers_follow or self.reads_regions):
            text, target = text or target, ""
        return Example(
            example.id,
            text,
            example.image if self.sees and not self.reads_regions else None,
            (target,) if target else (),
            regions=example.regions if self.reads_regions else None,
            turns=turns,
        )

    def encode(self, example: Example) -> Encoding:
        """An example as the model takes it, and the role of each column.

        Raises:
            DataError: if it lacks what the model reads.
        """
        inputs, answer = dict[str, Tensor](), Spans()
        if self._with("text"):
            text, answer = self._text(example)
            inputs |= self._processed(example, text)
        elif self._with("patches"):
            inputs |= self._arrays(self.processor(images=example.open_image(), return_tensors="pt"))
        if self._with("target"):
            inputs |= self._target(example)
        roles = {name: self._roles(stack, inputs, example, answer) for name, stack in self.stacks.items()}
        return Encoding(example.id, inputs, roles)

    def _text(self, example: Example) -> tuple[str, Spans]:
        """What the text stack reads, and which of its tokens are answers: the target, and what the assistant said before."""
        prompt = self._prompt(example)
        if not self._decodes or not self.answers or not (example.target or example.turns):
            return prompt or ("" if self.answers_follow else example.target), ()
        gap = " " if example.target and prompt and not prompt[-1].isspace() else ""
        joined = f"{prompt}{gap}{example.target}"
        said = [*_said(example, prompt), *([(len(prompt), len(joined))] if example.target else [])]
        tokens, special = self._tokens(joined), set(self.tokenizer.all_special_ids)
        end = max((i for i, token in enumerate(tokens, 1) if token not in special), default=0)
        return joined, tuple(
            (end - self._token_at(joined, a, tokens), end - self._token_at(joined, b, tokens)) for a, b in said
        )

    def _token_at(self, text: str, place: int, tokens: Sequence[int]) -> int:
        """The number of tokens of a text before a place in it."""
        # A tokenizer may merge what is before the place with what follows: the part begins at the first token that differs.
        before = self._tokens(text[:place])
        differs = (i for i, (x, y) in enumerate(zip(before, tokens, strict=False)) if x != y)
        return next(differs, min(len(before), len(tokens)))

    def _prompt(self, example: Example) -> str:
        if not self.chat:
            return example.text
        turns, sees = example.turns or (Turn("user", example.text),), bool(self._with("patches"))
        messages: list[dict[str, Any]] = [
            {"role": turn.role, "content": [{"type": "text", "text": turn.text}] if sees else turn.text}
            for turn in turns
        ]
        asked = next((m for m in messages if m["role"] == "user"), None)
        if sees and asked is not None:
            asked["content"].insert(0, {"type": "image"})
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _tokens(self, text: str) -> list[int]:
        """The tokens of a text without special ones."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        """The tensors of the text and, where the model has them, of the image."""
        options: dict[str, Any] = {"add_special_tokens": False} if self.chat else {}
        if not self._with("patches") and not self._with("projected"):
            return self._arrays(self.tokenizer(text, return_tensors="pt", **options))
        text, token = text or self.family.caption_prompt, getattr(self.processor, "image_token", None)
        if token and self._with("projected") and token not in text and not self.family.places_images:
            text = f"{token}\n{text}"
        return self._arrays(self.processor(images=example.open_image(), text=text, return_tensors="pt", **options))

    def _arrays(self, produced: Any) -> dict[str, Tensor]:
        """The tensors without a batch dimension; segment numbers are left out if there is only one segment."""
        tensors = {name: value[0] for name, value in produced.items() if isinstance(value, Tensor)}
        tensors.pop("mm_token_type_ids", None)
        if "token_type_ids" in tensors and not tensors["token_type_ids"].any():
            del tensors["token_type_ids"]
        for name in ("input_ids", "attention_mask"):
            if name in tensors:
                tensors[name] = tensors[name].long()
        return tensors

    def _target(self, example: Example) -> dict[str, Tensor]:
        """The decoder's own input: the target, or the text if there is none, shifted by the start token."""
        labels = self.tokenizer(text_target=example.target or example.text)["input_ids"]
        if labels and labels[-1] == self.tokenizer.eos_token_id:
            labels = labels[:-1]
        start = self._start()
        ids = torch.tensor(labels if labels[:1] == [start] else [start, *labels], dtype=torch.int64)
        return {"decoder_input_ids": ids, "decoder_attention_mask": torch.ones_like(ids)}

    def _start(self) -> int:
        text = self.config.get_text_config() if hasattr(self.config, "get_text_config") else self.config
        found = [
            getattr(config, name, None)
            for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id")
            for config in (self.config, text)
        ]
        start = next((i for i in found if i is not None), None)
        if start is None:
            raise CheckpointError("the configuration names no decoder_start_token_id, so the decoder cannot start")
        return int(start)

    def _roles(self, stack: Stack, inputs: dict[str, Tensor], example: Example, answer: Spans) -> Tensor:
        if stack.columns == "text":
            return self._token_roles(inputs["input_ids"], TEXT, answer)
        if stack.columns == "target":
            return self._token_roles(inputs["decoder_input_ids"], ANSWER if example.target else TEXT)
        if stack.columns == "queries":
            queries = torch.full((self.config.num_query_tokens,), QUERY, dtype=torch.uint8)
            read = inputs.get("qformer_input_ids")
            return queries if read is None else torch.cat([queries, self._token_roles(read, TEXT)])
        if stack.columns == "patches":
            pixels = inputs["pixel_values"]
            # Packed pixels have a row for each patch.
            packed = "pixel_values" in self.family.packed
            return torch.full((len(pixels),), IMAGE, dtype=torch.uint8) if packed else patch_roles(stack, pixels)
        if stack.columns == "projected":
            placed = inputs["input_ids"].tolist().count(self.image_token)
            if placed > 1:  # the processor puts as many placeholders as there are rows
                return torch.full((placed,), IMAGE, dtype=torch.uint8)
            roles = patch_roles(self._with("patches")[0], inputs["pixel_values"])
            keep = getattr(self.config, "vision_feature_select_strategy", "default") == "full"
            return torch.full_like(roles if keep else roles[roles == IMAGE], IMAGE)
        raise DataError(
            f"what the columns of {stack.name} are is not known for this model; read it from tensors of your own"
        )

    def _token_roles(self, ids: Tensor, plain: int, answers: Spans = ()) -> Tensor:
        """``(t,)`` roles of tokens."""
        frame = self.tokenizer.convert_tokens_to_ids(list(self.family.image_frame))
        special = torch.isin(ids, torch.tensor([*self.tokenizer.all_special_ids, *frame], dtype=ids.dtype))
        roles = torch.full(ids.shape, plain, dtype=torch.uint8)
        if answers:
            end = int((~special).nonzero()[-1]) + 1
            for start, stop in answers:
                roles[end - start : end - stop] = ANSWER
        roles[special] = SPECIAL
        # A placeholder is a part of the image, although tokenizers count it as special.
        if self.image_token is not None:
            roles[ids == self.image_token] = IMAGE
        return roles


def _said(example: Example, prompt: str) -> list[tuple[int, int]]:
    """Where in a prompt the assistant's earlier turns are; one that the chat template leaves out is nowhere."""
    found, start = [], 0
    for turn in example.turns:
        said = turn.text.strip()
        place = prompt.find(said, start) if said else -1
        if place < 0:
            continue
        start = place + len(said)
        if turn.role == ASSISTANT:
            found.append((place, start))
    return found


def patch_roles(stack: Stack, pixels: Tensor) -> Tensor:
    """``(t,)`` roles of a vision tower's columns: class and register tokens are special, patches are image.

    Args:
        stack: the tower.
        pixels: ``(c, h, w)``.
    """
    config = getattr(stack.owner, "config", None)
    config = getattr(config, "vision_config", config)
    size = getattr(config, "patch_size", None)
    if pixels.ndim != 3 or size is None:
        raise DataError(f"images of shape {tuple(pixels.shape)} have columns in {stack.name} that are not known here")
    tall, wide = (size, size) if isinstance(size, int) else size
    patches = (pixels.shape[-2] // tall) * (pixels.shape[-1] // wide)
    parameters = () if stack.owner is None else stack.owner.named_parameters()
    names = {name.rpartition(".")[2] for name, _ in parameters}
    special = int(bool(names & {"class_embedding", "cls_token"})) + int("distillation_token" in names)
    special += int(getattr(config, "num_register_tokens", 0) or 0)
    return torch.tensor([SPECIAL] * special + [IMAGE] * patches, dtype=torch.uint8)
