"""Predictions scored against the data that they were made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankscope.data.open import open_data
from rankscope.data.probes import Example
from rankscope.errors import DataError, UnknownName
from rankscope.scores import Question, Scores, read_predictions, score_captions, score_vqa

KINDS = ("captions", "answers")
"""What predictions can be scored as."""


def score(
    predictions: str | Path | Mapping[str, str],
    data: Any,
    *,
    kind: str | None = None,
    metrics: Sequence[str] | None = None,
    rule: str = "official",
    tokenizer: str = "builtin",
    spice_home: str | Path | None = None,
    per_sample: bool = False,
) -> Scores:
    """The scores of predictions: those of captions, or VQA accuracy.

    Captions of one image that stand as several examples are taken together by ``image_id``, where the data tells it.
    A question with one reference answer counts right where the normalised prediction is that answer.

    Args:
        predictions: a file of them, or id → text.
        data: what they were made for, as :func:`rankscope.open_data` takes it.
        kind: ``captions`` or ``answers``; questions end in a question mark, where nothing is given.
        metrics: the caption metrics; all that this machine has where nothing is given.
        rule: the rule of VQA accuracy: official, lavis or always.
        tokenizer: the tokenizer of captions: builtin or ptb.
        spice_home: where SPICE's parser lies.
        per_sample: keep the scores of single samples.

    Raises:
        DataError: if the ids of predictions and data differ, or there are no references.
        UnknownName: if there is no such kind, metric or rule.
    """
    if kind is not None and kind not in KINDS:
        raise UnknownName(f"predictions are scored as {' or '.join(KINDS)}; got {kind!r}")
    said: dict[Any, str] = dict(predictions) if isinstance(predictions, Mapping) else read_predictions(predictions)
    examples = list(open_data(data))
    without = [example.id for example in examples if not example.targets]
    if without:
        raise DataError(f"{len(without)} examples have no reference to score against, the first is {without[0]!r}")
    if (kind or guessed(examples)) == "answers":
        asked: dict[Any, object] = {example.id: _question(example) for example in examples}
        return score_vqa(said, asked, rule=rule, per_sample=per_sample)
    return score_captions(
        said,
        {example.id: example.targets for example in examples},
        metrics=metrics,
        tokenizer=tokenizer,
        spice_home=spice_home,
        per_sample=per_sample,
    )


def guessed(examples: Sequence[Example]) -> str:
    """``answers`` where most texts are questions, else ``captions``."""
    asking = sum(example.text.rstrip().endswith("?") for example in examples)
    return "answers" if 2 * asking > len(examples) else "captions"


def _question(example: Example) -> Question:
    answers = example.targets * 10 if len(example.targets) == 1 else example.targets
    about = example.about
    return Question(answers, about.get("image_id"), about.get("answer_type"), about.get("question_type"))
