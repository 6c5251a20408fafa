"""A result at a glance: one row a site, few columns, for terminals of 80 columns and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rankscope.results.arms import ArmContrast
from rankscope.results.claims import Account, Quoted, Subject
from rankscope.results.judging import RELATIONS, quoted, ranks, subjects
from rankscope.results.runs import Contrast, Measurement, PairRecord
from rankscope.results.wording import interval, number, rank_name, signed
from rankscope.sites import Site

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 80
"""Columns that a table fits into as long as the names of sites leave it a choice."""
LETTERS = {"reshaped": "R", "turned": "T", "lost": "L", "drifted": "D"}
"""The marks of what is shown at a site."""
SHORT = {"roy-vetterli": "eff. rank", "stable-rank": "stable", "pt-peft": "pt-peft"}
"""What a measurement shows besides its rank, and the heads of those columns."""
HEADS = {**dict.fromkeys(("participation-ratio", "participation-ratio-clustered"), "PR"), "roy-vetterli": "eff. rank"}
"""The heads of the column of the rank."""


WORDS = {"collapsed": "C", "reshaped": "R", "rotated": "T", "preserved": "P", "inconclusive": "·"}
"""The marks of the verdicts on arms."""


class Glance(NamedTuple):
    """A small table, and what is said below it."""

    title: str
    """What was compared or measured."""
    columns: tuple[str, ...]
    """The heads of the columns, the site first."""
    rows: tuple[tuple[str, ...], ...]
    """A row for each site."""
    below: tuple[str, ...]
    """Sparklines along the sites, and what columns and marks mean."""

    @property
    def width(self) -> int:
        """The columns of text that it needs, with two between its own."""
        return sum(2 + max(map(len, cells)) for cells in zip(self.columns, *self.rows, strict=True)) - 2


Glanced = Contrast | ArmContrast | Measurement
"""What has a small table."""


def glance(result: Glanced) -> Glance:
    """The small table of a result."""
    if isinstance(result, ArmContrast):
        return _of_arms(result)
    return _of_contrast(result) if isinstance(result, Contrast) else _of_measurement(result)


def relied_on(result: Glanced) -> set[str]:
    """The measures that the table and the verdict rest on."""
    rank = {r.measure for r in ranks(result.records)[:1]}
    more = SHORT if isinstance(result, Measurement) else (name for some in RELATIONS.values() for name in some)
    return rank | set(more)


def _of_contrast(result: Contrast) -> Glance:
    """The rank of the reference, and what became of it; ``a/b`` where two runs are held against a base."""
    runs = [subject for subject in subjects(result) if not subject.of_runs]
    reference, shape = runs[0].reference, result.records[0].shape
    spectral = ranks(result.records)
    quotes = {
        name: {r.site: [quoted(r, subject) for subject in runs] for r in result.records if r.measure == name}
        for name in (*(r.measure for r in spectral[:1]), "recoverability", "overlap", "drift")
    }
    sites, account = list(dict.fromkeys(r.site for r in result.records)), result.verdict
    rank = spectral[0].measure if spectral else "rank"
    stack, points = _points(sites)

    def table(*, unit: bool, longest: int) -> Glance:
        def row(site: str, point: str) -> tuple[str, ...]:
            cells = {name: some.get(site, []) for name, some in quotes.items()}
            own = cells.get(rank, [])
            before = next((number(one.before) for one in own if one is not None), "–")
            change = " ".join((*([_pair(own, _in_unit)] if unit else []), _pair(own, _in_percent) + " %"))
            shares = (_pair(cells[name], _share) for name in ("recoverability", "overlap"))
            marks = _marks(account, runs, site)
            return (_tail(point, longest), before, change, *shares, _pair(cells["drift"], _drift), marks)

        columns = (stack, HEADS.get(rank, rank), "change", "readable", "overlap", "drift", "shown")
        names = "/".join(subject.run for subject in runs)
        title = (
            f"{names} against {reference}: {result.rows}; {shape.n} rows of {shape.d} features, {shape.samples} samples"
        )
        legend = (
            f"{HEADS.get(rank, rank)}: {rank_name(rank)} of {reference}, and its change; readable: recoverability in %; "
            "shown beyond row noise: Reshaped, Turned, Lost, Drifted"
        )
        rows = tuple(row(site, point) for site, point in zip(sites, points, strict=True))
        return Glance(title, columns, rows, (*_sparks(spectral, runs), legend))

    whole = table(unit=True, longest=40)
    return whole if whole.width <= WIDTH else table(unit=False, longest=16)


def _of_arms(result: ArmContrast) -> Glance:
    """The mean of each arm, ``a/b``: its rank, or the change of its rank from the base, the relations, and the verdict."""
    first, arms = result.records[0], list(result.arms)
    mine = [r for r in result.records if r.arm in result.arms]
    spectral = ranks(mine)
    rank = spectral[0].measure if spectral else "rank"
    there = {(r.measure, r.site, r.arm): r for r in mine}
    shown = {
        name: said for name, said in _OF_ARMS.items() if any(r.measure == name and r.value is not None for r in mine)
    }
    sites = list(dict.fromkeys(r.site for r in mine))
    stack, points = _points(sites)

    def joined(measure: str, site: str, said: Callable[[float], str]) -> str:
        values = [one.value if (one := there.get((measure, site, arm))) else None for arm in arms]
        return "/".join("–" if value is None else said(value) for value in values)

    rows = tuple(
        (
            _tail(point, 24),
            *([joined(rank, site, _signed if result.base else number)] if spectral else []),
            *(joined(name, site, said) for name, (_, said) in shown.items()),
            *(["/".join(WORDS[result.verdicts[site, arm].word] for arm in arms)] if result.verdicts else []),
        )
        for site, point in zip(sites, points, strict=True)
    )
    head = HEADS.get(rank, rank)
    columns = [
        stack,
        *([f"{head} change" if result.base else head] if spectral else []),
        *(name for name, _ in shown.values()),
    ]
    runs = "/".join(f"{arm} ({len(names)} runs)" for arm, names in result.arms.items())
    against = f" against {result.base}" if result.base else ""
    title = f"{runs}{against}: means over runs; {first.shape.n} rows of {first.shape.d} features, {first.shape.samples} samples"
    what = f"change of the {rank_name(rank)} from {result.base}" if result.base else rank_name(rank)
    legend = "; ".join(
        [
            *([f"{head}: {what}"] if spectral else []),
            *(["readable: recoverability in %"] if "recoverability" in shown else []),
            *(["verdict: Collapsed, Reshaped, roTated, Preserved, · inconclusive"] if result.verdicts else []),
        ]
    )
    ranked = {arm: [there.get((rank, site, arm)) for site in sites] for arm in arms} if spectral else {}
    sizes = {
        arm: [None if one is None or one.value is None else abs(one.value) for one in ranked[arm]] for arm in ranked
    }
    sparks = _beside(sizes) if sizes else []
    said = f"bars: its size along the sites{', whatever its sign' if result.base else ''}"
    return Glance(
        title,
        (*columns, *(["verdict"] if result.verdicts else [])),
        rows,
        (*sparks, *filter(None, ("; ".join(filter(None, (legend, said if sparks else ""))),))),
    )


def _points(sites: Sequence[str]) -> tuple[str, list[str]]:
    """The head and the cells of the column of sites: those of one stack by their points alone."""
    stacks = {Site.parse(site).stack for site in sites}
    if len(stacks) > 1:
        return "site", list(sites)
    return stacks.pop(), [Site.parse(site).point for site in sites]


def _of_measurement(result: Measurement) -> Glance:
    """The rank with its interval, that of noise, and other numbers without."""
    records = ranks(result.records) or result.of(result.measures[0])
    rank = records[0].measure
    others = {name: {r.site: r.value for r in result.records if r.measure == name} for name in SHORT if name != rank}
    others = {name: some for name, some in others.items() if any(value is not None for value in some.values())}
    shape, (stack, points) = records[0].shape, _points([r.site for r in records])
    rows = tuple(
        (_tail(point, 24), interval(r.estimate), number(r.noise), *(number(some[r.site]) for some in others.values()))
        for point, r in zip(points, records, strict=True)
    )
    head = HEADS.get(rank, rank)
    title = f"{result.run}: {shape.n} rows of {shape.d} features, {shape.samples} samples, {shape.dtype}; {100 * result.level:g} % intervals"
    spark = f"{head}: {rank_name(rank)}; along the sites {sparkline([r.value for r in records])}"
    return Glance(title, (stack, head, "of noise", *(SHORT[name] for name in others)), rows, (spark,))


def sparkline(values: Sequence[float | None], most: float | None = None) -> str:
    """Values as bars, from 0 to the largest of them, or to ``most``; a blank for none."""
    top = max([most or 0.0, *(value for value in values if value is not None)], default=0.0)
    places = [None if value is None else round(value / top * (len(BARS) - 1)) if top > 0 else 0 for value in values]
    return "".join(" " if place is None else BARS[max(0, place)] for place in places)


def _sparks(records: Sequence[PairRecord], runs: Sequence[Subject]) -> list[str]:
    """The rank of the reference and of each run along the sites, on one scale."""
    along = {subject.run: [quoted(r, subject) for r in records] for subject in runs}
    values = {runs[0].reference: [one.before if one else None for one in along[runs[0].run]]}
    values |= {run: [one.after if one else None for one in some] for run, some in along.items()}
    return _beside(values) if records else []


def _beside(values: Mapping[str, Sequence[float | None]]) -> list[str]:
    """Sparklines by name on one scale, in one line where they fit."""
    most = max((x for some in values.values() for x in some if x is not None), default=0.0)
    parts = [f"{name} {sparkline(some, most)}" for name, some in values.items()]
    line = "  ".join(parts)
    return parts if len(line) > WIDTH else [line]


def _marks(account: Account, runs: Sequence[Subject], site: str) -> str:
    """``R·LD``: a letter for each meaning that is shown at a site, for each run."""
    return "/".join(
        "".join(
            LETTERS[claim.meaning] if site in claim.sites else "·"
            for claim in account.claims
            if (claim.run, claim.against) == (subject.run, subject.against)
        )
        for subject in runs
    )


def _pair(ones: Sequence[Quoted | None], said: Callable[[Quoted], str]) -> str:
    """What is said of each run, ``a/b``."""
    return "/".join("–" if one is None else said(one) for one in ones) or "–"


def _in_unit(one: Quoted) -> str:
    return _signed(one.change.value or 0.0)


def _signed(change: float) -> str:
    """A change with as many digits as the table has room for."""
    return signed(change, 0 if abs(change) >= 100 else 1 if abs(change) >= 10 else 2)


def _in_percent(one: Quoted) -> str:
    return "–" if one.percent.value is None else signed(100 * one.percent.value)


def _share(one: Quoted) -> str:
    return _hundredths(one.after)


def _hundredths(share: float) -> str:
    return f"{100 * share:.0f}".replace("-", "−")


def _drift(one: Quoted) -> str:
    return _moved(one.after)


def _moved(drift: float) -> str:
    return f"{drift:.2f}" if drift < 9.995 else number(drift)


_OF_ARMS: dict[str, tuple[str, Callable[[float], str]]] = {
    "recoverability": ("readable", _hundredths),
    "overlap": ("overlap", _hundredths),
    "drift": ("drift", _moved),
}
"""Relations that the table of arms shows, with their heads and how they are written."""


def _tail(name: str, longest: int) -> str:
    """A name, or its end where it is long: what tells sites apart stands there."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"
