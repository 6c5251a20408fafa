"""The small grammar of scenes: captions of a scene, and questions about it.

There are two manners. *Plain* is what the embedded checkpoint was pre-trained on: numerals, the colour before the digit,
questions about single digits. *Told* is the downstream manner: numbers spelled out, the colour after them, questions that
compare, add and count. A told text is made of words seen in pre-training, in an order hardly seen there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen")  # fmt: skip
"""Numbers spelled out: two digits add up to at most eighteen."""
PLACES = (("top-left", "top", "top-right"), ("left", "centre", "right"), ("bottom-left", "bottom", "bottom-right"))
"""The names of the cells of the three-by-three grid."""
INKS = ("red", "green", "blue", "yellow", "purple", "orange")
"""The colours of digits."""
CAPTION = "describe the scene :"
"""The prompt of a caption."""

Chance = Callable[[int], int]
"""Draws a number in 0…n-1."""


@dataclass(frozen=True)
class Digit:
    """One digit of a scene."""

    value: int
    """Its value, 0…9."""
    ink: str
    """The name of its colour."""
    row: int
    """The row of its cell, 0 (top)…2."""
    column: int
    """The column of its cell, 0 (left)…2."""

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return PLACES[self.row][self.column]

    @property
    def plain(self) -> str:
        """Colour and numeral: ``red 7``."""
        return f"{self.ink} {self.value}"

    @property
    def one(self) -> str:
        """Colour and numeral with their article: ``an orange 7``."""
        return f"{'an' if self.ink[0] in 'aeiou' else 'a'} {self.plain}"

    @property
    def told(self) -> str:
        """The number spelled out, and its colour: ``seven in red``."""
        return f"{WORDS[self.value]} in {self.ink}"


class Asked(NamedTuple):
    """A question and its answer."""

    kind: str
    """The kind of question, in words: ``count of a colour``."""
    text: str
    """The question."""
    answer: str
    """The answer."""


def _list(parts: Sequence[str]) -> str:
    """The parts, joined by "and"."""
    return " and ".join(parts)


def _chain(digits: Sequence[Digit], say: Callable[[Digit], str]) -> str:
    """Each digit and the relation of the next to it: ``a left of b above c``."""
    words = [say(digits[0])]
    for a, b in pairwise(digits):
        words += ["left of" if a.row == b.row else "above", say(b)]
    return " ".join(words)


def plain_captions(digits: Sequence[Digit], ground: str) -> tuple[str, ...]:
    """Four captions of one scene in the plain manner; ``digits`` in reading order."""
    largest = max(digits, key=lambda d: d.value)
    return (
        _list([f"{d.place} {d.one}" for d in digits]),
        _chain(digits, lambda d: d.one),
        f"{len(digits)} digits on {ground} " + _list([d.one for d in digits]),
        f"a {ground} scene with "
        + _list([f"{d.value} {d.place}" for d in digits])
        + f" the largest is {largest.value}",
    )


def told_captions(digits: Sequence[Digit], ground: str) -> tuple[str, ...]:
    """Four captions of one scene in the told manner; ``digits`` in reading order."""
    columns = sorted(digits, key=lambda d: (d.column, d.row))
    low, high = min(d.value for d in digits), max(d.value for d in digits)
    return (
        f"on {ground} there is " + _list([f"{d.told} {d.place}" for d in digits]),
        f"{WORDS[len(digits)]} digits on {ground} from the left " + _list([d.told for d in columns]),
        f"on {ground} " + _chain(digits, lambda d: d.told),
        f"{WORDS[len(digits)]} digits on {ground} the smallest is {WORDS[low]} the largest is {WORDS[high]} "
        + _list([f"{WORDS[d.value]} {d.place}" for d in digits]),
    )


def _single(digits: Sequence[Digit]) -> list[Digit]:
    """The digits whose value no other digit has, so that a question can name them by it."""
    values = [d.value for d in digits]
    return [d for d in digits if values.count(d.value) == 1]


def _pick(items: Sequence[Digit], draw: Chance) -> Digit:
    return items[draw(len(items))]


def _two(digits: Sequence[Digit], draw: Chance) -> tuple[Digit, Digit]:
    """Two different digits, in either order."""
    first = draw(len(digits))
    second = (first + 1 + draw(len(digits) - 1)) % len(digits)
    return digits[first], digits[second]


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def which(digits: Sequence[Digit], draw: Chance) -> Asked:
    """Which digit is at a place."""
    d = _pick(digits, draw)
    return Asked("which", f"which is the {d.place} digit ?", str(d.value))


def colour(digits: Sequence[Digit], draw: Chance) -> Asked:
    """The colour of the digit at a place."""
    d = _pick(digits, draw)
    return Asked("colour", f"what colour is the {d.place} digit ?", d.ink)


def where(digits: Sequence[Digit], draw: Chance) -> Asked:
    """The place of a digit that occurs once."""
    d = _pick(_single(digits), draw)
    return Asked("where", f"where is the {d.value} ?", d.place)


def colour_of(digits: Sequence[Digit], draw: Chance) -> Asked:
    """The colour of a digit that occurs once."""
    d = _pick(_single(digits), draw)
    return Asked("colour of", f"what colour is the {d.value} ?", d.ink)


def count(digits: Sequence[Digit], draw: Chance) -> Asked:
    """How many digits there are."""
    return Asked("count", "how many digits are there ?", str(len(digits)))


def exists(digits: Sequence[Digit], draw: Chance) -> Asked:
    """Whether a digit is there; yes and no are equally likely."""
    present = sorted({d.value for d in digits})
    asked = present if draw(2) else [v for v in range(10) if v not in present]
    value = asked[draw(len(asked))]
    return Asked("exists", f"is there a {value} ?", _yes(value in present))


def relation(digits: Sequence[Digit], draw: Chance) -> Asked:
    """Whether one digit is left of, or above, another; the two must differ in colour or number."""
    a, b = _two(digits, draw)
    if a.plain == b.plain:
        return which(digits, draw)
    word, truth = ("left of", a.column < b.column) if draw(2) else ("above", a.row < b.row)
    return Asked("relation", f"is the {a.plain} {word} the {b.plain} ?", _yes(truth))


def parity(digits: Sequence[Digit], draw: Chance) -> Asked:
    """Whether the digit at a place is even or odd."""
    d = _pick(digits, draw)
    return Asked("parity", f"is the {d.place} digit even or odd ?", "odd" if d.value % 2 else "even")


def largest(digits: Sequence[Digit], draw: Chance) -> Asked:
    """The largest or the smallest digit."""
    word, value = (("largest", max), ("smallest", min))[draw(2)]
    return Asked("largest", f"which digit is the {word} ?", str(value(d.value for d in digits)))


def larger(digits: Sequence[Digit], draw: Chance) -> Asked:
    """Whether the digit at one place is larger than that at another."""
    a, b = _two(digits, draw)
    return Asked("larger", f"is the {a.place} digit larger than the {b.place} digit ?", _yes(a.value > b.value))


def total(digits: Sequence[Digit], draw: Chance) -> Asked:
    """The sum of two digits."""
    a, b = _two(digits, draw)
    return Asked("sum", f"what is the sum of the {a.place} digit and the {b.place} digit ?", str(a.value + b.value))


def count_ink(digits: Sequence[Digit], draw: Chance) -> Asked:
    """How many digits have a colour; in three of four cases a colour of the scene."""
    ink = _pick(digits, draw).ink if draw(4) else INKS[draw(len(INKS))]
    return Asked("count of a colour", f"how many digits are {ink} ?", str(sum(d.ink == ink for d in digits)))


PLAIN = (which, which, colour, colour_of, where, count, exists, relation)
"""The kinds of question of pre-training; a kind that is listed twice is asked twice as often."""
TOLD = (parity, largest, larger, total, count_ink)
"""The kinds of question of the downstream task."""


def ask(kinds: Sequence[Callable[[Sequence[Digit], Chance], Asked]], digits: Sequence[Digit], draw: Chance) -> Asked:
    """A question of one of ``kinds`` about the digits; ``which`` replaces a kind that needs a digit that occurs once, if none does."""
    kind = kinds[draw(len(kinds))]
    if kind in (where, colour_of) and not _single(digits):
        kind = which
    return kind(digits, draw)
