"""Scoring answers to visual questions: overall, by type of answer and by type of question, with intervals over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rankscope.errors import DataError, UnknownName
from rankscope.scores.ids import by_text, check_ids, unique
from rankscope.scores.result import RESAMPLES, Scores, intervals_of
from rankscope.scores.tally import Floats, Tally, ratio
from rankscope.scores.vqa import RULES, told_accuracy, vqa_accuracy

OVERALL = "accuracy"
"""The name of the accuracy over all questions; others are ``answer type: …`` and ``question type: …``."""


@dataclass(frozen=True)
class Question:
    """What an answer is scored against."""

    answers: tuple[str, ...]
    """The annotators' answers: ten in VQAv2."""
    scores: tuple[float, ...] | None = None
    """What each answer scores, where the data tell that (OFA's files) and the answers are no annotators'."""
    image: str | None = None
    """The image, over which intervals are drawn; the question itself where None."""
    answer_type: str | None = None
    """``yes/no``, ``number`` or ``other``."""
    question_type: str | None = None
    """The first words of the question: ``what is this``."""


Annotations = Mapping[object, object] | Sequence[object]


def questions_of(annotations: Annotations) -> dict[str, Question]:
    """Questions by id, out of the official annotations or plain answers.

    Args:
        annotations: the parsed annotation file of VQAv2, its list ``annotations``, or for each id a :class:`Question`
            or the annotators' answers.

    Returns:
        Questions in their order.

    Raises:
        DataError: an id twice, an entry that lacks a field, or a question without answers.
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
    given = fields.get("answers")
    said = [answer.get("answer") for answer in given if isinstance(answer, Mapping)] if isinstance(given, list) else []
    answers = tuple(text for text in said if isinstance(text, str))
    if "question_id" not in fields or not answers or len(answers) != len(fields["answers"]):
        held = ", ".join(map(str, fields)) or repr(entry)
        raise DataError(
            f"entry {place} of the annotations has {held} where question_id and answers "
            "were expected, each answer with its text; is this the questions file, or the test split, which has none?"
        )
    key, about = str(fields["question_id"]), {name: str(value) for name, value in fields.items() if value is not None}
    image, kind, words = about.get("image_id"), about.get("answer_type"), about.get("question_type")
    return key, Question(answers, image=image, answer_type=kind, question_type=words)


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
        DataError: missing or extra ids, an answer that is no text, or what :func:`questions_of` refuses.
        UnknownName: no such rule.
    """
    if rule not in RULES:
        raise UnknownName(f"there is no VQA rule {rule!r}; the rules are {', '.join(RULES)}")
    questions, said = questions_of(annotations), by_text(predictions, "predictions")
    check_ids(said, questions, "annotations")
    silent = [key for key, text in said.items() if not isinstance(text, str)]
    if silent:
        raise DataError(f"{len(silent)} of {len(said)} answers are no text, such as {said[silent[0]]!r} of {silent[0]}")
    each = np.array([_accuracy(said[key], question, rule) for key, question in questions.items()])
    tallies = {tally.name: tally for tally in _tallies(questions, each)}
    overall = tallies[OVERALL]
    return Scores(
        values={name: round(tally.value, 2) for name, tally in tallies.items()},
        intervals=intervals_of(list(tallies.values()), resamples),
        images=len(overall.parts),
        ids=tuple(questions),
        unit="%",
        samples={OVERALL: np.array([round(value, 2) for value in overall.each.tolist()])} if per_sample else None,
        rule=rule,
        tallies=tallies,
    )


def _accuracy(said: str, question: Question, rule: str) -> float:
    if question.scores is None:
        return vqa_accuracy(said, question.answers, rule=rule)
    return told_accuracy(said, question.answers, question.scores, rule=rule)


def _tallies(questions: Mapping[str, Question], each: Floats) -> list[Tally]:
    """The accuracy over all questions and over each type, summed by image."""
    images = [question.image if question.image is not None else key for key, question in questions.items()]
    places = {image: place for place, image in enumerate(dict.fromkeys(images))}
    rows = np.array([places[image] for image in images])
    groups = [
        (OVERALL, [True] * len(rows)),
        *_by_type("answer type", [question.answer_type for question in questions.values()]),
        *_by_type("question type", [question.question_type for question in questions.values()]),
    ]
    tallies = []
    for name, members in groups:
        inside = np.array(members)
        sums = [
            np.bincount(rows, weights=inside * values, minlength=len(places)) for values in (each, np.ones_like(each))
        ]
        tallies.append(Tally(name, np.where(inside, 100 * each, np.nan), np.stack(sums, -1), _percent))
    return tallies


def _by_type(what: str, types: Sequence[str | None]) -> list[tuple[str, list[bool]]]:
    kinds = dict.fromkeys(kind for kind in types if kind is not None)
    return [(f"{what}: {kind}", [kind == other for other in types]) for kind in kinds]


def _percent(sums: Floats) -> Floats:
    return 100 * ratio(sums)
