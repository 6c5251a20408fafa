"""VQAv2: the official question and annotation files, the answers that a classifier chooses from, and soft scores.

An example is a question; its targets are the answers of the ten annotators in their order, as the official score needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rankscope.data.files import id_text, read_object
from rankscope.data.intake import Intake
from rankscope.data.probes import Example
from rankscope.errors import DataError

ANNOTATORS = 10
"""The number of people who answered each question."""
ANSWERS = 3129
"""The number of answers that published classifiers choose from, VinVL's among them."""
_ABOUT = ("question_type", "answer_type", "multiple_choice_answer")


def annotations_of(questions: Path) -> Path:
    """The annotation file that belongs to a question file, by the official names."""
    return questions.with_name(questions.name.replace("OpenEnded_", "").replace("_questions", "_annotations"))


def read_vqa(path: Path, intake: Intake) -> list[Example]:
    """Questions joined with their annotations; test questions have none."""
    value = read_object(path, "questions", fault=intake.fault)
    beside = intake.answers or annotations_of(path)
    answers = None
    if intake.answers or (beside != path and beside.is_file()):
        try:
            answers = _annotations(beside, intake)
        except DataError as error:
            intake.fault("annotations cannot be read", str(error))
    else:
        intake.notice("no annotation file; the questions have no answers", str(beside.name))
    subtype = str(value.get("data_subtype", ""))
    images, found = intake.images_beside(path.parent), []
    for i, item in intake.objects(value["questions"], "questions"):
        name, image, text = id_text(item, "question_id"), id_text(item, "image_id"), item.get("question")
        if name is None or image is None or not isinstance(text, str) or not text.strip():
            intake.fault("question has no question_id, no image_id or no text", f"question {i}")
            continue
        place = f"question {name}"
        texts, types = (answers or {}).pop(name, ((), {}))
        if answers is not None and not texts:
            intake.fault("question without annotation", place)
        file = f"COCO_{subtype}_{int(image):012d}.jpg" if image.isdecimal() else image
        where = images.find(file, subtype, f"images/{subtype}", "images", place=place)
        about = {"image_id": image, "task": "question", **types}
        found.append(Example(name, intake.clean(text, place), where, texts, about=about))
    for name in answers or ():
        intake.fault("annotation of a question that is not in the file", f"question {name}")
    return found


def _annotations(path: Path, intake: Intake) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Answers and types by question id."""
    found: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {}
    for i, item in intake.objects(read_object(path, "annotations", fault=intake.fault)["annotations"], "annotations"):
        name = id_text(item, "question_id")
        if name is None or not isinstance(item.get("answers"), list):
            kind = "; these look like captions" if "caption" in item else ""
            intake.fault(f"annotation has no question_id or no answers{kind}", f"annotation {i}")
            continue
        if name in found:
            intake.fault("question annotated twice", f"question {name}")
        answers = [a.get("answer") for _, a in intake.objects(item["answers"], f"answers of {name}")]
        texts = intake.clean_all(answers, f"question {name}")
        if len(texts) != ANNOTATORS:
            intake.fault(f"question does not have {ANNOTATORS} answers", f"question {name} has {len(texts)}")
        found[name] = texts, {k: str(item[k]) for k in _ABOUT if k in item}
    return found


def answer_vocabulary(examples: Iterable[Example], *, size: int = ANSWERS) -> tuple[str, ...]:
    """The ``size`` most frequent majority answers, the most frequent first, equally frequent ones in alphabetical order.

    Raises:
        DataError: if no example has an answer.
    """
    counts = Counter((e.about.get("multiple_choice_answer") or e.target).strip().lower() for e in examples if e.targets)
    if not counts:
        raise DataError("no example has an answer to make a vocabulary of; give the annotations of the questions")
    return tuple(sorted(counts, key=lambda a: (-counts[a], a))[:size])


def soft_scores(answers: Sequence[str], vocabulary: Sequence[str]) -> dict[int, float]:
    """The score of each answer of the vocabulary that an annotator gave, by its index there: 0.3, 0.6, 0.9 or 1.

    This is a target for binary cross-entropy, and equals the official accuracy (leave one annotator out, three agree):
    with k of ten annotators, the mean over annotators of min(1, matches among the other nine / 3) is 0, 0.3, 0.6, 0.9, 1
    for k = 0…4. Answers outside the vocabulary are left out; if all are, the result is empty.
    """
    places = {answer: i for i, answer in enumerate(vocabulary)}
    counts = Counter(a.strip().lower() for a in answers)
    # k annotators agree: leaving one of them out gives (k - 1)/3 k times, leaving out another gives k/3 (10 - k) times;
    # the mean is (k (k - 1) + (10 - k) k) / 30 = 9k/30 = 0.3 k while k ≤ 3, and 1 from k = 4 on.
    return {places[a]: min(1.0, round(0.3 * k, 1)) for a, k in counts.items() if a in places}
