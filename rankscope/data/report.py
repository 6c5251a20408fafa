"""What a reader found wrong: every fault in one pass, with counts and the first places.

A reader never stops at a bad row: it writes the fault into its :class:`Ledger` and goes on. ``open_data`` then refuses the whole
with all faults at once, before any model is loaded; ``check`` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rankscope.errors import DataError

PLACES = 5
"""How many places of one kind of fault are kept; the count is of all."""


@dataclass
class Problem:
    """One kind of fault, or of repair, in a data set."""

    kind: str
    """What is wrong, in words: ``image missing``."""
    count: int = 0
    """How often."""
    places: list[str] = field(default_factory=list)
    """The first places."""

    def add(self, place: str) -> None:
        """Counts one more."""
        self.count += 1
        if len(self.places) < PLACES:
            self.places.append(place)

    def __str__(self) -> str:
        more = "; …" if self.count > len(self.places) else ""
        return f"{self.count} × {self.kind} ({'; '.join(self.places)}{more})"


class Ledger:
    """Collects the faults (the data set is refused) and notices (repaired or harmless) of one reading."""

    def __init__(self) -> None:
        self.faults: dict[str, Problem] = {}
        self.notices: dict[str, Problem] = {}

    def fault(self, kind: str, place: str) -> None:
        """Something for which the data set is refused."""
        self.faults.setdefault(kind, Problem(kind)).add(place)

    def notice(self, kind: str, place: str) -> None:
        """Something that was repaired or left out, and that a person should know."""
        self.notices.setdefault(kind, Problem(kind)).add(place)

    def refuse(self, name: str) -> None:
        """Raises what was found.

        Raises:
            DataError: if there is any fault; the message counts every kind and names its first places.
        """
        if self.faults:
            found = "; ".join(map(str, self.faults.values()))
            raise DataError(f"{name} cannot be used: {found}. Repair these, or leave the rows out")


@dataclass(frozen=True)
class Report:
    """What ``check`` found."""

    path: str
    """What was checked."""
    format: str
    """The name of its format."""
    examples: int
    """How many examples were read."""
    splits: Mapping[str, int]
    """How many of them stand in each named split."""
    holds: Mapping[str, int]
    """How many ``images``, ``regions``, ``texts``, ``targets`` and ``labels`` the examples hold; what there is none of is left out."""
    faults: tuple[Problem, ...]
    """For these the data set is refused."""
    notices: tuple[Problem, ...]
    """These were repaired, or do no harm."""

    @property
    def good(self) -> bool:
        """Whether the data set can be used."""
        return not self.faults

    def records(self) -> list[dict[str, str | int | list[str]]]:
        """One flat record a problem: ``severity``, ``kind``, ``count``, ``places``."""
        both = [("fault", p) for p in self.faults] + [("notice", p) for p in self.notices]
        return [{"severity": s, "kind": p.kind, "count": p.count, "places": list(p.places)} for s, p in both]

    def to_json(self) -> dict[str, object]:
        """Everything as plain data; the problems as :meth:`records`."""
        names = ("path", "format", "examples", "good")
        told: dict[str, object] = {name: getattr(self, name) for name in names}
        return told | {"splits": dict(self.splits), "holds": dict(self.holds), "problems": self.records()}

    def __str__(self) -> str:
        splits = ", ".join(f"{name} {n}" for name, n in self.splits.items())
        lines = [f"{self.path}: {self.format}, {self.examples} examples" + (f" ({splits})" if splits else "")]
        lines[0] += f"; {', '.join(f'{count} {what}' for what, count in self.holds.items())}" if self.holds else ""
        lines += [f"  fault   {p}" for p in self.faults] + [f"  notice  {p}" for p in self.notices]
        return "\n".join(lines if len(lines) > 1 else [*lines, "  nothing wrong"])
