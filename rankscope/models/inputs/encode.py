"""One example as tensors: tokens and pixels by the checkpoint's own tokenizer and processor, and the role of each column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rankscope.data.probes import Example, Turn
from rankscope.errors import CheckpointError, DataError
from rankscope.features import ANSWER, IMAGE, QUERY, SPECIAL, TEXT
from rankscope.models.inputs.encoding import Encoding, Spans, arrays, said
from rankscope.models.inputs.patches import patch_roles, patch_size
from rankscope.models.inputs.placing import placings
from rankscope.models.inputs.sound import heard, sound_roles

if TYPE_CHECKING:
    from rankscope.models.family import Family
    from rankscope.models.stacks import Stack

_PLACEHOLDER = re.compile(r"(image|video|audio|vision|boi|eoi|boa|eoa)\w*_token_(id|index)")
"""What configurations call the tokens of what is no text."""

_FRAME = (("vision_start_token_id", "vision_end_token_id"), ("image_start_token_id", "image_end_token_id"))
"""What configurations call the tokens that stand around an image's placeholder in the text."""


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
    max_length: int | None = None
    """Tokens to which longer texts are cut, special ones included; None where none is cut."""

    def complete(self, base: nn.Module) -> None:
        """Take from the model what the files of an older checkpoint leave out, or mend what its code does; here nothing.

        Args:
            base: the base model.
        """

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the features should know of how examples are read."""
        return ()

    @property
    def sees(self) -> bool:
        """Whether images are read, as pixels or as regions."""
        return self.family.reads_images or self.reads_regions or bool(self._with("patches")) or self._sees_only

    @property
    def _sees_only(self) -> bool:
        """Whether images are all that is read; the columns of their stacks may have no names."""
        return self.tokenizer is None and not self._with("audio")

    @property
    def reads_regions(self) -> bool:
        """Whether features of image regions are read instead of pixels."""
        return self.family.reads_regions

    @property
    def hears(self) -> bool:
        """Whether sounds are read beside a text."""
        return bool(self._with("audio") and self._with("text"))

    def lacks(self, example: Example) -> str:
        """What an example lacks beside its text for this model: ``an image``, ``regions``, ``a sound``, or nothing."""
        if self.reads_regions:
            return "" if example.regions is not None else "regions"
        if self.hears:
            return "" if example.audio is not None else "a sound"
        needed = self._with("patches") or self._with("projected") or self._sees_only
        return "an image" if needed and example.image is None else ""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None for a model that reads images only."""
        return getattr(self.processor, "tokenizer", self.processor if hasattr(self.processor, "encode") else None)

    @property
    def _extractor(self) -> Any:
        return getattr(self.processor, "feature_extractor", self.processor)

    @property
    def pad(self) -> int:
        """What tokens are padded with; it is always masked."""
        found = (getattr(self.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        return next((token for token in found if token is not None), 0)

    @property
    def end(self) -> int | None:
        """The token that ends a text; None if there is none. BERT's tokenizers call it the separator."""
        found = (getattr(self.tokenizer, name, None) for name in ("eos_token_id", "sep_token_id"))
        return next((token for token in found if token is not None), None)

    @property
    def image_token(self) -> int | None:
        """The placeholder in the text for a part of the image."""
        return getattr(self.config, "image_token_id", None) or getattr(self.config, "image_token_index", None)

    @property
    def _frame(self) -> tuple[int, ...]:
        """The two tokens that stand around an image's placeholder in a text; none if there are none, or the processor adds them."""
        pairs: list[list[Any]] = [[getattr(self.config, name, None) for name in names] for names in _FRAME]
        return tuple(next((pair for pair in pairs if None not in pair), ()))

    @property
    def placeholders(self) -> tuple[int, ...]:
        """Tokens that stand for parts of images, videos or sounds, or around them, and are no text."""
        named = {name: token for name, token in self.config.to_dict().items() if _PLACEHOLDER.fullmatch(name)}
        words = {self.pad, getattr(self.tokenizer, "eos_token_id", None)}
        return tuple(sorted({token for token in named.values() if isinstance(token, int) and token >= 0} - words))

    def _with(self, columns: str) -> list[Stack]:
        return [stack for stack in self.stacks.values() if stack.columns == columns]

    @property
    def takes_labels_as_read(self) -> bool:
        """Whether its labels are what its decoder reads, begun by the start token and ended, and not shifted by it (BLIP)."""
        return self.family.frames_prompts and bool(self._with("target"))

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
            audio=example.audio if self._with("audio") else None,
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
            if cut := self._cut(example.id, text, inputs):
                answer = tuple((max(a - cut, 0), max(b - cut, 0)) for a, b in answer)
        elif self._with("audio"):
            inputs |= heard(self._extractor, example)
        elif not self._with("target"):
            inputs |= arrays(self.processor(images=example.open_image(), return_tensors="pt"))
        if self._with("target"):
            inputs |= self._target(example)
        if answer and self.special.issuperset(inputs["input_ids"].tolist()):
            raise DataError(
                f"sample {example.id!r} has nothing but special tokens: the tokenizer knows none of its words ({text[:60]!r}); take "
                "the tokenizer that belongs to the model (--processor, processor=…), or leave the sample out"
            )
        roles = {
            name: self._roles(stack, inputs, example, answer)
            for name, stack in self.stacks.items()
            if self._is_known(stack, inputs)
        }
        parts = self._join_image(roles) if self.family.image_rows else {}
        return Encoding(example.id, inputs, roles, parts)

    def _join_image(self, roles: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Put the rows of the tower to those of the text, in place, for a model that does; the lengths of the two parts."""
        (seen,) = (roles[stack.name] for stack in self._with("patches"))
        parts = {}
        for stack in self._with("text"):
            rows = [seen, roles[stack.name]] if self.family.image_rows == "before" else [roles[stack.name], seen]
            roles[stack.name], parts[stack.name] = torch.cat(rows), tuple(map(len, rows))
        return parts

    def _is_known(self, stack: Stack, inputs: Mapping[str, Tensor]) -> bool:
        """Whether what the columns of a stack are is known before the forward pass."""
        return stack.columns != "patches" or "input_ids" in inputs or patch_size(stack) is not None

    def _text(self, example: Example) -> tuple[str, Spans]:
        """What the text stack reads, and which of its tokens are answers: the target, and what the assistant said before."""
        prompt = self._prompt(example)
        if not self._decodes or not self.answers or not (example.target or example.turns):
            return prompt or ("" if self.answers_follow else example.target), ()
        gap = " " if example.target and prompt and not prompt[-1].isspace() else ""
        joined = f"{prompt}{gap}{example.target}"
        places = [*said(example, prompt), *([(len(prompt), len(joined))] if example.target else [])]
        tokens = self._tokens(joined)
        end = max((i for i, token in enumerate(tokens, 1) if token not in self.special), default=0)
        return joined, tuple(
            (end - self._token_at(joined, a, tokens), end - self._token_at(joined, b, tokens)) for a, b in places
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
        beside = "image" if self._with("patches") else "audio" if self.hears else ""
        messages: list[dict[str, Any]] = [
            {"role": turn.role, "content": [{"type": "text", "text": turn.text}] if beside else turn.text}
            for turn in example.turns or (Turn("user", example.text),)
        ]
        asked = next((m for m in messages if m["role"] == "user"), None)
        if beside and asked is not None:
            asked["content"].insert(0, {"type": beside})
        # The tokenizer fills in the template, because some processors ask for their part for videos here.
        own = getattr(self.processor, "chat_template", None)
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True,
            chat_template=own if isinstance(own, str) else None,
        )  # fmt: skip

    def _tokens(self, text: str) -> list[int]:
        """The tokens of a text without special ones."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @property
    def _cutting(self) -> dict[str, Any]:
        return {} if self.max_length is None else {"truncation": True, "max_length": self.max_length}

    @property
    def _framing(self) -> dict[str, Any]:
        return {"add_special_tokens": False} if self.chat else {}

    def cuts(self, lengths: Sequence[int]) -> tuple[str, ...]:
        """A note on the texts that are cut, of those with so many tokens, special ones not counted; none if none is."""
        if self.max_length is None:
            return ()
        added = 0 if self.chat else self.tokenizer.num_special_tokens_to_add()
        longer = sum(length + added > self.max_length for length in lengths)
        return (f"{longer} of {len(lengths)} texts are cut to {self.max_length} tokens (max_length)",) if longer else ()

    def _cut(self, sample: str, text: str, inputs: Mapping[str, Tensor]) -> int:
        """How many tokens of a text were cut off.

        Raises:
            DataError: if the text stands with an image, whose placeholders cannot be cut.
        """
        if self.max_length is None or "input_ids" not in inputs:
            return 0
        if len(inputs["input_ids"]) > self.max_length:
            raise DataError(
                f"sample {sample!r} has {len(inputs['input_ids'])} tokens with its image; max_length = {self.max_length} cuts texts alone"
            )
        whole = (
            self.tokenizer(text, **self._framing)["input_ids"] if len(inputs["input_ids"]) == self.max_length else ()
        )
        return max(0, len(whole) - self.max_length)

    def _processed(self, example: Example, text: str) -> dict[str, Tensor]:
        """The tensors of the text and, where the model has them, of the image."""
        options = self._framing
        if not (self._with("patches") or self._with("projected") or self.family.reads_images):
            return arrays(self.tokenizer(text, return_tensors="pt", **options, **self._cutting))
        shown, first, frame = example.open_image(), None, self.tokenizer.convert_ids_to_tokens(list(self._frame))
        asked, after, places = text or self.family.caption_prompt, self.family.after_image, self.family.places_images
        for placed in placings(self.processor, asked, frame=frame, after=after, places=places):
            try:
                return arrays(self.processor(images=shown, text=placed, return_tensors="pt", **options))
            except ValueError as error:
                first = first or error
        assert first is not None
        raise first

    def _target(self, example: Example) -> dict[str, Tensor]:
        """The decoder's own input: the target, or the text if there is none, shifted as the model shifts its labels."""
        labels = self.tokenizer(text_target=example.target or example.text, **self._cutting)["input_ids"]
        if self.family.starts_with_last and labels:
            # The last token is the language, and takes the place of a start token.
            ids = torch.tensor([labels[-1], *labels[:-1]], dtype=torch.int64)
            return {"decoder_input_ids": ids, "decoder_attention_mask": torch.ones_like(ids)}
        if self.family.frames_prompts:  # its start token stands for the one with which the tokenizer begins a text
            labels = self._tokens(example.target or example.text)[: self.max_length]
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
            return self._token_roles(inputs["input_ids"], TEXT, answer, seen=inputs)
        if stack.columns == "target":
            return self._token_roles(inputs["decoder_input_ids"], ANSWER if example.target else TEXT)
        if stack.columns == "queries":
            queries = torch.full((self.config.num_query_tokens,), QUERY, dtype=torch.uint8)
            read = inputs.get("qformer_input_ids")
            return queries if read is None else torch.cat([queries, self._token_roles(read, TEXT)])
        if stack.columns == "audio":
            return sound_roles(stack, inputs, example.open_audio(), self._extractor)
        if stack.columns == "patches":
            return patch_roles(stack, inputs["pixel_values"])
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

    @cached_property
    def special(self) -> frozenset[int]:
        """The special tokens: those that frame a text, not the one that a word unknown becomes.

        That one is a token of the text, unless the tokenizer has given it another task too (as in GPT-2).
        """
        tokenizer = self.tokenizer
        named = [getattr(self.processor, f"{end}_token", None) for end in ("boi", "eoi", "audio_bos", "audio_eos")]
        around = {*self._frame, *(getattr(self.processor, "image_token_ids", None) or ())}
        around |= {tokenizer.convert_tokens_to_ids(str(token)) for token in named if token is not None}
        around -= {None, self.image_token}
        tasks = [getattr(tokenizer, f"{task}_token_id", None) for task in ("bos", "eos", "sep", "pad", "cls", "mask")]
        unknown = {getattr(tokenizer, "unk_token_id", None)} - set(tasks)
        return frozenset({*tokenizer.all_special_ids, *around} - unknown)

    def _token_roles(
        self, ids: Tensor, plain: int, answers: Spans = (), *, seen: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """``(t,)`` roles of tokens.

        Args:
            ids: the tokens.
            plain: the role of most.
            answers: which belong to answers.
            seen: all inputs of the sample, of which some may say which tokens are an image.
        """
        special = torch.isin(ids, torch.tensor(sorted(self.special), dtype=ids.dtype))
        roles = torch.full(ids.shape, plain, dtype=torch.uint8)
        if answers:
            end = int((~special).nonzero()[-1]) + 1
            for start, stop in answers:
                roles[end - start : end - stop] = ANSWER
        roles[special] = SPECIAL
        # A placeholder is a part of the image, although tokenizers count it as special; but where tokens see the image in
        # attentions of their own, it is a token like any other that only marks the place.
        if self.image_token is not None and "cross_attention_mask" not in (seen or {}):
            roles[ids == self.image_token] = IMAGE
        if (places := (seen or {}).get("image_embeds_position_mask")) is not None:
            roles[places == 1] = IMAGE
        return roles
