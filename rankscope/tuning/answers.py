"""Answers that a classifier chooses from: question answering over a fixed list, as VinVL does it.

A checkpoint brings its list along (``answers`` in ``rankscope.json``, a file ``answers.json`` beside the weights, or names in
``id2label``); a base without one learns the most frequent answers of its training data.
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
    """A list of answers, and the form in which a loss takes the right ones."""

    texts: tuple[str, ...]
    """The answers, by label."""
    labels: int
    """Number of labels of the classifier; at least as many as answers."""
    loss: str
    """The loss: ``bce`` and ``kl`` take scores, any other the number of the best answer."""

    def label(self, example: Example) -> Tensor:
        """``(labels,)`` scores of the annotators' answers, or the number of the one given most often.

        Raises:
            DataError: if the loss takes one answer, and none that was given is in the list.
        """
        # A lone answer counts as the answer of every annotator.
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
        # The KL divergence compares with a distribution; binary cross-entropies take each score by itself.
        return label / label.sum() if self.loss == "kl" and scores else label

    def check(self, data: ProbeSet) -> None:
        """Check that some question of the data has an answer in the list.

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
    """The answers that come with a checkpoint, by label; empty if none do.

    Raises:
        CheckpointError: if its answers are not a list of texts, or more than there are labels.
    """
    listed: Any = checkpoint.record.get("answers") or _from_file(checkpoint)
    if not listed:
        names = [config.id2label[i] for i in sorted(config.id2label)]
        listed = names if any(name != f"LABEL_{i}" for i, name in enumerate(names)) else []
    texts = isinstance(listed, list) and all(isinstance(text, str) for text in listed)
    if not texts or len(listed) > config.num_labels:
        raise CheckpointError(
            f"the answers of {checkpoint.path} are not a list of at most {config.num_labels} texts, one for each label"
        )
    return tuple(text.strip().lower() for text in listed)


def _from_file(checkpoint: Checkpoint) -> Any:
    folders = dict.fromkeys((checkpoint.path, checkpoint.weights, checkpoint.base))
    file = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    return read_json(file) if file is not None else None


def answers_for(checkpoint: Checkpoint, config: Any, data: ProbeSet) -> Answers | None:
    """The answers that a classifier is trained on; None if the data have labels.

    Raises:
        CheckpointError: if the base's own list is not a list of texts, or too long.
        DataError: if no question has an answer in the list.
    """
    if any(example.label is not None for example in data):
        return None
    texts = known_answers(checkpoint, config) or answer_vocabulary(data, size=config.num_labels)
    answers = Answers(texts, config.num_labels, str(getattr(config, "loss_type", "")))
    answers.check(data)
    return answers


def require_answers(checkpoint: Checkpoint, config: Any) -> tuple[str, ...]:
    """The answers that come with a checkpoint.

    Raises:
        CheckpointError: if none do.
    """
    if texts := known_answers(checkpoint, config):
        return texts
    raise CheckpointError(
        f"{Path(checkpoint.path)} does not say which answers its {config.num_labels} labels are; put the list of them, in the "
        f"order of the labels, into {FILE} there"
    )


@torch.no_grad()
def choose_answers(
    model: nn.Module, reader: Reader, examples: Sequence[Example], texts: Sequence[str], *, batch_size: int = 16
) -> Iterator[tuple[str, str]]:
    """Each example's id and the answer with the highest score, in order.

    Args:
        model: a classifier, in evaluation mode.
        reader: its reader.
        examples: the questions.
        texts: the answers, by label.
        batch_size: examples in a batch.
    """
    device = next(model.parameters()).device
    for start in range(0, len(examples), batch_size):
        part = [examples[i] for i in range(start, min(start + batch_size, len(examples)))]
        best = model(**reader.read(part).to(device).inputs).logits[:, : len(texts)].argmax(-1)
        yield from ((example.id, texts[label]) for example, label in zip(part, best.tolist(), strict=True))
