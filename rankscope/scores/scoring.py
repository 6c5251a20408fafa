"""Predictions scored against the data that they were made for, and written as the official servers take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankscope.data.open import open_data
from rankscope.data.probes import Example
from rankscope.errors import DataError, OutputExists, UnknownName, UsageError, public
from rankscope.scores import (
    Java,
    Question,
    Scores,
    read_predictions,
    score_captions,
    score_labels,
    score_vqa,
    write_coco_results,
    write_vqa_submission,
)
from rankscope.scores.ids import by_text, check_ids

KINDS = ("captions", "answers", "labels")
"""What predictions can be scored as."""
_ENOUGH = 4
"""So many annotators can agree that an answer is right for certain: every one of them sees three others."""


@public
def score(
    predictions: str | Path | Mapping[str, str],
    data: Any,
    *,
    kind: str | None = None,
    metrics: Sequence[str] | None = None,
    rule: str = "official",
    tokenizer: str = "builtin",
    spice_home: str | Path | None = None,
    java: Java | None = None,
    per_sample: bool = False,
) -> Scores:
    """The scores of predictions: those of captions, VQA accuracy, or the accuracy of labels.

    Captions of one image that stands as several examples are scored together, where the data tell ``image_id``. A
    question with one reference counts right where that is what was said, letter for letter under the official rule,
    both normalised under ``always``; where the data tell a score for every answer (OFA's files), it has that score.

    Args:
        predictions: a file of them, or id → text.
        data: what they were made for, as :func:`rankscope.open_data` takes it.
        kind: ``captions``, ``answers`` or ``labels``; told by the data, where nothing is given: by its format, as texts that
            mostly end in a question mark, or by labels without references.
        metrics: the caption metrics; all that this machine has where nothing is given.
        rule: the rule of VQA accuracy: official, lavis or always.
        tokenizer: the tokenizer of captions: builtin or ptb.
        spice_home: where SPICE's parser lies.
        java: how Java programs are run.
        per_sample: keep the scores of single samples.

    Raises:
        DataError: if the ids of predictions and data differ, there are no references or labels, or two or three answers of a
            question, under which no answer could be right.
        UnknownName: if there is no such kind, metric or rule.
    """
    examples = list(open_data(data))
    asked = _kind(kind, examples)
    said = _said(predictions)
    if asked == "labels":
        return score_labels(said, _labels(examples), per_sample=per_sample)
    without = [example.id for example in examples if not example.targets]
    if without:
        raise DataError(f"{len(without)} examples have no reference to score against, the first is {without[0]!r}")
    if asked == "answers":
        questions: dict[Any, object] = {example.id: _question(example) for example in examples}
        _check_annotators(questions)
        return score_vqa(said, questions, rule=rule, per_sample=per_sample)
    same = _by_image(examples)
    return score_captions(
        _one_each(said, same),
        {name: [text for example in group for text in example.targets] for name, group in same.items()},
        metrics=metrics,
        tokenizer=tokenizer,
        spice_home=spice_home,
        java=java,
        per_sample=per_sample,
    )


def write_submission(
    predictions: str | Path | Mapping[str, str],
    data: Any,
    out: str | Path,
    *,
    kind: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write predictions as the official evaluation takes them: COCO results, or a VQA submission.

    The data need no references: the questions of a test split are submitted so.

    Args:
        predictions: a file of them, or id → text.
        data: what they were made for, as :func:`rankscope.open_data` takes it.
        out: the file.
        kind: ``captions`` or ``answers``; as for :func:`score`.
        overwrite: replace a file that is there.

    Returns:
        How many entries were written.

    Raises:
        DataError: if the ids of predictions and data differ, or are no whole numbers, as the official formats want.
        OutputExists: if ``out`` is there.
        UsageError: if they are labels.
    """
    examples = list(open_data(data))
    asked = _kind(kind, examples)
    if asked == "labels":
        raise UsageError("no server takes labels; a submission is of captions or answers")
    said = _said(predictions)
    if Path(out).exists() and not overwrite:
        raise OutputExists(f"{out} is there already; it is kept unless overwriting is asked for (--overwrite)")
    if asked == "answers":
        check_ids(said, {example.id: None for example in examples}, "questions")
        write_vqa_submission(out, said)
    else:
        said = _one_each(said, _by_image(examples))
        write_coco_results(out, said)
    return len(said)


def _said(predictions: str | Path | Mapping[str, str]) -> dict[Any, str]:
    given: Mapping[Any, str] = predictions if isinstance(predictions, Mapping) else read_predictions(predictions)
    return by_text(given, "predictions")


def _kind(kind: str | None, examples: Sequence[Example]) -> str:
    if kind is not None and kind not in KINDS:
        raise UnknownName(f"predictions are scored as {', '.join(KINDS[:-1])} or {KINDS[-1]}; got {kind!r}")
    return kind or guessed(examples)


def guessed(examples: Sequence[Example]) -> str:
    """``labels`` where examples have those and no references; ``answers`` where most are questions, by the data's format or
    the mark at their ends; else ``captions``."""
    if examples and all(e.label is not None and not e.targets for e in examples):
        return "labels"
    asking = sum(e.about.get("task") == "question" or e.text.rstrip().endswith("?") for e in examples)
    return "answers" if 2 * asking > len(examples) else "captions"


def _labels(examples: Sequence[Example]) -> dict[Any, int]:
    labels = {example.id: example.label for example in examples if example.label is not None}
    if len(labels) < len(examples):
        raise DataError(f"{len(examples) - len(labels)} of {len(examples)} examples have no label to score against")
    return labels


def _question(example: Example) -> Question:
    about = example.about
    types = (about.get("image_id"), about.get("answer_type"), about.get("question_type"))
    scores = tuple(map(float, about.get("confidences", "").split()))
    if scores and len(scores) == len(example.targets):
        return Question(example.targets, scores, *types)
    return Question(example.targets * (10 if len(example.targets) == 1 else 1), None, *types)


def _check_annotators(questions: Mapping[Any, Any]) -> None:
    few = [name for name, asked in questions.items() if asked.scores is None and len(asked.answers) < _ENOUGH]
    if few:
        raise DataError(
            f"{len(few)} of {len(questions)} questions have two or three answers (the first is {few[0]!r}): VQA accuracy counts "
            "how many annotators agree with an answer, so that none could be wholly right; give the answers of all ten, or one"
        )


def _by_image(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples of one image and prompt, by the image where that has one prompt, by their first id otherwise."""
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.about.get("image_id", example.id), example.text), []).append(example)
    alone = len(groups) == len(examples) or len({image for image, _ in groups}) < len(groups)
    return {group[0].id if alone else image: group for (image, _), group in groups.items()}


def _one_each(said: dict[Any, str], same: Mapping[str, list[Example]]) -> dict[Any, str]:
    """The caption of each group, from those of its examples; what is told by group already is taken as it is.

    Raises:
        DataError: if ids are missing or extra, or the examples of a group are told different captions.
    """
    groups = {example.id: name for name, group in same.items() for example in group}
    if said.keys() == same.keys() or len(groups) == len(same):
        check_ids(said, same, "references")
        return said
    check_ids(said, groups, "references")
    captions: dict[Any, set[str]] = {}
    for name, group in groups.items():
        captions.setdefault(group, set()).add(said[name])
    if several := [group for group, texts in captions.items() if len(texts) > 1]:
        raise DataError(
            f"{len(several)} of {len(same)} images stand as several examples that were told different captions (the first is "
            f"{several[0]!r}); predict greedily, or score one caption an image"
        )
    return {group: texts.pop() for group, texts in captions.items()}
