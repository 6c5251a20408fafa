"""Examples as training samples: what the model reads, and the labels that it learns to say.

========================= ===================================================================================
``captioning``            image or sound (and prompt) → each reference caption, one sample for each
``vqa``                   image or sound, and question → the most frequent answer
``seq2seq``               text → target
``lm``                    the text itself; where there is a target, the target after the text
``classification``        text or image → label, or the answer among those that the model chooses from (VinVL's VQA)
========================= ===================================================================================

What comes before the target carries no loss. The target ends with the tokenizer's end token, which the model learns to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rankscope.data.probes import Example, ProbeSet
from rankscope.errors import DataError, UnknownName, UsageError
from rankscope.features import ANSWER, AUDIO, IMAGE
from rankscope.models.inputs.encoding import SEEN, Encoding
from rankscope.models.inputs.reader import Reader, padded
from rankscope.models.limits import check_length
from rankscope.tuning.answers import Answers
from rankscope.tuning.masked import fills_masks
from rankscope.tuning.stages import heads

TASKS = ("captioning", "vqa", "lm", "seq2seq", "classification")
IGNORED = -100
"""The label that carries no loss, as in transformers."""
_KEPT_BYTES = 1 << 29
"""Bytes of encoded samples that are kept, so that an image is opened once; further samples are encoded each time."""
_LONGEST = 32
"""Number of samples, those with the longest texts, that are encoded before training to see whether they fit."""


class TrainingPair(NamedTuple):
    """An example with the one target that is trained on."""

    example: Example
    target: str


def task_of(model: nn.Module, data: ProbeSet, reader: Reader) -> str:
    """The task that suits a model and its data, for when none was named."""
    if heads(model):
        return "classification"
    first, columns = data[0], {stack.columns for stack in reader.stacks.values()}
    if fills_masks(reader):
        return "captioning"
    shown = "patches" in columns or (reader.inputs.sees and first.image is not None)
    if shown or reader.inputs.hears:
        # One prompt for all images or sounds, or no targets, means captions; texts that differ are questions.
        few = data[:64]
        return "captioning" if len({e.text for e in few}) == 1 or not any(e.targets for e in few) else "vqa"
    return "seq2seq" if "target" in columns or first.targets else "lm"


def settle_task(task: str | None, model: nn.Module, data: ProbeSet, reader: Reader) -> str:
    """The task that was asked for, or the one that suits, checked; questions to a classifier are classification.

    Raises:
        UnknownName, UsageError, DataError: as :func:`check_task`.
    """
    settled = task or task_of(model, data, reader)
    settled = "classification" if settled == "vqa" and heads(model) else settled
    check_task(settled, model, data, reader)
    return settled


def check_task(task: str, model: nn.Module, data: ProbeSet, reader: Reader) -> None:
    """Check that the model can do the task and that the data hold what it needs.

    Raises:
        UnknownName: if there is no such task.
        UsageError: if the model cannot do it.
        DataError: if examples lack an image, targets, a text or a label; the message counts them.
    """
    if task not in TASKS:
        raise UnknownName(f"there is no task {task!r}; there are {', '.join(TASKS)}")
    name = type(model).__name__
    if task == "classification" and not heads(model):
        raise UsageError(f"{name} has no classification head; make the base with AutoModelForSequenceClassification")
    if task != "classification" and (heads(model) or not _produces_text(model, reader)):
        raise UsageError(
            f"{name} generates no text, so it cannot be tuned for {task}; with a head it can be for classification"
        )
    if fills_masks(reader) and task != "captioning":
        raise UsageError(f"{name} generates captions only; {task} needs VinVLForSequenceClassification")
    if task in ("captioning", "vqa") and not (reader.inputs.sees or reader.inputs.hears):
        raise UsageError(f"{task} needs a model that reads images, or sounds beside a text; {name} reads text only")
    for what, ids in _lacking(task, data, reader).items():
        if ids:
            hint = what == "targets" and len(ids) == len(data) and all(example.text for example in data)
            raise DataError(
                f"{task} needs {what} in every example; {len(ids)} of {len(data)} in {data.name} have none (first {ids[0]!r})"
                + ("; if the text itself is the target, say so with --column targets=text" if hint else "")
            )
    most = getattr(getattr(model, "config", None), "num_labels", 0)
    wrong = [e for e in data if task == "classification" and e.label is not None and not 0 <= e.label < most]
    if wrong:
        raise DataError(
            f"{name} has labels from 0 to {most - 1}; {len(wrong)} of {len(data)} examples in {data.name} have others "
            f"(first {wrong[0].id!r}: {wrong[0].label})"
        )


def _lacking(task: str, data: ProbeSet, reader: Reader) -> dict[str, list[str]]:
    """The ids of the examples that lack something, by what they lack."""
    inputs = reader.inputs
    pictured = task in ("captioning", "vqa") and not (inputs.reads_regions or inputs.hears)
    beside = "regions" if inputs.reads_regions else "a sound" if inputs.hears else "an image"
    missing: dict[str, Callable[[Example], bool]] = {
        beside: lambda e: bool(inputs.lacks(e) or (pictured and e.image is None)),
        "targets": lambda e: task in ("captioning", "vqa", "seq2seq") and not any(e.targets),
        "a label": lambda e: task == "classification" and e.label is None and not any(e.targets),
        # An image or a sound with a target needs no text: it is a question without a prompt.
        "a text": lambda e: (
            task in ("lm", "vqa", "seq2seq") and not e.text and not ((inputs.sees or inputs.hears) and any(e.targets))
        ),
    }
    return {what: [e.id for e in data if lacks(e)] for what, lacks in missing.items()}


def _produces_text(model: nn.Module, reader: Reader) -> bool:
    """Whether a model fills in masks, or has a decoder of tokens and can generate."""
    if fills_masks(reader):
        return True
    decoder = reader.stacks.get("decoder")
    can = getattr(model, "can_generate", None)
    generates = can is None or can() or hasattr(model, "generate")
    return decoder is not None and decoder.columns in ("text", "target") and bool(generates)


def training_pairs(data: ProbeSet, task: str) -> list[TrainingPair]:
    """What is trained on: a pair for each reference in captioning, for each example otherwise."""
    if task == "captioning":
        return [TrainingPair(e, target) for e in data for target in dict.fromkeys(filter(None, e.targets))]
    return [TrainingPair(e, "" if task == "classification" else e.target) for e in data]


@dataclass
class PairEncoder:
    """Makes a pair into tensors with labels."""

    reader: Reader
    task: str
    max_length: int = 0
    """The most tokens of a sample; 0 for what the model holds."""
    answers: Answers | None = None
    """What a classifier chooses from if the examples have answers and no labels."""

    def __call__(self, pair: TrainingPair) -> Encoding:
        """The pair as the model takes it, ``labels`` among its inputs.

        Raises:
            DataError: if it lacks something, or does not fit the model's positions with the prefix.
        """
        example = replace(pair.example, targets=(pair.target,) if pair.target else ())
        encoding = self.reader.encode(example)
        if self.task == "classification":
            self._check_length(example.id, encoding.inputs.get("input_ids", ()))
            inputs = {k: v for k, v in encoding.inputs.items() if not k.startswith("decoder_")}
            return replace(encoding, inputs={**inputs, "labels": self._label(pair.example)})
        if fills_masks(self.reader):  # the words to hide, which are the labels, are drawn when the batch is made
            return encoding
        encoder_decoder = "decoder_input_ids" in encoding.inputs
        inputs = self._decoded(encoding.inputs) if encoder_decoder else self._continued(encoding)
        self._check_length(example.id, max(inputs["input_ids"], inputs["labels"], key=len))
        return replace(encoding, inputs=inputs)

    def _check_length(self, sample: str, tokens: Sequence[int] | Tensor) -> None:
        if self.max_length and len(tokens) > self.max_length:
            raise DataError(f"sample {sample!r} has {len(tokens)} tokens; max_length is {self.max_length}")

    def _label(self, example: Example) -> Tensor:
        return self.answers.label(example) if self.answers is not None else torch.tensor(example.label)

    @property
    def _end(self) -> int:
        end = self.reader.inputs.end
        if end is None:
            raise DataError("the tokenizer has no end token (eos_token), so a target could not end; give it one")
        return end

    def _decoded(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs of an encoder–decoder, which shifts the labels itself to make the decoder's input, or reads them as they are."""
        start, target = inputs["decoder_input_ids"].split([1, len(inputs["decoder_input_ids"]) - 1])
        if self.reader.inputs.takes_labels_as_read:
            said = torch.cat([target, target.new_tensor([self._end])])
            ids, labels = torch.cat([start, said]), torch.cat([torch.full_like(start, IGNORED), said])
            return {
                **inputs,
                "decoder_input_ids": ids,
                "decoder_attention_mask": torch.ones_like(ids),
                "labels": labels,
            }
        kept = {name: tensor for name, tensor in inputs.items() if not name.startswith("decoder_")}
        return {**kept, "labels": torch.cat([target, target.new_tensor([self._end])])}

    def _continued(self, encoding: Encoding) -> dict[str, Tensor]:
        """Inputs of a decoder, which reads its target as it says it, with an end token."""
        name, stack = next((n, s) for n, s in self.reader.stacks.items() if s.columns == "text")
        ids = encoding.inputs["input_ids"]
        roles = encoding.roles[name][-len(ids) :]
        # The target alone carries loss; a text without one is learnt whole, but for the places of an image or a sound.
        counts = roles == ANSWER if (roles == ANSWER).any() else (roles != IMAGE) & (roles != AUDIO)
        labels = torch.where(counts, ids, IGNORED)
        inputs = {**encoding.inputs, "labels": labels}
        if ids[-1] == self._end and len(ids) > 1:
            labels[-1] = self._end
            return inputs
        check_length(encoding.id, stack, len(ids) + 1, self.reader.prefix.get(name, 0))
        end = self._end
        added = {"input_ids": end, "labels": end, "attention_mask": 1, "token_type_ids": 0, "mm_token_type_ids": 0}
        for key in inputs.keys() & added.keys():
            inputs[key] = torch.cat([inputs[key], inputs[key].new_tensor([added[key]])])
        for key in inputs.keys() & SEEN:  # the end sees the image as the last word does
            inputs[key] = torch.cat([inputs[key], inputs[key][-1:]])
        return inputs


class TrainingData(Dataset[Encoding]):
    """Training pairs, encoded when they are first asked for."""

    def __init__(self, pairs: Sequence[TrainingPair], encode: PairEncoder) -> None:
        self.pairs, self.encode = pairs, encode
        self._kept: dict[int, Encoding] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def check(self) -> None:
        """Encode the pairs with the longest texts, so that one that does not fit is refused before training.

        Raises:
            DataError: if one does not fit.
        """
        sizes = [len(f"{pair.example.text or ''}{pair.target}".encode()) for pair in self.pairs]
        for index in sorted(range(len(sizes)), key=lambda i: -sizes[i])[:_LONGEST]:
            self[index]

    def __getitem__(self, index: int) -> Encoding:
        if index in self._kept:
            return self._kept[index]
        encoding = self.encode(self.pairs[index])
        size = sum(tensor.nbytes for tensor in encoding.inputs.values())
        if self._bytes + size <= _KEPT_BYTES:
            self._kept[index], self._bytes = encoding, self._bytes + size
        return encoding


def predicts_next(reader: Reader, task: str) -> bool:
    """Whether a model says at each token the next one, so that a label is one place further on than its logits."""
    shifts = (
        any(stack.columns == "target" for stack in reader.stacks.values()) and not reader.inputs.takes_labels_as_read
    )
    return task != "classification" and not shifts and not fills_masks(reader)


def label_counter(reader: Reader, task: str) -> Callable[[Tensor], int] | None:
    """Counts those of a batch's labels that its loss is a mean over; None if labels are drawn when the step is made."""
    if fills_masks(reader):
        return None
    if task == "classification":
        return len
    first = int(predicts_next(reader, task))
    return lambda labels: int((labels[..., first:] != IGNORED).sum())


def collate(reader: Reader, encodings: Sequence[Encoding]) -> dict[str, Tensor]:
    """A batch that a model takes, padded on the right; labels are padded with the one that carries no loss."""
    if "labels" not in encodings[0].inputs:
        return reader.collate(encodings).inputs
    labels = [e.inputs["labels"] for e in encodings]
    unlabelled = [replace(e, inputs={k: v for k, v in e.inputs.items() if k != "labels"}) for e in encodings]
    inputs = reader.collate(unlabelled).inputs
    one_each = labels[0].ndim == 0 or labels[0].is_floating_point()  # a class, or the scores of all answers
    inputs["labels"] = torch.stack(labels) if one_each else padded(labels, IGNORED)
    return inputs
