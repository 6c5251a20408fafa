"""VQA accuracy follows the official code letter by letter."""

from __future__ import annotations

import json
import random
import re
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose

from rankscope.errors import DataError, UnknownName
from rankscope.scores import RULES, Question, score_vqa, vqa_accuracy

# (answers with their numbers, prediction, official, LAVIS); None where only the official value is on record
GOLDEN = [
    ([("yes", 10)], "Yes", 0, 100),
    ([("yes", 10)], "yes", 100, 100),
    ([("yes", 9), ("no", 1)], "Yes", 100, 100),
    ([("yes", 8), ("no", 2)], "yes", 100, 100),
    ([("yes", 8), ("no", 2)], "no", 60, 60),
    ([("2", 5), ("two", 5)], "two", 100, None),
    ([("t-shirt", 6), ("shirt", 4)], "tshirt", 0, 0),
    ([("1,000", 6), ("1000", 4)], "1000", 100, 100),
    ([("dont", 6), ("do not", 4)], "don't", 100, 0),
    ([("an apple", 4), ("apples", 6)], "apple", 100, 0),
    ([("  tv ", 10)], "tv", 100, 0),
    ([("none", 3), ("0", 7)], "zero", 100, None),
]


class Transcribed:
    """The official rule written out line by line as in GT-Vision-Lab/VQA, vqaEval.py (BSD-2, VT Vision Lab)."""

    contractions: ClassVar = {
        "aint": "ain't", "arent": "aren't", "cant": "can't", "couldve": "could've", "couldnt": "couldn't",
        "couldn'tve": "couldn't've", "couldnt've": "couldn't've", "didnt": "didn't", "doesnt": "doesn't", "dont": "don't",
        "hadnt": "hadn't", "hadnt've": "hadn't've", "hadn'tve": "hadn't've", "hasnt": "hasn't", "havent": "haven't",
        "hed": "he'd", "hed've": "he'd've", "he'dve": "he'd've", "hes": "he's", "howd": "how'd", "howll": "how'll",
        "hows": "how's", "Id've": "I'd've", "I'dve": "I'd've", "Im": "I'm", "Ive": "I've", "isnt": "isn't", "itd": "it'd",
        "itd've": "it'd've", "it'dve": "it'd've", "itll": "it'll", "let's": "let's", "maam": "ma'am", "mightnt": "mightn't",
        "mightnt've": "mightn't've", "mightn'tve": "mightn't've", "mightve": "might've", "mustnt": "mustn't",
        "mustve": "must've", "neednt": "needn't", "notve": "not've", "oclock": "o'clock", "oughtnt": "oughtn't",
        "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at", "shant": "shan't", "shed've": "she'd've",
        "she'dve": "she'd've", "she's": "she's", "shouldve": "should've", "shouldnt": "shouldn't",
        "shouldnt've": "shouldn't've", "shouldn'tve": "shouldn't've", "somebody'd": "somebodyd",
        "somebodyd've": "somebody'd've", "somebody'dve": "somebody'd've", "somebodyll": "somebody'll",
        "somebodys": "somebody's", "someoned": "someone'd", "someoned've": "someone'd've", "someone'dve": "someone'd've",
        "someonell": "someone'll", "someones": "someone's", "somethingd": "something'd",
        "somethingd've": "something'd've", "something'dve": "something'd've", "somethingll": "something'll",
        "thats": "that's", "thered": "there'd", "thered've": "there'd've", "there'dve": "there'd've",
        "therere": "there're", "theres": "there's", "theyd": "they'd", "theyd've": "they'd've", "they'dve": "they'd've",
        "theyll": "they'll", "theyre": "they're", "theyve": "they've", "twas": "'twas", "wasnt": "wasn't",
        "wed've": "we'd've", "we'dve": "we'd've", "weve": "we've", "werent": "weren't", "whatll": "what'll",
        "whatre": "what're", "whats": "what's", "whatve": "what've", "whens": "when's", "whered": "where'd",
        "wheres": "where's", "whereve": "where've", "whod": "who'd", "whod've": "who'd've", "who'dve": "who'd've",
        "wholl": "who'll", "whos": "who's", "whove": "who've", "whyll": "why'll", "whyre": "why're", "whys": "why's",
        "wont": "won't", "wouldve": "would've", "wouldnt": "wouldn't", "wouldnt've": "wouldn't've",
        "wouldn'tve": "wouldn't've", "yall": "y'all", "yall'll": "y'all'll", "y'allll": "y'all'll",
        "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've", "youd": "you'd",
        "youd've": "you'd've", "you'dve": "you'd've", "youll": "you'll", "youre": "you're", "youve": "you've",
    }  # fmt: skip
    manual: ClassVar = {
        "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
        "eight": "8", "nine": "9", "ten": "10",
    }  # fmt: skip
    period = re.compile(r"(?!<=\d)(\.)(?!\d)")
    comma = re.compile(r"(\d)(\,)(\d)")
    punct: ClassVar = [
        ";",
        r"/",
        "[",
        "]",
        '"',
        "{",
        "}",
        "(",
        ")",
        "=",
        "+",
        "\\",
        "_",
        "-",
        ">",
        "<",
        "@",
        "`",
        ",",
        "?",
        "!",
    ]

    def punctuation(self, text: str) -> str:
        out = text
        for p in self.punct:
            if (p + " " in text or " " + p in text) or (re.search(self.comma, text) is not None):
                out = out.replace(p, "")
            else:
                out = out.replace(p, " ")
        return re.sub(self.period, "", out, count=int(re.UNICODE))

    def digits(self, text: str) -> str:
        out = []
        for word in text.lower().split():
            word = self.manual.setdefault(word, word)
            if word not in ["a", "an", "the"]:
                out.append(word)
        for place, word in enumerate(out):
            if word in self.contractions:
                out[place] = self.contractions[word]
        return " ".join(out)

    def accuracy(self, answer: str, truths: list[str], *, before_2021: bool = False) -> float:
        gts = [{"answer": truth, "answer_id": i + 1} for i, truth in enumerate(truths)]
        if not before_2021:
            for truth in gts:
                truth["answer"] = truth["answer"].replace("\n", " ").replace("\t", " ").strip()
        said = answer.replace("\n", " ").replace("\t", " ").strip()
        if before_2021:
            said = self.digits(self.punctuation(said))
        if len({truth["answer"] for truth in gts}) > 1:
            for truth in gts:
                truth["answer"] = self.punctuation(truth["answer"])
                if not before_2021:
                    truth["answer"] = self.digits(truth["answer"])
            if not before_2021:
                said = self.digits(self.punctuation(said))
        each = []
        for truth in gts:
            others = [item for item in gts if item != truth]
            matching = [item for item in others if item["answer"] == said]
            each.append(min(1, float(len(matching)) / 3))
        return float(sum(each)) / len(each)


def spread(numbered: list[tuple[str, int]]) -> list[str]:
    return [text for text, number in numbered for _ in range(number)]


@pytest.mark.parametrize(("numbered", "prediction", "official", "lavis"), GOLDEN)
def test_golden_cases(numbered: list[tuple[str, int]], prediction: str, official: int, lavis: int | None) -> None:
    answers = spread(numbered)
    assert round(100 * vqa_accuracy(prediction, answers), 2) == official
    if lavis is not None:
        assert round(100 * vqa_accuracy(prediction, answers, rule="lavis"), 2) == lavis


@pytest.mark.parametrize(("matches", "value"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (5, 100), (6, 100)])
def test_matches_make_these_accuracies(matches: int, value: int) -> None:
    answers = ["yes"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert score_vqa({1: "yes"}, {1: answers})["accuracy"] == value


def made_up(draw: random.Random) -> str:
    parts = [
        "yes",
        "No",
        "two",
        "2",
        "none",
        "a",
        "the",
        "dont",
        "don't",
        "isnt",
        "1,000",
        "1.5",
        "5.",
        "..",
        "t-shirt",
        "-",
    ]
    parts += [
        "u.s.",
        "(red)",
        "red/blue",
        "what?",
        "!",
        ",",
        "\t",
        "\n",
        "hadn'tve",
        "ow's'at",
        "é",
        "Ten",
        "tv",
        "`",
        "@",
    ]
    return "".join(draw.choice(parts) + draw.choice(["", " ", " "]) for _ in range(draw.randint(1, 3)))


def cases(count: int) -> list[tuple[str, list[str]]]:
    draw = random.Random(20)
    out = []
    for _ in range(count):
        pool = [made_up(draw) for _ in range(draw.randint(1, 4))]
        variants = [*pool, pool[0].upper(), pool[0].strip() + ".", pool[0].replace(" ", "")]
        out.append((draw.choice(variants), draw.choices(pool if draw.random() < 0.7 else variants, k=10)))
    return out


def test_five_thousand_cases_equal_the_transcribed_rule_exactly() -> None:
    rule, all_cases = Transcribed(), cases(5000)
    assert len(all_cases) == 5000
    for said, answers in all_cases:
        assert vqa_accuracy(said, answers) == rule.accuracy(said, answers), (said, answers)
        assert vqa_accuracy(said, answers, rule="lavis") == rule.accuracy(said, answers, before_2021=True), (
            said,
            answers,
        )


def test_every_contraction_equals_the_transcribed_one() -> None:
    rule = Transcribed()
    assert len(rule.contractions) > 110
    for word in [*rule.contractions, *rule.contractions.values()]:
        assert vqa_accuracy(word, [rule.digits(word)] * 4 + ["x"] * 6) == rule.accuracy(
            word, [rule.digits(word)] * 4 + ["x"] * 6
        )


def test_the_rules_differ() -> None:
    """Negative control: the three rules are three."""
    found = np.array([[vqa_accuracy(said, answers, rule=rule) for rule in RULES] for said, answers in cases(500)])
    assert all((found[:, a] != found[:, b]).sum() > 10 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_only_thirty_two_periods_are_dropped() -> None:
    answers = ["." * 32 + "x"] * 5 + ["y"] * 5
    assert vqa_accuracy("x", answers) == 1
    assert vqa_accuracy("x", ["." * 33 + "x"] * 5 + ["y"] * 5) == 0


@given(st.text(max_size=12), st.lists(st.text(max_size=12), min_size=1, max_size=10), st.sampled_from(RULES))
def test_an_accuracy_lies_between_0_and_1_and_knows_no_order(said: str, answers: list[str], rule: str) -> None:
    value = vqa_accuracy(said, answers, rule=rule)
    assert 0 <= value <= 1
    assert_allclose(vqa_accuracy(said, answers[::-1], rule=rule), value)


def official_file(questions: int = 40) -> tuple[dict, list[dict]]:
    draw, entries, said = random.Random(3), [], []
    for i, (prediction, answers) in enumerate(cases(questions)):
        listed = [{"answer": text, "answer_confidence": "yes", "answer_id": k + 1} for k, text in enumerate(answers)]
        types = {
            "answer_type": draw.choice(["yes/no", "number", "other"]),
            "question_type": draw.choice(["is", "what"]),
        }
        entries.append(
            {"question_id": i, "image_id": i // 4, "multiple_choice_answer": "x", "answers": listed, **types}
        )
        said.append({"question_id": i, "answer": prediction})
    return {"info": {}, "data_type": "mscoco", "annotations": entries}, said


def test_a_file_scores_as_the_official_code_scores_it() -> None:
    file, said = official_file()
    predictions = {entry["question_id"]: entry["answer"] for entry in said}
    scores = score_vqa(predictions, file, per_sample=True)
    rule = Transcribed()
    each = [
        rule.accuracy(predictions[e["question_id"]], [a["answer"] for a in e["answers"]]) for e in file["annotations"]
    ]
    assert scores["accuracy"] == round(100 * float(sum(each)) / len(each), 2)
    for field in ("answer_type", "question_type"):
        for kind in {entry[field] for entry in file["annotations"]}:
            some = [value for value, entry in zip(each, file["annotations"], strict=True) if entry[field] == kind]
            expected = round(100 * float(sum(some)) / len(some), 2)
            assert scores[f"{field.replace('_', ' ')}: {kind}"] == expected
    assert scores.samples["accuracy"].tolist() == [round(100 * value, 2) for value in each]
    assert (scores.rule, scores.unit, scores.images, len(scores.ids)) == ("official", "%", 10, 40)
    assert scores.values == score_vqa(predictions, file["annotations"]).values


def test_intervals_draw_images_with_all_their_questions() -> None:
    clustered = {i: Question(("yes",) * 10, image=str(i // 10)) for i in range(100)}
    said = {i: "yes" if i // 10 % 2 else "no" for i in range(100)}
    alone = {i: question.answers for i, question in clustered.items()}
    wide, narrow = score_vqa(said, clustered), score_vqa(said, alone)
    assert wide["accuracy"] == narrow["accuracy"] == 50
    ratio = np.ptp(wide.intervals["accuracy"]) / np.ptp(narrow.intervals["accuracy"])
    assert 2 < ratio < 4.5


def test_two_runs_differ_with_a_paired_interval() -> None:
    file, said = official_file()
    a = score_vqa({entry["question_id"]: entry["answer"] for entry in said}, file)
    b = score_vqa({entry["question_id"]: "nothing of it" for entry in said}, file)
    gap = a.minus(b)
    assert gap["accuracy"] == pytest.approx(a["accuracy"] - b["accuracy"], abs=0.01)
    assert gap.intervals["accuracy"].low > 0
    assert json.dumps(a.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("said", "given", "match"),
    [
        ({1: "a"}, {1: ["a"] * 10, 2: ["b"] * 10}, r"1 of 2 ids have no prediction \(2\)"),
        ({1: "a", 2: "b"}, {1: ["a"] * 10}, r"1 of 2 predictions have no annotations \(2\)"),
        ({1: 5}, {1: ["5"] * 10}, "1 of 1 answers are not text, such as 5 for 1"),
        ({1: "a"}, {1: []}, "1 of 1 questions have no answers: 1"),
        ({1: "a"}, {1: "aaaaaaaaaa"}, "question 1 has 'aaaaaaaaaa' where a list of answers was expected"),
        ({}, {}, "nothing to score"),
        ({1: "a"}, [{"question_id": 1, "question": "what?"}], "entry 0 of the annotations has question_id, question"),
        ({1: "a"}, {"annotations": [7]}, "entry 0 of the annotations has 7"),
        ({1: "a"}, {"annotations": 7}, "annotations are int where a list or a mapping"),
        (
            {1: "a"},
            [{"question_id": 1, "answers": [{"answer": "a"}]}] * 2,
            "1 of 1 ids have more than one of the annotations",
        ),
    ],
)
def test_faulty_input_is_named(said: dict, given: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        score_vqa(said, given)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UnknownName, match="no VQA rule 'strict'; the rules are official, lavis, always"):
        score_vqa({1: "a"}, {1: ["a"]}, rule="strict")
    with pytest.raises(UnknownName, match="no VQA rule"):
        vqa_accuracy("a", ["a"], rule="strict")
