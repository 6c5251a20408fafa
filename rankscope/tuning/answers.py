"""Answers that a classifier chooses from: question answering over a fixed list, as VinVL does it.

The list is told by the checkpoint (``answers`` in ``rankscope.json``, a file ``answers.json`` beside the weights, or names in
``id2label``); a base that tells none learns the most frequent answers of its training data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankscope.checkpoint import Checkpoint
from rankscope.data.files import read_json
from rankscope.data.probes import Example, ProbeSet
from rankscope.data.vqa import ANNOTATORS, answer_vocabulary, soft_scores
from rankscope.errors import CheckpointError, DataError
from rankscope.models.inputs.reader import Reader

FILE = "answers.json"
"""In a checkpoint's folder: the list of answers, in the order of the labels."""
_SOFT = ("bce", "kl")
"""Losses that take a score for every answer."""


@dataclass(frozen=True)
class Answers:
    """A list of answers, and how a loss wants the right ones to be told."""

    texts: tuple[str, ...]
    """The answers, by label."""
    labels: int
    """How many labels the classifier has; at least as many as answers."""
    loss: str
    """``bce`` and ``kl`` take scores, any other the number of the best answer."""

    def label(self, example: Example) -> Tensor:
        """``(labels,)`` scores of the annotators' answers, or the number of the one given most often.

        Raises:
            DataError: if the loss takes one answer, and none that was given is in the list.
        """
        given = example.targets * (ANNOTATORS if len(example.targets) == 1 else 1)
        scores = soft_scores(given, self.texts)
        if self.loss not in _SOFT:
            if not scores:
                raise DataError(
                    f"no answer to question {example.id!r} ({example.target!r}) is among the {len(self.texts)} answers that "
                    "the classifier knows; leave the question out, or train with loss_type bce"
                )
            return torch.tensor(max(scores, key=lambda place: (scores[place], -place)))
        label = torch.zeros(self.labels)
        for place, score in scores.items():
            label[place] = score
        return label / label.sum() if self.loss == "kl" and scores else label

    def check(self, data: ProbeSet) -> None:
        """See that some question of the data has an answer in the list.

        Raises:
            DataError: if none has.
        """
        known = set(self.texts)
        if not any(answer.strip().lower() in known for example in data for answer in example.targets):
            raise DataError(
                f"none of the {len(data)} questions of {data.name} has an answer among the {len(known)} that the classifier "
                f"knows (the first is asked {data[0].text!r} and answered {data[0].target!r})"
            )


def known_answers(checkpoint: Checkpoint, config: Any) -> tuple[str, ...]:
    """The answers that a checkpoint tells, by label; empty where it tells none.

    Raises:
        CheckpointError: if its list is no list of texts, or longer than there are labels.
    """
    told: Any = checkpoint.record.get("answers") or _from_file(checkpoint)
    if not told:
        names = [config.id2label[i] for i in sorted(config.id2label)]
        told = names if any(name != f"LABEL_{i}" for i, name in enumerate(names)) else []
    if not isinstance(told, list) or not all(isinstance(text, str) for text in told) or len(told) > config.num_labels:
        raise CheckpointError(
            f"the answers of {checkpoint.path} are not a list of at most {config.num_labels} texts, one for each label"
        )
    return tuple(text.strip().lower() for text in told)


def _from_file(checkpoint: Checkpoint) -> Any:
    folders = dict.fromkeys((checkpoint.path, checkpoint.weights, checkpoint.base))
    file = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    return read_json(file) if file is not None else None


def answers_for(checkpoint: Checkpoint, config: Any, data: ProbeSet) -> Answers | None:
    """The answers that a classifier is trained on; None where the data have labels.

    Raises:
        CheckpointError: if the base's own list is wrong.
        DataError: if no question has an answer in the list.
    """
    if any(example.label is not None for example in data):
        return None
    texts = known_answers(checkpoint, config) or answer_vocabulary(data, size=config.num_labels)
    answers = Answers(texts, config.num_labels, str(getattr(config, "loss_type", "")))
    answers.check(data)
    return answers


def require_answers(checkpoint: Checkpoint, config: Any) -> tuple[str, ...]:
    """The answers that a checkpoint tells.

    Raises:
        CheckpointError: if it tells none.
    """
    if texts := known_answers(checkpoint, config):
        return texts
    raise CheckpointError(
        f"{Path(checkpoint.path)} does not tell which answers its {config.num_labels} labels are; put the list of them, in the "
        f"order of the labels, into {FILE} there"
    )


@torch.no_grad()
def chosen(
    model: nn.Module, reading: Reader, examples: Sequence[Example], texts: Sequence[str], *, batch_size: int = 16
) -> Iterator[tuple[str, str]]:
    """Each example's id and the answer with the highest score, in order.

    Args:
        model: a classifier, in evaluation mode.
        reading: its reader.
        examples: the questions.
        texts: the answers, by label.
        batch_size: examples at once.
    """
    device = next(model.parameters()).device
    for start in range(0, len(examples), batch_size):
        part = [examples[i] for i in range(start, min(start + batch_size, len(examples)))]
        best = model(**reading.read(part).to(device).inputs).logits[:, : len(texts)].argmax(-1)
        yield from ((example.id, texts[label]) for example, label in zip(part, best.tolist(), strict=True))
