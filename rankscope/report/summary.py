"""What stands in the first screen of a report: who was compared, what was found, what to beware of, and a line a site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from rankscope.report.content import Extras
from rankscope.results.runs import Contrast, PairRecord

RANKS = ("participation-ratio", "participation-ratio-clustered", "entropy-rank", "roy-vetterli", "pt-peft")
"""The definitions of which the table shows the first that was measured."""
SHARES = ("recoverability", "overlap", "drift")
"""The relations that it shows."""


class Opposed(NamedTuple):
    """One run held against its reference, in one comparison."""

    run: str
    """The run."""
    reference: str
    """The base or, without one, the first run."""
    result: Contrast
    """The comparison."""
    column: str
    """Where its records have the numbers: ``a`` or ``b`` against the base, ``pair`` for the second against the first."""


def sides(results: Sequence[Contrast]) -> list[Opposed]:
    """Every run that is held against a reference."""
    found = []
    for result in results:
        a, b, *base = result.names
        found += (
            [Opposed(a, base[0], result, "a"), Opposed(b, base[0], result, "b")]
            if base
            else [Opposed(b, a, result, "pair")]
        )
    return found


def summary(results: Sequence[Contrast], extras: Extras) -> dict[str, Any]:
    """Everything that the template shows in words."""
    held = sides(results)
    first = results[0].records[0]
    reference = held[0].reference
    names = list(dict.fromkeys(side.run for side in held))
    verdicts = [v for result in results if (v := getattr(result, "verdict", None)) is not None]
    shape = f"{first.shape.n} rows of {first.shape.samples} samples × {first.shape.d} features, {first.shape.dtype}"
    facts = {
        "base": reference,
        "runs": ", ".join(names),
        "data and rows": results[0].rows,
        "at the first site": shape,
        "sites": str(len({r.site for r in results[0].records})),
        "measures": str(len(results[0].measures)),
        "intervals": f"over samples, by {first.interval_by or 'influence'}; paired where two runs are compared",
    }
    return {
        "title": f"{listed(names)} against {reference}",
        "headlines": [v.headline for v in verdicts],
        "sentences": list(dict.fromkeys(text for v in verdicts for text in v.sentences)),
        "facts": facts,
        "warnings": _warnings(results, extras),
        "columns": [f"{side.run}: {what}" for side in held for what in _columns(held, side)[1]],
        "reference": f"{rank_of(held[0])} of {reference}",
        "lines": _lines(held),
    }


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def rank_of(side: Opposed) -> str:
    """The rank that the table shows; empty where none was measured."""
    return next((name for name in RANKS if name in side.result.measures), "")


def _warnings(results: Sequence[Contrast], extras: Extras) -> list[str]:
    """The notes of the whole, then those of records, each once with the number of sites it concerns."""
    whole = [*dict.fromkeys(note for result in results for note in result.notes), *extras.notes]
    sites: dict[str, set[str]] = {}
    for result in results:
        for record in result.records:
            for note in record.notes:
                sites.setdefault(note, set()).add(record.site)
    ordered = Counter({note: len(at) for note, at in sites.items()}).most_common()
    return [*whole, *(f"{note} ({count} site{'s' * (count != 1)})" for note, count in ordered)]


def _columns(held: Sequence[Opposed], side: Opposed) -> tuple[str, list[str]]:
    rank = rank_of(side)
    return rank, [*([rank, "change"] if rank else []), *(name for name in SHARES if name in side.result.measures)]


def _lines(held: Sequence[Opposed]) -> list[list[str]]:
    """A line a site: the rank of the reference, then of each run its rank, the change in per cent, and the relations."""
    records = [{(r.site, r.measure): r for r in side.result.records} for side in held]
    lines = []
    for site in dict.fromkeys(r.site for r in held[0].result.records):
        ranks = [mine.get((site, rank_of(side))) for side, mine in zip(held, records, strict=True)]
        line = [site, number(_before(ranks[0], held[0]))]
        for side, mine, rank in zip(held, records, ranks, strict=True):
            if rank_of(side):
                line += _rank(rank, side)
            for name in SHARES:
                if name in side.result.measures:
                    line.append(_relation(mine.get((site, name)), side))
        lines.append(line)
    return lines


def _before(record: PairRecord | None, side: Opposed) -> float | None:
    if record is None:
        return None
    return record.a.value if side.column == "pair" else record.base


def _rank(record: PairRecord | None, side: Opposed) -> list[str]:
    before = _before(record, side)
    if record is None or before is None:
        return ["–", "–"]
    change = record.estimate if side.column == "pair" else getattr(record, side.column)
    if change.value is None:
        return ["–", "–"]
    percent = f"{100 * change.value / before:+.0f} %".replace("-", "−") if before else "–"
    return [number(before + change.value), "0 %" if percent in ("+0 %", "−0 %") else percent]


def _relation(record: PairRecord | None, side: Opposed) -> str:
    if record is None:
        return "–"
    return number((record.estimate if side.column == "pair" else getattr(record, side.column)).value)


def number(value: float | None) -> str:
    """Three significant digits; a dash for none."""
    return "–" if value is None else f"{value:.3g}".replace("-", "−")
