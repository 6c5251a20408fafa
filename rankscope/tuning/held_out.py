"""The cross-entropy of a model on data that it was not tuned on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankscope.checkpoint import Checkpoint
from rankscope.data.open import open_data
from rankscope.models.inputs.reader import Reader, reader
from rankscope.models.load import load_model
from rankscope.tuning.answers import answers_for
from rankscope.tuning.batches import IGNORED, Encoder, Sample, collate, samples, settle_task
from rankscope.tuning.masked import fills_masks, hide_words, seed_of


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

    A captioner that fills in masks is asked for hidden words, the same ones at each call. Answers with scores give the sum
    of the binary cross-entropies over the answers, a mean over questions.

    Args:
        checkpoint: the model, tuned or not.
        data: what :func:`~rankscope.data.open.open_data` takes.
        task: one of :data:`~rankscope.tuning.batches.TASKS`; told by the model and the data unless given.
        batch_size: samples at once; the mean does not depend on it.
        model: the loaded model, where it is at hand already.
        device: where it runs; where the model is, or an accelerator where there is one, unless given.

    Raises:
        DataError: if the data lacks what the task needs.
    """
    found, probes = Checkpoint.read(checkpoint), open_data(data)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = load_model(found, device=where) if model is None else model.eval()
    reading = reader(network, found)
    chosen = settle_task(task, network, probes, reading)
    answers = answers_for(found, network.config, probes) if chosen == "classification" else None
    encode, pairs = Encoder(reading, chosen, answers=answers), samples(probes, chosen)
    next_token = says_next(reading, chosen)
    total, count = 0.0, 0
    for inputs in batches(reading, encode, pairs, batch_size=batch_size, device=next(network.parameters()).device):
        part = summed_loss(network, inputs, next_token=next_token)
        total, count = total + part[0], count + part[1]
    return total / count


def says_next(reading: Reader, task: str) -> bool:
    """Whether a model is to say at each token the next one, so that labels stand one place further on than logits."""
    twofold = any(stack.columns == "target" for stack in reading.stacks.values())
    return task != "classification" and not twofold and not fills_masks(reading)


def batches(
    reading: Reader, encode: Encoder, pairs: Sequence[Sample], *, batch_size: int, device: torch.device
) -> Iterator[dict[str, torch.Tensor]]:
    """Samples as the model takes them, with labels; the words that a captioner is asked for are the same at each call."""
    for start in range(0, len(pairs), batch_size):
        inputs = collate(reading, [encode(pair) for pair in pairs[start : start + batch_size]])
        if fills_masks(reading):
            inputs = _hidden(reading, inputs, start)
        yield {name: tensor.to(device) for name, tensor in inputs.items()}


def _hidden(reading: Reader, inputs: dict[str, torch.Tensor], start: int) -> dict[str, torch.Tensor]:
    """A batch with words hidden in each caption by its place in the data, whatever stands beside it."""
    rows = [{name: tensor[i : i + 1] for name, tensor in inputs.items()} for i in range(len(inputs["input_ids"]))]
    hidden = [hide_words(reading, row, seed=seed_of("held out", start + i)) for i, row in enumerate(rows)]
    return {name: torch.cat([row[name] for row in hidden]) for name in hidden[0]}


@torch.no_grad()
def summed_loss(model: nn.Module, inputs: Mapping[str, torch.Tensor], *, next_token: bool) -> tuple[float, int]:
    """The cross-entropy of a batch, summed, in nats, and how many tokens or labels it is a sum over."""
    logits, labels = model(**inputs).logits.double(), inputs["labels"]
    if labels.is_floating_point():
        return float(nn.functional.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum")), len(
            labels
        )
    if next_token:
        logits, labels = logits[:, :-1], labels[:, 1:]
    loss = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return float(loss), int((labels != IGNORED).sum())
