"""The cross-entropy of a model on data that it was not tuned on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankscope.checkpoint import Checkpoint
from rankscope.data.open import open_data
from rankscope.devices import where
from rankscope.errors import public
from rankscope.models.inputs.reader import Reader, reader as open_reader
from rankscope.models.load import load_model
from rankscope.tuning.answers import answers_for
from rankscope.tuning.batches import (
    IGNORED,
    PairEncoder,
    TrainingPair,
    collate,
    predicts_next,
    settle_task,
    training_pairs,
)
from rankscope.tuning.masked import fills_masks, hide_words, seed_of


@public
def held_out_loss(
    checkpoint: str | Path | Checkpoint,
    data: Any,
    *,
    task: str | None = None,
    batch_size: int = 16,
    model: nn.Module | None = None,
    device: str | torch.device | None = None,
) -> float:
    """Mean cross-entropy, in nats, over the tokens (or labels) that the model is to say.

    A captioner that fills in masks is asked for hidden words, the same ones at each call. Answers with scores give the binary
    cross-entropies summed over the answers, a mean over questions.

    Args:
        checkpoint: the model, tuned or not.
        data: the examples, as :func:`rankscope.open_data` takes them.
        task: one of :data:`~rankscope.tuning.batches.TASKS`; by default the one that suits the model and the data.
        batch_size: samples in a batch, on which the mean does not depend; 16 by default.
        model: the model itself, if it is loaded already; by default it is loaded.
        device: the torch device on which it is loaded; by default the GPU if there is one.

    Raises:
        WrongCall: for an option that does not exist.
        UnknownName: if there is no such task.
        UsageError: if the model cannot do the task, or there is no such device.
        DataError: if the data lack what the task needs.
    """
    opened = Checkpoint.read(checkpoint)
    network = load_model(opened, device=where(device)) if model is None else model.eval()
    asked = HeldOut.read(opened, data, task=task, batch_size=batch_size, model=network)
    return asked.loss(network)


@dataclass(frozen=True)
class HeldOut:
    """Data that several models are asked for their loss on: read once, where each model reads them as the others do."""

    batches: Iterable[dict[str, Tensor]]
    """The batches, with labels."""
    next_token: bool
    """Whether logits say the token after each."""

    @classmethod
    def read(cls, checkpoint: Checkpoint, data: Any, *, task: str | None, batch_size: int, model: nn.Module) -> HeldOut:
        """The data as a model takes them, a batch at a time; arguments and errors as :func:`held_out_loss`."""
        probes, reader = open_data(data), open_reader(model, checkpoint)
        task = settle_task(task, model, probes, reader)
        answers = answers_for(checkpoint, model.config, probes) if task == "classification" else None
        encode, pairs = PairEncoder(reader, task, answers=answers), training_pairs(probes, task)
        batches = labelled_batches(encode, pairs, batch_size=batch_size, device=next(model.parameters()).device)
        return cls(batches, predicts_next(reader, task))

    def kept(self) -> HeldOut:
        """The same with its batches in memory, so that more than one model can be asked."""
        return replace(self, batches=tuple(self.batches))

    def loss(self, model: nn.Module) -> float:
        """The mean cross-entropy, as :func:`held_out_loss`, of a model in evaluation mode."""
        total, count = 0.0, 0
        for inputs in self.batches:
            loss, labels = summed_loss(model, inputs, next_token=self.next_token)
            total, count = total + loss, count + labels
        return total / count


def labelled_batches(
    encode: PairEncoder, pairs: Sequence[TrainingPair], *, batch_size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Batches with labels; the words that a captioner is asked for are the same at each call."""
    for start in range(0, len(pairs), batch_size):
        inputs = collate(encode.reader, [encode(pair) for pair in pairs[start : start + batch_size]])
        if fills_masks(encode.reader):
            inputs = _with_hidden_words(encode.reader, inputs, start)
        yield {name: tensor.to(device) for name, tensor in inputs.items()}


def _with_hidden_words(reader: Reader, inputs: dict[str, Tensor], start: int) -> dict[str, Tensor]:
    """A batch with words hidden in each caption by the caption's place in the data, whatever the batch size."""
    rows = [{name: tensor[i : i + 1] for name, tensor in inputs.items()} for i in range(len(inputs["input_ids"]))]
    hidden = [hide_words(reader, row, seed_of("held out", start + i)) for i, row in enumerate(rows)]
    return {name: torch.cat([row[name] for row in hidden]) for name in hidden[0]}


@torch.no_grad()
def summed_loss(model: nn.Module, inputs: Mapping[str, Tensor], *, next_token: bool) -> tuple[float, int]:
    """The cross-entropy of a batch, summed, in nats, and the number of tokens or labels in the sum.

    Args:
        model: the model, in evaluation mode.
        inputs: the batch, with ``labels``.
        next_token: whether logits say the token after each (:func:`~rankscope.tuning.batches.predicts_next`).
    """
    out, labels = model(**inputs), inputs["labels"]
    if (logits := getattr(out, "logits", None)) is None:  # BLIP's question answerer returns its mean loss alone
        count = int((labels[:, int(next_token) :] != IGNORED).sum())
        return float(out.loss.double()) * count, count
    logits = logits.double()
    if labels.is_floating_point():  # scores of answers
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum")
        return float(loss), len(labels)
    if next_token:
        logits, labels = logits[:, :-1], labels[:, 1:]
    loss = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return float(loss), int((labels != IGNORED).sum())
