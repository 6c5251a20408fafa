"""What the change between two runs means: the samples and tokens that moved most, and the words that its directions say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rankscope.notebook import paragraphs, table
from rankscope.results.record import Estimate, Estimated, Table
from rankscope.results.wording import interval, number

WIDTH = 80
"""Columns into which the small tables fit."""
_NAMES = 20
"""The longest name of a sample or an image in them."""

What = Literal["site", "mean", "direction", "sample", "token"]
"""What a record is of: the whole change at the site, its mean, one of its principal directions, a sample, or a token."""


@dataclass(frozen=True)
class ExampleRecord(Estimated):
    """One number of the change at a site, and what is known of the sample, token or direction that has it."""

    what: What
    """What it is the number of."""
    site: str
    """The site, as ``decoder.3``."""
    measure: str
    """The name of the comparison; for a sample or a token its part in ``drift``."""
    estimate: Estimate
    """The number with its interval; those of single samples and tokens have none. The mean of ``drift`` over all rows is that of the
    site."""
    unit: str
    """The unit of the value."""
    noise: float | None = None
    """What a change without preferred direction of the same shape scores, or the change between two seeds where one was given."""
    direction: int | None = None
    """Which principal direction of the change, from 1."""
    promotes: tuple[str, ...] = ()
    """The words whose logits rise most along it, the first one most; empty without a head."""
    suppresses: tuple[str, ...] = ()
    """The words whose logits fall most."""
    outlying: float | None = None
    """By how many standard deviations over the vocabulary the logit of the first word stands out."""
    outlying_of_noise: float | None = None
    """The same for random directions of the same length, on average: the first word of a direction that means nothing."""
    sample: str | None = None
    """The id of the sample."""
    rows: int | None = None
    """Rows of the sample."""
    position: int | None = None
    """The token's position among the real ones of its sample."""
    role: str | None = None
    """Its role: text, image, answer, …"""
    token: str | None = None
    """The token; None where the row is none, or the tokenizer is not at hand."""
    context: str | None = None
    """The token in brackets, and its neighbours."""
    text: str | None = None
    """The sample's text; None where the data are not at hand."""
    target: str | None = None
    """Its most frequent target."""
    image: str | None = None
    """The path of its image, or what else its image is called."""
    notes: tuple[str, ...] = ()
    """Cautions that belong to it."""
    run: str = ""
    """The name of the tuned run."""
    run_base: str = ""
    """The name of the run that it is compared with."""


class Listing(NamedTuple):
    """A small table, the last column of which is text."""

    title: str
    """What it shows."""
    columns: tuple[str, ...]
    """The heads of the columns."""
    rows: tuple[tuple[str, ...], ...]
    """The cells."""


@dataclass(frozen=True, repr=False)
class Examples(Table[ExampleRecord]):
    """What moved most at one site, and where to: a record each."""

    site: str
    """The site."""
    names: tuple[str, str]
    """The base and the tuned run."""
    notes: tuple[str, ...] = ()
    """What is not at hand, and what the words cannot tell."""

    def only(self, *kinds: What) -> tuple[ExampleRecord, ...]:
        """The records of some kinds, in their order: samples and tokens by their drift, directions by their share."""
        return tuple(r for r in self.records if r.what in kinds)

    def listings(self) -> list[Listing]:
        """The small tables: samples, tokens, directions; without those that are empty."""
        drift, rank = self.only("site")
        base, tuned = self.names
        title = (
            f"What moved most: {self.site} of {tuned} against {base}; drift {interval(drift.estimate)}, in "
            f"{interval(rank.estimate)} effective directions (noise {number(rank.noise)})"
        )
        made = [
            Listing(title, ("drift", "sample", "text"), tuple(map(_sample, self.only("sample")))),
            Listing("", ("drift", "sample", "place", "token"), tuple(map(_token, self.only("token")))),
            Listing(
                "Where to: the mean, with its share of the change, and directions, with theirs of the rest; of noise; by how many "
                "deviations the first word stands out, and that of noise; more likely (+) and less likely (−) words",
                ("direction", "share in %", "noise", "first word", "words"),
                tuple(line for r in self.only("mean", "direction") for line in _direction(r)),
            ),
        ]
        return [one._replace(rows=_fitting(one.columns, one.rows)) for one in made if one.rows]

    def _repr_html_(self) -> str:
        shown = "".join(paragraphs([one.title]) + table(one.columns, one.rows) for one in self.listings())
        return shown + paragraphs(self.notes)

    def __repr__(self) -> str:
        counts = f"{len(self.only('sample'))} samples and {len(self.only('token'))} tokens"
        return f"<{type(self).__name__}: {counts} that moved most at {self.site}; to_frame()>"


def _sample(r: ExampleRecord) -> tuple[str, ...]:
    said = " → ".join(filter(None, (r.text, r.target)))
    return number(r.value), _end(r.sample), " ".join(filter(None, (f"[{_end(r.image)}]" if r.image else "", said)))


def _token(r: ExampleRecord) -> tuple[str, ...]:
    return number(r.value), _end(r.sample), f"{r.role} {r.position}", r.context or ""


def _direction(r: ExampleRecord) -> list[tuple[str, ...]]:
    value, low, high = (None if x is None else 100 * x for x in (r.value, r.low, r.high))
    up, down = (", ".join(map(_shown, some)) for some in (r.promotes, r.suppresses))
    cells = ("mean" if r.direction is None else str(r.direction), interval(Estimate(value, low, high)))
    noise = number(None if r.noise is None else 100 * r.noise)
    if not up:
        return [(*cells, noise, "–", "")]
    return [(*cells, noise, f"{r.outlying:.1f} ({r.outlying_of_noise:.1f})", f"+ {up}"), ("", "", "", "", f"− {down}")]


def _shown(word: str) -> str:
    """A word as it is listed: without the space before it, or quoted where nothing else is in it that can be shown."""
    plain = word.strip()
    return plain if plain.isprintable() and plain else repr(word)


def _line(text: str) -> str:
    return " ".join(text.split())


def _end(name: str | None) -> str:
    """A name, or its end where it is long."""
    name = name or ""
    return name if len(name) <= _NAMES else f"…{name[1 - _NAMES :]}"


def _fitting(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """The rows with the text in their last column cut to what is left of :data:`WIDTH`."""
    left = WIDTH - sum(2 + max(map(len, cells)) for cells in list(zip(columns, *rows, strict=True))[:-1])
    lines = ((*row[:-1], _line(row[-1])) for row in rows)
    return tuple((*row, text if len(text) <= left else f"{text[: left - 1]}…") for *row, text in lines)
