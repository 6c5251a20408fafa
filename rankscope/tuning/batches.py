"""Examples as training samples: what the model reads, and the labels that it is to say.

========================= ===================================================================================
``captioning``            image (and prompt) → each reference caption, one sample for each
``vqa``                   image and question → the most frequent answer
``seq2seq``               text → target
``lm``                    the text itself; where there is a target, the target after the text
``classification``        text or image → label, or the answer among those that the model chooses from (VinVL's VQA)
========================= ===================================================================================

What stands before the target carries no loss. The target ends with the tokenizer's end token, which the model has to say.
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
from rankscope.features import ANSWER, IMAGE
from rankscope.models.inputs.encode import Encoding
from rankscope.models.inputs.reader import Reader, padded
from rankscope.models.limits import check_length
from rankscope.tuning.answers import Answers
from rankscope.tuning.masked import fills_masks
from rankscope.tuning.stages import heads

TASKS = ("captioning", "vqa", "lm", "seq2seq", "classification")
IGNORED = -100
"""The label that carries no loss, as transformers has it."""
_KEPT_BYTES = 1 << 29
"""Encoded samples are kept up to this many bytes, so that an image is opened once; beyond that they are made anew."""

_LONGEST = 32
"""So many of the samples with the longest texts are encoded before training."""


class Sample(NamedTuple):
    """An example with the one target that is trained on."""

    example: Example
    target: str


def task_of(model: nn.Module, data: ProbeSet, reader: Reader) -> str:
    """The task that fits a model and its data where none was named."""
    if heads(model):
        return "classification"
    first, columns = data[0], {stack.columns for stack in reader.stacks.values()}
    if fills_masks(reader):
        return "captioning"
    if "patches" in columns or (reader.inputs.sees and first.image is not None):
        few = data[: min(len(data), 64)]
        return "captioning" if len({e.text for e in few}) == 1 or not any(e.targets for e in few) else "vqa"
    if "target" in columns:
        return "seq2seq"
    return "lm" if not first.targets else "seq2seq"


def settle_task(task: str | None, model: nn.Module, data: ProbeSet, reader: Reader) -> str:
    """The task that was asked for, or the one that fits, checked; questions to a classifier are classification.

    Raises:
        UnknownName, UsageError, DataError: as :func:`check_task`.
    """
    chosen = task or task_of(model, data, reader)
    chosen = "classification" if chosen == "vqa" and heads(model) else chosen
    check_task(chosen, model, data, reader)
    return chosen


def check_task(task: str, model: nn.Module, data: ProbeSet, reader: Reader) -> None:
    """See that the model does the task and the data holds what it needs.

    Raises:
        UnknownName: if there is no such task.
        UsageError: if the model cannot do it.
        DataError: if examples lack an image, targets, a text or a label; the message counts them.
    """
    if task not in TASKS:
        raise UnknownName(f"there is no task {task!r}; there are {', '.join(TASKS)}")
    name, inputs = type(model).__name__, reader.inputs
    if task == "classification" and not heads(model):
        raise UsageError(f"{name} has no classification head; make the base with AutoModelForSequenceClassification")
    if task != "classification" and (heads(model) or not _says(model, reader)):
        raise UsageError(
            f"{name} says no text, so that {task} is not for it; it can be tuned for classification with a head"
        )
    if fills_masks(reader) and task != "captioning":
        raise UsageError(f"{name} says captions and nothing else; {task} needs VinVLForSequenceClassification")
    pictures, shown = inputs.sees, task in ("captioning", "vqa")
    if task in ("captioning", "vqa") and not pictures:
        raise UsageError(f"{task} needs a model that sees; {name} reads text only")
    lacking = {
        "regions" if inputs.reads_regions else "an image": [
            e.id for e in data if inputs.lacks(e) or (shown and not inputs.reads_regions and e.image is None)
        ],
        "targets": [e.id for e in data if task in ("captioning", "vqa", "seq2seq") and not any(e.targets)],
        "a label": [e.id for e in data if task == "classification" and e.label is None and not any(e.targets)],
        "a text": [
            e.id for e in data if task in ("lm", "vqa", "seq2seq") and not e.text and not (pictures and any(e.targets))
        ],
    }
    for what, ids in lacking.items():
        if ids:
            hint = what == "targets" and len(ids) == len(data) and all(example.text for example in data)
            raise DataError(
                f"{task} needs {what} in every example; {len(ids)} of {len(data)} in {data.name} have none (first {ids[0]!r})"
                + ("; if the text is what is to be said, tell so with --column targets=text" if hint else "")
            )
    most = getattr(getattr(model, "config", None), "num_labels", 0)
    wrong = [e for e in data if task == "classification" and e.label is not None and not 0 <= e.label < most]
    if wrong:
        raise DataError(
            f"{name} has labels from 0 to {most - 1}; {len(wrong)} of {len(data)} examples in {data.name} have others "
            f"(first {wrong[0].id!r}: {wrong[0].label})"
        )


def _says(model: nn.Module, reader: Reader) -> bool:
    if fills_masks(reader):
        return True
    names = [n for n, stack in reader.stacks.items() if stack.columns in ("text", "target")]
    can = getattr(model, "can_generate", None)
    return "decoder" in names and bool(can is None or can() or hasattr(model, "generate"))


def samples(data: ProbeSet, task: str) -> list[Sample]:
    """What is trained on: a sample for each reference in captioning, for each example otherwise."""
    if task == "captioning":
        return [Sample(e, target) for e in data for target in dict.fromkeys(filter(None, e.targets))]
    return [Sample(e, "" if task == "classification" else e.target) for e in data]


@dataclass
class Encoder:
    """Makes one sample into tensors with labels."""

    reader: Reader
    task: str
    max_length: int = 0
    """The most tokens of a sample; 0 for what the model holds."""
    answers: Answers | None = None
    """What a classifier chooses from, where the examples have answers and no labels."""

    def __call__(self, sample: Sample) -> Encoding:
        """The sample as the model takes it, ``labels`` among its inputs.

        Raises:
            DataError: if it lacks something, or does not fit the model's positions with the prefix.
        """
        example = replace(sample.example, targets=(sample.target,) if sample.target else ())
        made = self.reader.encode(example)
        if self.task == "classification":
            self._check_length(example.id, made.inputs.get("input_ids", ()))
            given = {k: v for k, v in made.inputs.items() if not k.startswith("decoder_")}
            return replace(made, inputs={**given, "labels": self._label(sample.example)})
        if fills_masks(self.reader):  # what is hidden, and asked for, is drawn when the batch is made
            return made
        twofold = "decoder_input_ids" in made.inputs
        inputs = self._decoded(made.inputs) if twofold else self._continued(made)
        self._check_length(example.id, max(inputs["input_ids"], inputs["labels"], key=len))
        return replace(made, inputs=inputs)

    def _check_length(self, sample: str, tokens: Sequence[int] | Tensor) -> None:
        if self.max_length and len(tokens) > self.max_length:
            raise DataError(f"sample {sample!r} has {len(tokens)} tokens; max_length is {self.max_length}")

    def _label(self, example: Example) -> Tensor:
        return self.answers.label(example) if self.answers is not None else torch.tensor(example.label)

    @property
    def _end(self) -> int:
        end = self.reader.inputs.tokenizer.eos_token_id
        if end is None:
            raise DataError("the tokenizer has no end token (eos_token), so that a target could not end; give it one")
        return int(end)

    def _decoded(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """An encoder–decoder makes the decoder's input from the labels."""
        said = inputs["decoder_input_ids"][1:]
        kept = {name: tensor for name, tensor in inputs.items() if not name.startswith("decoder_")}
        return {**kept, "labels": torch.cat([said, said.new_tensor([self._end])])}

    def _continued(self, made: Encoding) -> dict[str, Tensor]:
        """A decoder reads what it is to say."""
        name, stack = next((n, s) for n, s in self.reader.stacks.items() if s.columns == "text")
        ids, roles = made.inputs["input_ids"], made.roles[name][-len(made.inputs["input_ids"]) :]
        loud = roles == ANSWER if (roles == ANSWER).any() else roles != IMAGE
        labels = torch.where(loud, ids, IGNORED)
        inputs = {**made.inputs, "labels": labels}
        if ids[-1] == self._end and len(ids) > 1:
            labels[-1] = self._end
            return inputs
        check_length(made.id, stack, len(ids) + 1, self.reader.prefix.get(name, 0))
        for key, last in {
            "input_ids": self._end,
            "labels": self._end,
            "attention_mask": 1,
            "token_type_ids": 0,
            "mm_token_type_ids": 0,
        }.items():
            if key in inputs:
                inputs[key] = torch.cat([inputs[key], inputs[key].new_tensor([last])])
        return inputs


class TrainingData(Dataset[Encoding]):
    """Samples, encoded when they are first asked for."""

    def __init__(self, chosen: Sequence[Sample], encode: Encoder) -> None:
        self.samples, self.encode = chosen, encode
        self._kept: dict[int, Encoding] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.samples)

    def check(self) -> None:
        """Encode the samples with the longest texts, so that one that does not fit is told before training.

        Raises:
            DataError: if one does not fit.
        """
        sizes = [len(f"{s.example.text or ''}{s.target}".encode()) for s in self.samples]
        for index in sorted(range(len(sizes)), key=lambda i: -sizes[i])[:_LONGEST]:
            self[index]

    def __getitem__(self, index: int) -> Encoding:
        if index in self._kept:
            return self._kept[index]
        made = self.encode(self.samples[index])
        size = sum(tensor.nbytes for tensor in made.inputs.values())
        if self._bytes + size <= _KEPT_BYTES:
            self._kept[index], self._bytes = made, self._bytes + size
        return made


def counter(reader: Reader, task: str) -> Callable[[Tensor], int] | None:
    """How many of a batch's labels its loss is a mean over; None where they are drawn when the step is made."""
    if fills_masks(reader):
        return None
    if task == "classification":
        return len
    shifted = not any(stack.columns == "target" for stack in reader.stacks.values())
    return lambda labels: int((labels[..., int(shifted) :] != IGNORED).sum())


def collate(reader: Reader, encodings: Sequence[Encoding]) -> dict[str, Tensor]:
    """A batch that a model takes, padded on the right; labels are padded with what carries no loss."""
    if "labels" not in encodings[0].inputs:
        return reader.collate(encodings).inputs
    labels = [e.inputs["labels"] for e in encodings]
    bare = [replace(e, inputs={k: v for k, v in e.inputs.items() if k != "labels"}) for e in encodings]
    inputs = reader.collate(bare).inputs
    whole = labels[0].ndim == 0 or labels[0].is_floating_point()
    inputs["labels"] = torch.stack(labels) if whole else padded(labels, IGNORED)
    return inputs
