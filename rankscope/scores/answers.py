"""Scoring answers to visual questions, overall and by type of answer and question; and the labels that a classifier chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rankscope.errors import DataError, UnknownName
from rankscope.scores.predictions import by_text, check_ids, unique
from rankscope.scores.result import RESAMPLES, Floats, Scores, Tally, mean_of, ratio
from rankscope.scores.vqa import RULES, vqa_accuracy

OVERALL = "accuracy"
"""The name of the accuracy over all questions; others are ``answer type: …`` and ``question type: …``."""


@dataclass(frozen=True)
class Question:
    """What an answer is scored against."""

    answers: tuple[str, ...]
    """The annotators' answers: ten in VQAv2."""
    scores: tuple[float, ...] | None = None
    """The score of each answer, where the data give one (OFA's files) and the answers are not those of annotators."""
    image: str | None = None
    """The image, over which intervals are drawn; the question itself if None."""
    answer_type: str | None = None
    """``yes/no``, ``number`` or ``other``."""
    question_type: str | None = None
    """The first words of the question: ``what is this``."""


Annotations = Mapping[object, object] | Sequence[object]


def questions_of(annotations: Annotations) -> dict[str, Question]:
    """Questions by id, from the official annotations or from plain answers.

    Args:
        annotations: the parsed annotation file of VQAv2, its list ``annotations``, or for each id a :class:`Question`
            or the annotators' answers.

    Returns:
        Questions in their order.

    Raises:
        DataError: if an id occurs twice, an entry lacks a field, or a question has no answers.
    """
    entries = annotations.get("annotations", annotations) if isinstance(annotations, Mapping) else annotations
    if isinstance(entries, Mapping):
        out = {key: _question(key, value) for key, value in by_text(entries, "annotations").items()}
    elif isinstance(entries, Sequence) and not isinstance(entries, str):
        out = unique([_entry(place, entry) for place, entry in enumerate(entries)], "annotations")
    else:
        raise DataError(f"annotations are {type(entries).__name__} where a list or a mapping by id was expected")
    bare = [key for key, question in out.items() if not question.answers]
    if bare:
        raise DataError(f"{len(bare)} of {len(out)} questions have no answers: {', '.join(bare[:5])}")
    return out


def _question(key: str, value: object) -> Question:
    if isinstance(value, Question):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(text, str) for text in value):
        return Question(tuple(value))
    raise DataError(f"question {key} has {value!r} where a list of answers was expected")


def _entry(place: int, entry: object) -> tuple[str, Question]:
    """One entry of the official list."""
    fields = entry if isinstance(entry, Mapping) else {}
    listed = fields.get("answers")
    texts = [a.get("answer") if isinstance(a, Mapping) else None for a in listed] if isinstance(listed, list) else []
    if "question_id" not in fields or not texts or not all(isinstance(text, str) for text in texts):
        held = ", ".join(map(str, fields)) or repr(entry)
        raise DataError(
            f"entry {place} of the annotations has {held} where question_id and answers were expected, each answer with "
            "its text; is this the questions file, or the test split, which has none?"
        )
    about = {name: str(value) for name, value in fields.items() if value is not None}
    image, kind, words = about.get("image_id"), about.get("answer_type"), about.get("question_type")
    return str(fields["question_id"]), Question(tuple(map(str, texts)), None, image, kind, words)


def score_vqa(
    predictions: Mapping[object, str],
    annotations: Annotations,
    *,
    rule: str = "official",
    per_sample: bool = False,
    resamples: int = RESAMPLES,
) -> Scores:
    """Score one answer for each question by VQA accuracy, in per cent.

    Values are rounded to two digits as the official code rounds them; intervals are not rounded, and resample images
    with all their questions.

    Args:
        predictions: an answer for each question id; ids count as text.
        annotations: see :func:`questions_of`.
        rule: one of :data:`rankscope.scores.vqa.RULES`.
        per_sample: keep the accuracies of single questions.
        resamples: draws of the bootstrap over images; 0 for no intervals.

    Returns:
        Scores named ``accuracy``, ``answer type: yes/no``, …, ``question type: what is this``, …, in [0, 100].

    Raises:
        DataError: if ids are missing or left over, an answer is not text, or :func:`questions_of` refuses the annotations.
        UnknownName: if there is no such rule.
    """
    if rule not in RULES:
        raise UnknownName(f"there is no VQA rule {rule!r}; the rules are {', '.join(RULES)}")
    questions, answers = questions_of(annotations), by_text(predictions, "predictions")
    check_ids(answers, questions, "annotations")
    silent = [key for key, text in answers.items() if not isinstance(text, str)]
    if silent:
        first = f"{answers[silent[0]]!r} for {silent[0]}"
        raise DataError(f"{len(silent)} of {len(answers)} answers are not text, such as {first}")
    each = np.array([vqa_accuracy(answers[k], q.answers, rule=rule, scores=q.scores) for k, q in questions.items()])
    scores = Scores.of(_tallies(questions, each), tuple(questions), "%", resamples=resamples, per_sample=per_sample)
    overall = [round(value, 2) for value in scores.tallies[OVERALL].each.tolist()]
    return replace(
        scores,
        values={name: round(tally.value, 2) for name, tally in scores.tallies.items()},
        samples={OVERALL: np.array(overall)} if per_sample else None,
        rule=rule,
    )


def _tallies(questions: Mapping[str, Question], each: Floats) -> list[Tally]:
    """The accuracy over all questions and over each type, summed by image."""
    images = [question.image if question.image is not None else key for key, question in questions.items()]
    places = {image: place for place, image in enumerate(dict.fromkeys(images))}
    image_of = np.array([places[image] for image in images])
    groups = [
        (OVERALL, [True] * len(images)),
        *_by_type("answer type", [question.answer_type for question in questions.values()]),
        *_by_type("question type", [question.question_type for question in questions.values()]),
    ]
    tallies = []
    for name, members in groups:
        inside = np.array(members)
        # For each image, the sum of accuracies and the number of questions: their ratio is the mean over questions.
        sums = [
            np.bincount(image_of, weights=inside * values, minlength=len(places))
            for values in (each, np.ones_like(each))
        ]
        tallies.append(
            Tally(name, np.where(inside, 100 * each, np.nan), np.stack(sums, -1), lambda sums: 100 * ratio(sums))
        )
    return tallies


def _by_type(what: str, types: Sequence[str | None]) -> list[tuple[str, list[bool]]]:
    kinds = dict.fromkeys(kind for kind in types if kind is not None)
    return [(f"{what}: {kind}", [kind == other for other in types]) for kind in kinds]


def score_labels(
    predictions: Mapping[object, str],
    labels: Mapping[object, int],
    *,
    per_sample: bool = False,
    resamples: int = RESAMPLES,
) -> Scores:
    """The share of samples with the right label, in per cent.

    Args:
        predictions: for each id the number of the predicted label, as text.
        labels: the right label for each id.
        per_sample: keep the scores of single samples.
        resamples: draws of the bootstrap over samples; 0 for no interval.

    Returns:
        Scores named ``accuracy``, in [0, 100].

    Raises:
        DataError: if ids are missing or left over, or a prediction is not a number.
    """
    chosen, right = by_text(predictions, "predictions"), by_text(labels, "labels")
    check_ids(chosen, right, "labels")
    strange = [name for name, text in chosen.items() if not str(text).strip().isdecimal()]
    if strange:
        raise DataError(
            f"{len(strange)} of {len(chosen)} predictions are not the number of a label (the first is "
            f"{chosen[strange[0]]!r} for {strange[0]!r}); for data with labels, generate writes the label's number"
        )
    each = np.array([100.0 * (int(chosen[name]) == label) for name, label in right.items()])
    return Scores.of([mean_of(OVERALL, each)], tuple(right), "%", resamples=resamples, per_sample=per_sample)
