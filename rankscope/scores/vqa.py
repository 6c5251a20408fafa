r"""VQA accuracy: how far ten people agree with an answer.

With one annotator left out, an answer that k of the other nine gave counts :math:`\min(1, k / 3)`; the accuracy of the
question is the mean over the ten ways of leaving one out. So an answer of 0, 1, 2, 3 or 4 annotators scores 0, 0.3, 0.6,
0.9 or 1.

Antol et al., "VQA", ICCV 2015, section 4, and Goyal et al., CVPR 2017. The normalisation of answers is that of the
official evaluation code (GT-Vision-Lab/VQA, ``vqaEval.py``) with its quirks, because published numbers contain them:

* where all ten annotators agree letter for letter, nothing is normalised, so ``Yes`` scores 0 against ten ``yes``;
* a period is dropped unless a digit follows, whatever comes before it, and at most 32 of them are;
* a punctuation mark is deleted if it is next to a space anywhere in the answer, or if the answer has a comma
  between digits; otherwise it becomes a space;
* lower-casing comes with the numerals and articles, after the punctuation;
* ``none`` becomes ``0`` and ``ten`` becomes ``10``; ``eleven`` stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, get_args

from rankscope.errors import UnknownName

Rule = Literal["official", "lavis", "always"]
"""How answers are normalised. ``official``: as the evaluation server has done since 2021. ``lavis``: as it did before, and
LAVIS does; the prediction is always normalised, the annotators' answers lose only their punctuation. ``always``: both are
always normalised, as in lmms-eval."""
RULES: tuple[Rule, ...] = get_args(Rule)
"""The names of the rules, the default first."""

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the official code passes re.UNICODE where re.sub takes a count
_DIGITS_AND_COMMA = re.compile(r"\d,\d")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMERALS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}

_ONE_APOSTROPHE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't "
    "it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't "
    "somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's "
    "they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's "
    "where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"
)
_TWO_APOSTROPHES = (
    "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've "
    "there'd've they'd've we'd've who'd've wouldn't've you'd've"
)
_ODD = {
    "somebody'd": "somebodyd",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
}


def _contractions() -> dict[str, str]:
    """Contractions by their spelling with one apostrophe left out."""
    once = {word.replace("'", ""): word for word in _ONE_APOSTROPHE.split()}
    parts = [(word, word.split("'")) for word in _TWO_APOSTROPHES.split()]
    twice = {key: word for word, (a, b, c) in parts for key in (f"{a}{b}'{c}", f"{a}'{b}{c}")}
    return once | twice | _ODD


_CONTRACTIONS = _contractions()


def strip_answer(answer: str) -> str:
    """An answer with line breaks and tabs made spaces, and no space around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def drop_punctuation(answer: str) -> str:
    """An answer without punctuation, by the official code's rules; see the module's list of quirks."""
    number = _DIGITS_AND_COMMA.search(answer) is not None
    out = answer
    for mark in _MARKS:  # the tests look at the original answer, not at what earlier marks left of it
        beside_space = mark + " " in answer or " " + mark in answer
        out = out.replace(mark, "" if number or beside_space else " ")
    return _PERIOD.sub("", out, count=_MOST_PERIODS)


def plain_words(answer: str) -> str:
    """An answer in lower case, with numerals as digits, without articles, and contractions with their apostrophe."""
    words = [_NUMERALS.get(word, word) for word in answer.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=2**16)
def normalise(answer: str) -> str:
    """An answer after both steps, punctuation first, as the official code treats it where annotators differ."""
    return plain_words(drop_punctuation(answer))


def _official(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    stripped = [strip_answer(answer) for answer in answers]
    if len(set(stripped)) > 1:
        return normalise(strip_answer(prediction)), [normalise(answer) for answer in stripped]
    return strip_answer(prediction), stripped


def _lavis(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    differ = len(set(answers)) > 1
    return normalise(strip_answer(prediction)), [drop_punctuation(a) if differ else a for a in answers]


def _always(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    return normalise(strip_answer(prediction)), [normalise(strip_answer(answer)) for answer in answers]


_NORMALISED: Mapping[str, Callable[[str, Sequence[str]], tuple[str, list[str]]]] = {
    "official": _official,
    "lavis": _lavis,
    "always": _always,
}


def vqa_accuracy(
    prediction: str, answers: Sequence[str], *, rule: str = "official", scores: Sequence[float] | None = None
) -> float:
    """The accuracy of one answer.

    Args:
        prediction: the answer to be scored.
        answers: ``(m,)`` the annotators' answers, ten in VQAv2; at least one. With ``scores``, different answers.
        rule: one of :data:`RULES`.
        scores: ``(m,)`` the score of each answer, where the data give one and no annotators: 0.3, 0.6, 0.9 or 1 for one,
            two, three, four or more of ten annotators. Any other answer scores 0.

    Returns:
        A number in [0, 1].

    Raises:
        UnknownName: if there is no such rule.
    """
    if rule not in _NORMALISED:
        raise UnknownName(f"there is no VQA rule {rule!r}; the rules are {', '.join(RULES)}")
    predicted, given = _NORMALISED[rule](prediction, answers)
    if scores is not None:
        return max((score for answer, score in zip(given, scores, strict=True) if answer == predicted), default=0.0)
    matches = given.count(predicted)
    # Leaving out an annotator who agrees leaves matches - 1 others who do; leaving out any other leaves all of them.
    return sum(min(1.0, (matches - (answer == predicted)) / 3) for answer in given) / len(given)
