"""The join of predictions with the data they were made for: scored, or written in the form that the official servers take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankscope.data import Example, open_data
from rankscope.errors import DataError, UnknownName, UsageError, public
from rankscope.scores import (
    RULES,
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
from rankscope.scores.captions import TOKENIZERS, metric_names
from rankscope.scores.predictions import by_text, check_ids
from rankscope.writing import check_free

KINDS = ("captions", "answers", "labels")
"""What predictions can be scored as."""
_ENOUGH = 4
"""The fewest annotators under whom an answer can score 1: if all four agree, each of them sees three others."""


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
    """The scores of predictions: caption metrics, VQA accuracy, or the accuracy of labels.

    Captions are scored by image: several examples of one image, by ``image_id``, become one. A question with one
    reference is right if the answer is the same, letter for letter under the official rule and after normalising both
    under ``always``. Where the data give a score for every answer (OFA's files), the answer has that score.

    Args:
        predictions: a file of them, or id → text.
        data: what they were made for, as :func:`rankscope.open_data` takes it.
        kind: ``captions``, ``answers`` or ``labels``. If None, the data decide: labels without references are
            ``labels``; a format for questions, or texts that mostly end in a question mark, are ``answers``.
        metrics: the caption metrics; all that this machine can compute if None.
        rule: the rule of VQA accuracy: ``official``, ``lavis`` or ``always``.
        tokenizer: the tokenizer of captions: ``builtin`` or ``ptb``.
        spice_home: the folder of SPICE's parser.
        java: how Java programs are run.
        per_sample: keep the scores of single samples.

    Raises:
        DataError: if the ids of predictions and data differ, there are no references or labels, or a question has two or
            three answers, with which no prediction could be fully right.
        UnknownName: if there is no such kind, metric or rule.
    """
    check_scoring(kind, metrics=metrics, rule=rule, tokenizer=tokenizer)
    examples = list(open_data(data, images_needed=False))
    kind = kind or guess_kind(examples)
    predicted = _by_id(predictions)
    if kind == "labels":
        return score_labels(predicted, _labels(examples), per_sample=per_sample)
    without = [example.id for example in examples if not example.targets]
    if without:
        raise DataError(f"{len(without)} examples have no reference to score against; the first is {without[0]!r}")
    if kind == "answers":
        questions: dict[Any, object] = {example.id: _question(example) for example in examples}
        _check_annotators(questions)
        return score_vqa(predicted, questions, rule=rule, per_sample=per_sample)
    groups = _by_image(examples)
    return score_captions(
        _one_each(predicted, groups),
        {name: [text for example in group for text in example.targets] for name, group in groups.items()},
        metrics=metrics,
        tokenizer=tokenizer,
        spice_home=spice_home,
        java=java,
        per_sample=per_sample,
    )


def check_scoring(
    kind: str | None,
    *,
    metrics: Sequence[str] | None = None,
    rule: str = RULES[0],
    tokenizer: str = TOKENIZERS[0],
) -> None:
    """Check the options of :func:`score`, those too that the data will turn out not to need.

    Raises:
        UnknownName: if there is no such kind, metric, rule or tokenizer.
    """
    metric_names(metrics)
    for what, given, known in (
        ("VQA rule", rule, RULES),
        ("tokenizer", tokenizer, TOKENIZERS),
        ("kind of predictions", kind, (None, *KINDS)),
    ):
        if given not in known:
            raise UnknownName(f"there is no {what} {given!r}; choose {', '.join(filter(None, known))}")


def write_submission(
    predictions: str | Path | Mapping[str, str],
    data: Any,
    out: str | Path,
    *,
    kind: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write predictions in the form of the official evaluation: COCO results, or a VQA submission.

    The data need no references, so that the questions of a test split can be submitted.

    Args:
        predictions: a file of them, or id → text.
        data: what they were made for, as :func:`rankscope.open_data` takes it.
        out: the file.
        kind: ``captions`` or ``answers``; as for :func:`score`.
        overwrite: replace an existing file.

    Returns:
        Number of entries written.

    Raises:
        DataError: if the ids of predictions and data differ, or are not whole numbers, as the official formats require.
        OutputExists: if ``out`` exists.
        UsageError: if the predictions are labels.
    """
    check_scoring(kind)
    examples = list(open_data(data, images_needed=False))
    kind = kind or guess_kind(examples)
    if kind == "labels":
        raise UsageError("no server takes labels; a submission is of captions or answers")
    predicted = _by_id(predictions)
    check_free(Path(out), overwrite=overwrite)
    if kind == "answers":
        check_ids(predicted, {example.id: None for example in examples}, "questions")
        write_vqa_submission(out, predicted)
    else:
        predicted = _one_each(predicted, _by_image(examples))
        write_coco_results(out, predicted)
    return len(predicted)


def _by_id(predictions: str | Path | Mapping[str, str]) -> dict[Any, str]:
    found: Mapping[Any, str] = predictions if isinstance(predictions, Mapping) else read_predictions(predictions)
    return by_text(found, "predictions")


def guess_kind(examples: Sequence[Example]) -> str:
    """What predictions for these examples are most likely to be.

    ``labels`` where all examples have labels and no references; ``answers`` where most are questions, by the data's
    format or the question mark at their ends; ``captions`` otherwise.
    """
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
    about, answers = example.about, example.targets
    scores = tuple(map(float, about.get("confidences", "").split())) or None
    if scores is None or len(scores) != len(answers):
        # One reference counts as ten equal annotators: under leave-one-out, the same answer scores 1 and any other 0.
        scores, answers = None, answers * (10 if len(answers) == 1 else 1)
    return Question(answers, scores, about.get("image_id"), about.get("answer_type"), about.get("question_type"))


def _check_annotators(questions: Mapping[Any, Any]) -> None:
    few = [name for name, asked in questions.items() if asked.scores is None and len(asked.answers) < _ENOUGH]
    if few:
        raise DataError(
            f"{len(few)} of {len(questions)} questions have two or three answers (the first is {few[0]!r}): VQA accuracy "
            "counts how many annotators agree with an answer, so none could be fully right; give all ten answers, or one"
        )


def _by_image(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples of each image and prompt, under the image's id if each image has one prompt, else their first id."""
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.about.get("image_id", example.id), example.text), []).append(example)
    alone = len(groups) == len(examples) or len({image for image, _ in groups}) < len(groups)
    return {group[0].id if alone else image: group for (image, _), group in groups.items()}


def _one_each(predicted: dict[Any, str], groups: Mapping[str, list[Example]]) -> dict[Any, str]:
    """The caption of each group, from those of its examples; captions that are already by group are kept.

    Raises:
        DataError: if ids are missing or left over, or the examples of a group have different captions.
    """
    group_of = {example.id: name for name, group in groups.items() for example in group}
    if predicted.keys() == groups.keys() or len(group_of) == len(groups):
        check_ids(predicted, groups, "references")
        return predicted
    check_ids(predicted, group_of, "references")
    captions: dict[Any, set[str]] = {}
    for name, group in group_of.items():
        captions.setdefault(group, set()).add(predicted[name])
    if several := [group for group, texts in captions.items() if len(texts) > 1]:
        raise DataError(
            f"{len(several)} of {len(groups)} images occur in several examples with different captions (the first is "
            f"{several[0]!r}); predict greedily, or score one caption for each image"
        )
    return {group: texts.pop() for group, texts in captions.items()}
