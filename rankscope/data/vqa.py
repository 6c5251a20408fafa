"""VQAv2: the official question and annotation files, the answers that a classifier chooses from, and soft scores.

An example is a question; its targets are the answers of the ten annotators in their order, as the official score needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rankscope.data.coco import top
from rankscope.data.files import Images, Json, Options, clean, cleaned, key, objects
from rankscope.data.probes import Example
from rankscope.data.report import Ledger
from rankscope.errors import DataError

ANNOTATORS = 10
"""How many people answered each question."""
ANSWERS = 3129
"""How many answers published classifiers choose from, VinVL's among them."""


def annotations_of(questions: Path) -> Path:
    """Where the annotations lie that belong to a question file, by the official names."""
    return questions.with_name(questions.name.replace("OpenEnded_", "").replace("_questions", "_annotations"))


def read_vqa(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """Questions joined with their annotations; test questions have none."""
    value = top(path, "questions")
    beside = options.answers or annotations_of(path)
    answers = _annotations(beside, ledger) if options.answers or (beside != path and beside.is_file()) else None
    if answers is None:
        ledger.notice("no annotation file; the questions have no answers", str(beside.name))
    subtype = str(value.get("data_subtype", ""))
    images, found = Images(options.images or path.parent), []
    for i, item in objects(value["questions"], "questions", ledger):
        name, image, text = key(item, "question_id"), key(item, "image_id"), item.get("question")
        if name is None or image is None or not isinstance(text, str) or not text.strip():
            ledger.fault("question has no question_id, no image_id or no text", f"question {i}")
            continue
        said, about = (answers or {}).pop(name, ((), {}))
        if answers is not None and not said:
            ledger.fault("question without annotation", f"question {name}")
        file = f"COCO_{subtype}_{int(image):012d}.jpg" if image.isdecimal() else image
        where = images.find(file, subtype, f"images/{subtype}", "images", place=f"question {name}", ledger=ledger)
        found.append(
            Example(
                name,
                clean(text, f"question {name}", ledger),
                where,
                said,
                about={"image_id": image, "task": "question", **about},
            )
        )
    for name in answers or ():
        ledger.fault("annotation of a question that is not asked", f"question {name}")
    return found


def _annotations(path: Path, ledger: Ledger) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Answers and types by question id."""
    found: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {}
    for i, item in objects(top(path, "annotations")["annotations"], "annotations", ledger):
        name = key(item, "question_id")
        if name is None or not isinstance(item.get("answers"), list):
            kind = "; captions, as it seems" if "caption" in item else ""
            ledger.fault(f"annotation has no question_id or no answers{kind}", f"annotation {i}")
            continue
        if name in found:
            ledger.fault("question annotated twice", f"question {name}")
        said = cleaned(
            [a.get("answer") for _, a in objects(item["answers"], f"answers of {name}", ledger)],
            f"question {name}",
            ledger,
        )
        if len(said) != ANNOTATORS:
            ledger.fault(f"question has not {ANNOTATORS} answers", f"question {name} has {len(said)}")
        found[name] = said, _types(item)
    return found


def _types(item: dict[str, Json]) -> dict[str, str]:
    return {k: str(item[k]) for k in ("question_type", "answer_type", "multiple_choice_answer") if k in item}


def answer_vocabulary(examples: Iterable[Example], *, size: int = ANSWERS) -> tuple[str, ...]:
    """The ``size`` most frequent majority answers, most frequent first, equals in alphabetical order.

    Raises:
        DataError: if no example has an answer.
    """
    counts = Counter((e.about.get("multiple_choice_answer") or e.target).strip().lower() for e in examples if e.targets)
    if not counts:
        raise DataError(
            "no example has an answer, so there is no answer vocabulary; give the annotations of the questions"
        )
    return tuple(sorted(counts, key=lambda a: (-counts[a], a))[:size])


def soft_scores(answers: Sequence[str], vocabulary: Sequence[str]) -> dict[int, float]:
    """The score of each answer of the vocabulary that an annotator gave, by its place there: 0.3, 0.6, 0.9, then 1.

    A target for binary cross-entropy, and what the official accuracy would be (leave one annotator out, three agree):
    with k of ten annotators, the mean over annotators of min(1, matches among the other nine / 3) is 0, 0.3, 0.6, 0.9, 1 for k = 0…4.
    Answers that are not in the vocabulary are left out: where none is, the result is empty.
    """
    places = {answer: i for i, answer in enumerate(vocabulary)}
    counts = Counter(a.strip().lower() for a in answers)
    return {places[a]: min(1.0, round(0.3 * k, 1)) for a, k in counts.items() if a in places}
