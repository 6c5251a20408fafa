"""What stands in the first screen of a report: who was compared, what was found, what to beware of, and a line a site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rankscope.report.extras import Extras
from rankscope.results.claims import Quoted, Subject
from rankscope.results.judging import quoted, ranks, subjects
from rankscope.results.runs import Contrast
from rankscope.results.wording import by_method, listed, number, signed

SHARES = ("recoverability", "overlap", "drift")
"""The relations that the table shows."""


def opposed(results: Sequence[Contrast]) -> list[tuple[Contrast, Subject]]:
    """Every run that is held against a reference, with the comparison that has it."""
    return [(result, subject) for result in results for subject in subjects(result) if not subject.of_runs]


def telling(results: Sequence[Contrast]) -> tuple[str | None, str | None]:
    """The rank that the verdict rests on, and the site where it quotes a change; None without either."""
    rank = next((r.measure for result in results for r in ranks(result.records)), None)
    return rank, next((site for result in results for site in result.verdict.quoted), None)


def summary(results: Sequence[Contrast], extras: Extras) -> dict[str, Any]:
    """Everything that the template shows in words."""
    held = opposed(results)
    records = [r for result in results for r in result.records]
    first = records[0]
    reference = held[0][1].reference
    names = list(dict.fromkeys(subject.run for _, subject in held))
    verdicts, rank = [result.verdict for result in results], telling(results)[0]
    relations = [name for name in SHARES if name in results[0].measures]
    columns = [*([rank, "change"] if rank else []), *relations]
    shape = f"{first.shape.n} rows of {first.shape.samples} samples × {first.shape.d} features, {first.shape.dtype}"
    facts = {
        "base": reference,
        "runs": ", ".join(names),
        "data and rows": results[0].rows,
        "at the first site": shape,
        "sites": str(len({r.site for r in results[0].records})),
        "measures": str(len(results[0].measures)),
        "intervals": f"{100 * results[0].level:g} %, over samples{by_method(records)}; paired where two runs are compared",
    }
    return {
        "title": f"{listed(names)} against {reference}",
        "briefs": [one for v in verdicts for one in v.briefs],
        "provisos": list(dict.fromkeys(v.proviso for v in verdicts if v.proviso)),
        "sentences": list(dict.fromkeys(text for v in verdicts for text in v.sentences)),
        "facts": facts,
        "warnings": _warnings(results, extras),
        "columns": [
            *([f"{rank} of {reference}"] if rank else []),
            *(f"{name}: {what}" for name in names for what in columns),
        ],
        "lines": _lines(held, rank, relations),
    }


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


def _lines(held: Sequence[tuple[Contrast, Subject]], rank: str | None, relations: Sequence[str]) -> list[list[str]]:
    """A line a site: the rank of the reference, then of each run its rank, the change in per cent, and the relations."""
    told = {
        (subject.run, r.site, r.measure): one
        for result, subject in held
        for r in result.records
        if r.measure in (rank, *relations) and (one := quoted(r, subject)) is not None
    }
    runs = [subject.run for _, subject in held]
    lines = []
    for site in dict.fromkeys(r.site for r in held[0][0].records):
        line = [site]
        if rank:
            before = (told.get((run, site, rank)) for run in runs)
            line.append(number(next((one.before for one in before if one is not None), None)))
        for run in runs:
            if rank:
                one = told.get((run, site, rank))
                line += [number(one and one.after), _percent(one)]
            found = (told.get((run, site, name)) for name in relations)
            line += [number(one and one.after) for one in found]
        lines.append(line)
    return lines


def _percent(one: Quoted | None) -> str:
    """``−94 %``; a dash for none."""
    return "–" if one is None or one.percent.value is None else f"{signed(100 * one.percent.value)} %"
