"""Reading: examples to what a model takes, and what each column of every stack is.

A sample is encoded alone, without padding, and padded only when samples are put into a batch: so what it is does not
depend on what stands beside it. Padding is on the right unless the left is asked for, where positions are handed over.

What the parts of an :class:`~rankscope.data.probes.Example` become:

- *decoder-only* models read the text and then the target (the most frequent one), whose tokens have the role ``answer``;
- *encoders* read the text, or the target where there is no text (a caption);
- *encoder–decoders* read the text in the encoder, and the target in the decoder, shifted by the start token; without a
  target the decoder reads the text itself, as BART does, with the role ``text``;
- *images* go through the checkpoint's image processor; in the text they are the placeholders that its processor puts.

No chat template is applied unless asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rankscope.data.probes import Example
from rankscope.errors import DataError, UsageError
from rankscope.features import Grid
from rankscope.models.inputs.encode import ABSENT, Inputs, Sample
from rankscope.models.inputs.vlm import BlipInputs, FlorenceInputs, LlavaInputs, PaliGemmaInputs, QwenInputs
from rankscope.models.limits import check_length, takes_positions, virtual_rows
from rankscope.models.ported.inputs import OFAInputs, VinVLInputs
from rankscope.models.stacks import Stack, stacks, unwrapped

PADDED = {
    "input_ids": "pad",
    "decoder_input_ids": "pad",
    "qformer_input_ids": "pad",
    "attention_mask": 0,
    "decoder_attention_mask": 0,
    "qformer_attention_mask": 0,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "segment_ids": 0,
    "img_feats": 0,
}
"""Inputs along the tokens of a sample, and what they are padded with."""


INPUTS: dict[str, type[Inputs]] = {
    "ofa": OFAInputs,
    "vinvl": VinVLInputs,
    "florence2": FlorenceInputs,
    "llava": LlavaInputs,
    "paligemma": PaliGemmaInputs,
    **dict.fromkeys(("blip-2", "instructblip"), BlipInputs),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), QwenInputs),
}
"""Families with inputs of their own, by ``model_type``."""


@dataclass(frozen=True)
class Encoding:
    """One sample, without padding."""

    id: str
    """The example's id."""
    inputs: Mapping[str, Tensor]
    """What the model takes, without a batch dimension."""
    roles: Mapping[str, Tensor]
    """For each stack ``(t,)`` uint8, the role of each of its columns; without rows that a prompt adds."""
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """For a stack or an input whose columns are several sequences, each padded by itself: their lengths."""

    @property
    def length(self) -> int:
        """The columns of its longest stack."""
        return max(len(role) for role in self.roles.values())


@dataclass(frozen=True)
class Batch:
    """Samples put together."""

    ids: tuple[str, ...]
    """The examples' ids."""
    inputs: dict[str, Tensor]
    """What the model takes: ``model(**batch.inputs)``."""
    grids: dict[str, Grid]
    """For each stack what each column of its hidden states is, rows that a prompt adds included."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its inputs on a device; grids stay where they are."""
        return Batch(self.ids, {name: tensor.to(device) for name, tensor in self.inputs.items()}, self.grids)


class Reader:
    """Turns examples into what one model takes.

    Args:
        model: the tuned model, wrapped or not.
        inputs: how a sample is made into tensors.
        padding_side: the side on which short samples are filled up.

    Raises:
        UsageError: if padding on the left cannot be right for this model.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, *, padding_side: Literal["right", "left"] = "right") -> None:
        self.inputs = inputs
        self.stacks: dict[str, Stack] = stacks(model)
        self.padding_side = padding_side
        self.dtype: torch.dtype = getattr(unwrapped(model), "dtype", torch.float32)
        self.virtual = virtual_rows(model)
        """Rows that a prompt puts before the text."""
        self.positions = padding_side == "left" and takes_positions(model, self.stacks)
        self.prefix = virtual_rows(model, prefix=True)
        """Rows that a prefix holds, for each stack."""
        if padding_side == "left" and not any(stack.columns == "text" for stack in self.stacks.values()):
            raise UsageError(
                f"a {type(unwrapped(model)).__name__} reads no text, so that nothing is padded on the left"
            )
        if padding_side == "left" and self.virtual:
            raise UsageError(
                "a prompt with padding on the left would be followed by padding, and PEFT drops the positions; pad right"
            )

    def length(self, example: Example) -> int:
        """How many tokens an example has, without opening its image; for planning batches."""
        return self.inputs.length(example)

    def encode(self, example: Example) -> Encoding:
        """One example as the model takes it.

        Raises:
            DataError: if it lacks what the model reads, or does not fit its positions (prefix and prompt count).
        """
        sample = self.inputs.encode(example)
        missing = [name for name in self.stacks if name not in sample.roles]
        assert not missing, f"no columns for {missing}"
        for name, stack in self.stacks.items():
            added = (self.virtual if stack.columns == "text" else 0) + self.prefix.get(name, 0)
            check_length(example.id, stack, _tokens(stack, sample), added)
        return Encoding(example.id, sample.inputs, sample.roles, sample.parts)

    def collate(self, encodings: Sequence[Encoding]) -> Batch:
        """Samples in one batch, filled up to the longest of them.

        Raises:
            DataError: if images of different sizes stand together.
        """
        if not encodings:
            raise UsageError("an empty batch has no inputs")
        if any(e.inputs.keys() != encodings[0].inputs.keys() for e in encodings):
            raise DataError("some samples of a batch have an image and some have none; read them apart")
        inputs = {name: self._joined(name, encodings) for name in encodings[0].inputs}
        if self.positions:
            mask = inputs["attention_mask"]
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        grids = {name: self._grid(stack, encodings) for name, stack in self.stacks.items()}
        return Batch(tuple(e.id for e in encodings), inputs, grids)

    def read(self, examples: Sequence[Example]) -> Batch:
        """Examples encoded and put in one batch."""
        return self.collate([self.encode(example) for example in examples])

    def _joined(self, name: str, encodings: Sequence[Encoding]) -> Tensor:
        parts = [e.inputs[name] for e in encodings]
        if name in self.inputs.packed:
            return self._cast(torch.cat(parts))
        if name in PADDED:
            fill = self.inputs.pad if PADDED[name] == "pad" else 0
            return self._cast(in_parts(parts, [e.parts.get(name) for e in encodings], fill, side=self._side(name)))
        shapes = {tuple(p.shape) for p in parts}
        if len(shapes) > 1:
            raise DataError(
                f"{name} differ in shape {sorted(shapes)} within a batch; read them one by one (--tokens-per-batch 1)"
            )
        return self._cast(torch.stack(parts))

    def _cast(self, tensor: Tensor) -> Tensor:
        """Pixels and features in the dtype of the weights that take them."""
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _side(self, name: str) -> str:
        return (
            self.padding_side
            if name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
            else "right"
        )

    def _grid(self, stack: Stack, encodings: Sequence[Encoding]) -> Grid:
        side = self.padding_side if stack.columns == "text" else "right"
        lengths = [e.parts.get(stack.name) for e in encodings]
        role = in_parts([e.roles[stack.name] for e in encodings], lengths, ABSENT, side=side)
        if stack.columns == "text" and self.virtual:
            role = torch.cat([role.new_full((len(role), self.virtual), ABSENT), role], 1)
        real = role != ABSENT
        return Grid(role.masked_fill(~real, 0), real)


def _tokens(stack: Stack, sample: Sample) -> int:
    """The columns of a stack that take positions: its tokens."""
    names = {"text": "input_ids", "target": "decoder_input_ids"}
    tokens = sample.inputs.get(names.get(stack.columns, ""))
    return len(sample.roles[stack.name]) if tokens is None else len(tokens)


def in_parts(rows: Sequence[Tensor], lengths: Sequence[tuple[int, ...] | None], fill: float, *, side: str) -> Tensor:
    """``(b, t)`` from ``(t_i,)`` each; where a row is several sequences, each of them filled up by itself."""
    if lengths[0] is None:
        return padded(rows, fill, side=side)
    split = [row.split(list(given or ())) for row, given in zip(rows, lengths, strict=True)]
    return torch.cat([padded(part, fill, side=side) for part in zip(*split, strict=True)], 1)


def padded(parts: Sequence[Tensor], fill: float, *, side: str = "right") -> Tensor:
    """``(b, t, *)`` from ``(t_i, *)`` each, filled up on one side."""
    longest = max(len(p) for p in parts)
    out = parts[0].new_full((len(parts), longest, *parts[0].shape[1:]), fill)
    for row, part in zip(out, parts, strict=True):
        row[longest - len(part) if side == "left" else 0 :][: len(part)] = part
    return out


def reader(model: nn.Module, checkpoint: Any, **options: Any) -> Reader:
    """The reader of a model, with the tokenizer or processor that lies in its checkpoint.

    Args:
        model: the tuned model.
        checkpoint: where it was loaded from: a :class:`~rankscope.checkpoint.Checkpoint`, what that can be read from, or the
            folder of a tokenizer or processor alone.
        options: ``padding_side``; ``answers`` (whether a decoder-only model reads the target too, default yes); ``chat``
            (whether the chat template is applied, default no); ``trust_remote_code``.

    Raises:
        CheckpointError: if there is no tokenizer or processor in it.
    """
    side = options.pop("padding_side", "right")
    return Reader(model, inputs_of(model).of(model, checkpoint, **options), padding_side=side)


def inputs_of(model: nn.Module) -> type[Inputs]:
    """How the samples of a model are made: the kind of its family."""
    return INPUTS.get(getattr(getattr(unwrapped(model), "config", None), "model_type", ""), Inputs)
