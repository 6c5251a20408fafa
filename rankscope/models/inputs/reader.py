"""Reading: examples to batches that a model takes, and what each column of every stack is.

A sample is encoded alone, without padding, and padded only when samples are put into a batch, so that it does not depend
on its neighbours. Padding is on the right unless the left is asked for; then positions are passed to the model.

What becomes of the parts of an :class:`~rankscope.data.probes.Example`:

- *decoder-only* models read the text and then the target (the most frequent one), whose tokens have the role ``answer``;
- *encoders* read the text, or the target if there is no text (a caption);
- *encoder–decoders* read the text in the encoder, and the target in the decoder, shifted by the start token; without a
  target the decoder reads the text itself, as BART does, with the role ``text``;
- *images* go through the checkpoint's image processor; in the text they are placeholders.

No chat template is applied unless asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rankscope.checkpoint import Checkpoint, processor_folder
from rankscope.data.probes import Example
from rankscope.errors import CheckpointError, DataError, RankscopeError, UsageError
from rankscope.features import IMAGE, TEXT, Grid
from rankscope.models.families import family_of
from rankscope.models.inputs.encode import Inputs
from rankscope.models.inputs.encoding import ABSENT, ALONG_TOKENS, MASKS, SEEN, SEGMENTS, TOKENS, Encoding
from rankscope.models.inputs.processors import open_processor
from rankscope.models.limits import check_length, prefix_rows, prompt_rows, takes_positions
from rankscope.models.register import register
from rankscope.models.stacks import Stack, reads_only_images, stacks, unwrapped
from rankscope.reading.forward import ModelBatch, forward_pass
from rankscope.reading.hooks import reading

_OF_THE_TEXT = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}) | SEEN
"""Of the inputs along tokens, those that are padded on the side that was asked for; the others are padded on the right."""
_SIZES = frozenset({"image_sizes", "pixel_attention_mask", "pixel_mask", "visual_attention_mask"})
"""Inputs that tell a model which of an image's pixels, tiles or regions are padding."""


class Reader:
    """Turns examples into what one model takes.

    Args:
        model: the tuned model, wrapped or not.
        inputs: how a sample is made into tensors.
        padding_side: the side on which short samples are padded.

    Raises:
        UsageError: if padding on the left cannot be right for this model.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, *, padding_side: Literal["right", "left"] = "right") -> None:
        self.inputs = inputs
        self.stacks: dict[str, Stack] = readable(model)
        self.padding_side = padding_side
        self.dtype: torch.dtype = getattr(unwrapped(model), "dtype", torch.float32)
        self.virtual = prompt_rows(model)
        """Rows that a prompt puts before the text."""
        self.prefix = prefix_rows(model)
        """Rows that a prefix puts into the cache of each stack."""
        takes = _arguments(model)
        self.takes = frozenset(takes)
        """The arguments of the model's forward pass, by name."""
        self.takes_more = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        """Whether it takes others too."""
        window = getattr(getattr(unwrapped(model), "config", None), inputs.family.pads_to or " ", 1)
        self.multiple: int = window if isinstance(window, int) else max(window)
        """What the length of the texts in a batch is a multiple of, so that a model that would pad them itself need not."""
        self.unnamed: frozenset[str] = frozenset()
        """Stacks of images whose columns are not the patches that were expected, so that all of them are read as image."""
        self.role = IMAGE if reads_only_images(unwrapped(model)) else TEXT
        """The role of columns that are not known one by one."""
        self.words = _words(unwrapped(model))
        """Tokens that the model embeds; None where it does not say."""
        self.positions = padding_side == "left" and takes_positions(model, self.stacks)
        if padding_side == "left" and not any(stack.columns == "text" for stack in self.stacks.values()):
            raise UsageError(
                f"a {type(unwrapped(model)).__name__} reads no text, so there is nothing to pad on the left"
            )
        if padding_side == "left" and self.virtual:
            raise UsageError(
                "on the left, padding would follow the prompt, and PEFT drops the positions that would correct it; pad right"
            )

    def length(self, example: Example) -> int:
        """How many tokens an example has, without opening its image; for planning batches."""
        return self.inputs.length(example)

    def encode(self, example: Example) -> Encoding:
        """One example as the model takes it.

        Raises:
            DataError: if it lacks what the model reads, or does not fit its positions (prefix and prompt count).
        """
        made = self._masked(self._encoded(example))
        self._check_words(made)
        missing = [name for name, stack in self.stacks.items() if name not in made.roles and stack.columns != "patches"]
        assert not missing, f"no columns for {missing}"
        for name, stack in ((name, self.stacks[name]) for name in made.roles):
            added = (self.virtual if stack.columns == "text" else 0) + self.prefix.get(name, 0)
            check_length(example.id, stack, _tokens(stack, made), added)
        return made

    def _encoded(self, example: Example) -> Encoding:
        """What the checkpoint's processor makes of an example.

        Raises:
            DataError: if the processor's own code fails, or does not give what the model reads.
        """
        try:
            return self.inputs.encode(example)
        except RankscopeError:
            raise
        except Exception as error:  # a processor's code raises what it likes
            raise DataError(
                f"{type(self.inputs.processor).__name__} does not make sample {example.id!r} into what the model reads "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]}): the sample is not what it takes, as a text with more "
                "placeholders than images, or its files are another model's (--processor, processor=… names the folder of the right ones)"
            ) from error

    def look(self, model: nn.Module, example: Example) -> None:
        """See on one image how many columns each stack of a model of images has, and name only those that were expected.

        Towers have detection tokens, several class tokens or a smaller grid; which of their columns are patches is then not known.

        Raises:
            CheckpointError: if the model cannot read the image.
        """
        if not self.stacks or not reads_only_images(unwrapped(model)):
            return
        batch = self.read([example])
        taps = dict(next(iter(stack.taps.items())) for stack in self.stacks.values())
        device = next(model.parameters()).device
        with torch.inference_mode(), reading(taps, lambda _, hidden: hidden.new_empty(hidden.shape[:-1])) as seen:
            forward_pass(model, batch.to(device).inputs)
        columns = {site.stack: empty.numel() for site, empty in seen.items()}
        self.unnamed = frozenset(n for n, grid in batch.grids.items() if columns.get(n) != grid.real.numel())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the features should know of how the texts were read."""
        names = getattr(self.inputs.tokenizer, "model_input_names", ("attention_mask",))
        unmasked = "attention_mask" not in names and any(s.columns == "text" for s in self.stacks.values())
        made = "the tokenizer gives no attention mask; padding is masked by the known lengths of the texts"
        trained = "this family was trained on texts padded to a fixed length; here each text is read without padding"
        unnamed = [f"which columns of {name} are patches is not known; all are read as image" for name in self.unnamed]
        return (
            *self.inputs.notes,
            *unnamed,
            *((made,) if unmasked else ()),
            *((trained,) if unmasked and self.inputs.family.trained_padded else ()),
        )

    def _check_words(self, made: Encoding) -> None:
        """Check that the model has an embedding for every token.

        Raises:
            CheckpointError: naming the first token that has none; an image's placeholder needs none.
        """
        tokens = made.inputs.get("input_ids")
        if tokens is None or self.words is None:
            return
        beyond = tokens[(tokens >= self.words) & (tokens != (self.inputs.image_token or 0))].tolist()
        if beyond:
            named = self.inputs.tokenizer.convert_ids_to_tokens(beyond[0])
            raise CheckpointError(
                f"sample {made.id!r} has token {beyond[0]} ({named!r}), and the model embeds {self.words}: the tokenizer is another "
                "model's, or words were added to it; take the one that belongs to it (--processor, processor=…), or resize the "
                "model's embeddings (model.resize_token_embeddings)"
            )

    def _masked(self, made: Encoding) -> Encoding:
        """A mask beside all tokens, also where the tokenizer gives none, because padding would be read as text without.

        Masks and segment numbers that the model does not take are left out.
        """
        inputs = dict(made.inputs)
        for tokens in sorted(TOKENS & inputs.keys()):
            if (mask := tokens.replace("input_ids", "attention_mask")) in self.takes:
                inputs.setdefault(mask, torch.ones_like(inputs[tokens]))
        unknown = (MASKS | SEGMENTS) - self.takes if not self.takes_more else {"mm_token_type_ids"} - self.takes
        return replace(made, inputs={name: x for name, x in inputs.items() if name not in unknown})

    def collate(self, encodings: Sequence[Encoding]) -> ModelBatch:
        """Samples in one batch, padded to the longest of them.

        Raises:
            DataError: if some have images and others none, or images differ in size.
        """
        if not encodings:
            raise UsageError("a batch needs at least one sample")
        if any(e.inputs.keys() != encodings[0].inputs.keys() for e in encodings):
            raise DataError("some samples of the batch have an image and some have none; read them separately")
        inputs = {name: self._joined(name, encodings) for name in encodings[0].inputs}
        if self.positions:
            # The first real token has position 0; what padding before it has does not matter.
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        named = [name for name in encodings[0].roles if name not in self.unnamed]
        return ModelBatch(inputs, {name: self._grid(self.stacks[name], encodings) for name in named}, role=self.role)

    def read(self, examples: Sequence[Example]) -> ModelBatch:
        """Examples encoded and put in one batch."""
        return self.collate([self.encode(example) for example in examples])

    def _joined(self, name: str, encodings: Sequence[Encoding]) -> Tensor:
        parts = [e.inputs[name] for e in encodings]
        multiple = self.multiple if name in _OF_THE_TEXT else 1
        if name in ALONG_TOKENS:
            fill = self.inputs.pad if name in TOKENS else 0
            lengths = [e.parts.get(name) for e in encodings]
            return self._cast(in_parts(parts, lengths, fill, side=self._side(name), multiple=multiple))
        shapes = {tuple(p.shape[1:]) for p in parts}
        if len(shapes) > 1 and encodings[0].inputs.keys() & _SIZES:
            parts = grown(parts)
        elif len(shapes) > 1:
            raise DataError(
                f"{name} differ in shape {sorted(shapes)} within a batch; read them one by one (--tokens-per-batch 1)"
            )
        return self._cast(torch.cat(parts))

    def _cast(self, tensor: Tensor) -> Tensor:
        """Pixels and features in the dtype of the weights that take them."""
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _side(self, name: str) -> str:
        return self.padding_side if name in _OF_THE_TEXT else "right"

    def _grid(self, stack: Stack, encodings: Sequence[Encoding]) -> Grid:
        side = self.padding_side if stack.columns == "text" else "right"
        lengths = [e.parts.get(stack.name) for e in encodings]
        multiple = self.multiple if stack.columns == "text" else 1
        role = in_parts([e.roles[stack.name] for e in encodings], lengths, ABSENT, side=side, multiple=multiple)
        if stack.columns == "text" and self.virtual:
            role = torch.cat([role.new_full((len(role), self.virtual), ABSENT), role], 1)
        real = role != ABSENT
        return Grid(role.masked_fill(~real, 0), real)


def _arguments(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """What the forward pass of the base model takes, by name."""
    return inspect.signature(unwrapped(model).forward).parameters


def _words(model: nn.Module) -> int | None:
    """How many tokens a model embeds; None where it does not say."""
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return table.num_embeddings if isinstance(table, nn.Embedding) else None


def _tokens(stack: Stack, encoding: Encoding) -> int:
    """The number of columns of a stack that take positions: its tokens."""
    names = {"text": "input_ids", "target": "decoder_input_ids"}
    tokens = encoding.inputs.get(names.get(stack.columns, ""))
    return len(encoding.roles[stack.name]) if tokens is None else len(tokens)


def in_parts(
    rows: Sequence[Tensor], lengths: Sequence[tuple[int, ...] | None], fill: float, *, side: str, multiple: int = 1
) -> Tensor:
    """``(b, t)`` from ``(t_i,)`` each; in a row of several sequences each of them is padded separately."""
    if lengths[0] is None:
        return padded(rows, fill, side=side, multiple=multiple)
    split = [row.split(list(own or ())) for row, own in zip(rows, lengths, strict=True)]
    return torch.cat([padded(part, fill, side=side) for part in zip(*split, strict=True)], 1)


def padded(parts: Sequence[Tensor], fill: float, *, side: str = "right", multiple: int = 1) -> Tensor:
    """``(b, t, *)`` from ``(t_i, *)`` each, padded on one side to the longest, rounded up to a multiple."""
    longest = -(-max(len(p) for p in parts) // multiple) * multiple
    out = parts[0].new_full((len(parts), longest, *parts[0].shape[1:]), fill)
    for row, part in zip(out, parts, strict=True):
        row[longest - len(part) if side == "left" else 0 :][: len(part)] = part
    return out


def grown(parts: Sequence[Tensor]) -> list[Tensor]:
    """Tensors ``(k_i, *)`` filled up with 0 at the end of each further dimension to the largest of them."""
    most = [max(sizes) for sizes in zip(*(p.shape[1:] for p in parts), strict=True)]
    made = [p.new_zeros(len(p), *most) for p in parts]
    for whole, part in zip(made, parts, strict=True):
        whole[tuple(slice(size) for size in part.shape)] = part
    return made


def reader(
    model: nn.Module,
    checkpoint: Any,
    *,
    padding_side: Literal["right", "left"] = "right",
    answers: bool = True,
    chat: bool = False,
    max_length: int | None = None,
    trust_remote_code: bool = False,
) -> Reader:
    """The reader of a model, with the tokenizer or processor in its checkpoint.

    Args:
        model: the tuned model.
        checkpoint: where it was loaded from: a :class:`~rankscope.checkpoint.Checkpoint`, what that can be read from, or the
            folder of a tokenizer or processor alone.
        padding_side: the side on which short samples are padded.
        answers: whether a decoder-only model reads the target too.
        chat: whether the chat template is applied.
        max_length: tokens to which longer texts are cut; none is cut unless given.
        trust_remote_code: run the Python files that the checkpoint brings along.

    Raises:
        CheckpointError: if there is no tokenizer or processor in it, or no chat template and one is asked for.
        UsageError: if padding on the left cannot be right for this model.
    """
    register()
    folder, family = processor_folder(checkpoint), family_of(unwrapped(model))
    columns = {stack.columns for stack in readable(model).values()}
    pictures = reads_only_images(unwrapped(model))
    if not columns and not pictures:
        raise DataError(
            f"what the columns of {', '.join(list(stacks(model))[:3])} are is not known for a {type(unwrapped(model)).__name__}, so "
            "its rows cannot be named; read it from tensors of your own"
        )
    if "text" in columns and not family.port and not {"input_ids", "inputs"} & (takes := _arguments(model)).keys():
        raise DataError(
            f"a {type(unwrapped(model)).__name__} reads {', '.join(list(takes)[:3])}, which is neither text nor an image; read it from "
            "tensors of your own"
        )
    processor = open_processor(
        folder,
        text="text" in columns or ("audio" in columns and "target" in columns),
        image="patches" in columns or pictures or family.reads_images,
        audio="audio" in columns,
        trust_remote_code=trust_remote_code,
        others=checkpoint.processors[1:] if isinstance(checkpoint, Checkpoint) else (),
    )
    templates = (getattr(p, "chat_template", None) for p in (processor, getattr(processor, "tokenizer", None)))
    if chat and not any(templates):
        raise CheckpointError(f"{folder} has no chat template; read the texts as they are, or save one there")
    made = inputs_of(model, processor, answers=answers, chat=chat, max_length=max_length)
    return Reader(model, made, padding_side=padding_side)


def readable(model: nn.Module) -> dict[str, Stack]:
    """The stacks of a model of whose columns it is known what they are."""
    return {name: stack for name, stack in stacks(model).items() if stack.columns != "any"}


def inputs_of(
    model: nn.Module, processor: Any, *, answers: bool = True, chat: bool = False, max_length: int | None = None
) -> Inputs:
    """How a model's examples become tensors, with a processor that is open already.

    Args:
        model: the model, tuned or not.
        processor: its tokenizer, image processor or processor.
        answers: whether a decoder-only model reads the target too.
        chat: whether the chat template is applied.
        max_length: tokens to which longer texts are cut; none is cut unless given.

    Raises:
        CheckpointError: if the processor belongs to another model.
    """
    base: Any = unwrapped(model)
    family = family_of(base)
    generates = hasattr(base, "generate")
    made = family.inputs(processor, base.config, readable(model), family, answers, chat, generates, max_length)
    made.complete(base)
    return made
