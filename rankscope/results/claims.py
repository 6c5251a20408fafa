"""What a comparison of two runs found: a claim for each of the four meanings of rank collapse, in data and in words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rankscope.results.record import N_LIMITED, Estimate, R, Span, Table

if TYPE_CHECKING:
    from rankscope.results.runs import PairRecord

Meaning = Literal["reshaped", "turned", "lost", "drifted"]
State = Literal["shown", "kept", "open"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the numbers say of one meaning, of one run against another, by the rules of :mod:`rankscope.results.judging`."""

    meaning: Meaning
    """The meaning of rank collapse that was looked at."""
    run: str
    """The run that changed."""
    against: str
    """The run that it is compared with: the base or, for the difference of two, the first of them."""
    state: State
    """``shown`` somewhere, ``kept`` everywhere, or ``open``."""
    sentence: str
    """All this in words."""
    brief: str
    """The same in brief, without who and what."""
    why: str
    """Why it is open; empty where it is not."""
    measure: str
    """The measure that is quoted."""
    site: str
    """The site where the change is largest; if it is shown, of the sites where it is."""
    value: float
    """The number of the run there."""
    before: float | None
    """The number of the run compared with; None for a relation with the base, which is held against ``itself``."""
    change: Estimate
    """The change with its interval; for a relation with the base the relation itself."""
    percent: Estimate
    """The change as a share of ``before`` with its interval; None where that has no meaning."""
    noise: float | None
    """What noise of the same shape scores there; for a relation the second run with its samples shuffled."""
    itself: float | None
    """What the reference scores against itself there."""
    sites: tuple[str, ...]
    """The sites at which it is shown."""
    fell: tuple[str, ...]
    """Those of them at which the number fell."""
    much: tuple[str, ...]
    """Those of them at which it is a tenth or more: of the base's number, or of all."""
    looked_at: int
    """The number of sites that have the number."""
    seeds_known: bool = False
    """Whether it is known what another seed would give. Of two runs it never is."""


@dataclass(frozen=True)
class Brief:
    """What was found of one run against another, for the first glance."""

    lead: str
    """What tells most, with its site and its numbers, in one sentence."""
    lines: dict[str, str]
    """Meaning → what was found of it, in a few words; empty where two runs show no difference."""


@dataclass(frozen=True)
class Account:
    """All that was found, as ``verdict`` of a result gives it."""

    headline: str
    """The words of the verdict in one line."""
    sentences: tuple[str, ...]
    """What was found; each sentence is complete by itself."""
    claims: tuple[Claim, ...] = ()
    """The same as data, one for each meaning and pair of runs; empty for a single run."""
    briefs: tuple[Brief, ...] = ()
    """The same in brief, one for each pair of runs; empty where there are no claims."""
    proviso: str = ""
    """What these numbers cannot tell; the last of the sentences."""

    @property
    def quoted(self) -> tuple[str, ...]:
        """The sites at which changes that are shown are quoted, in the order of the claims."""
        return tuple(one.site for one in self.claims if one.state == "shown")

    def to_json(self) -> dict[str, Any]:
        """The same as what JSON holds."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


class Judged(Table[R]):
    """A result with a verdict."""

    notes: tuple[str, ...]
    """Cautions that belong to the whole result."""

    @property
    def verdict(self) -> Account:
        """What was found, in sentences."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """What was found, the notes and the records, as plain values."""
        return {"verdict": self.verdict.to_json(), "notes": list(self.notes), "records": self.to_records()}


class Subject(NamedTuple):
    """Who is compared with whom."""

    run: str
    """The run that changed."""
    against: str
    """The run that it is compared with."""
    reference: str
    """The run that relations start from."""
    column: Literal["a", "b", "pair", "difference"]
    """Where a record has the numbers: a run against the base, the second against the first, or the second less the first."""
    again: bool
    """Whether the reference against itself is two readings of the same rows, rather than two halves of them."""

    @property
    def of_runs(self) -> bool:
        """Whether two runs are compared of which neither is the reference."""
        return self.column == "difference"


class Quoted(NamedTuple):
    """What a record says of a subject."""

    record: PairRecord
    """The record."""
    before: float | None
    """The number of the run compared with; None for a relation with the reference."""
    after: float
    """The number of the run."""
    change: Estimate
    """``after - before`` with its interval, or the relation."""
    band: Span
    """The band of the change over all sites."""
    percent: Estimate
    """The change as a share of ``before``."""

    @property
    def limited(self) -> bool:
        """Whether rows are too few for the number."""
        return is_limited(self.record.notes)


def is_limited(notes: Iterable[str]) -> bool:
    """Whether one of a record's notes says that its rows are too few, so that it also measures their number."""
    return any(note.startswith(N_LIMITED) for note in notes)
