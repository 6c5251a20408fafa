"""The rules by which the numbers of two runs become claims: reshaped, turned, lost, drifted.

Four things are called rank collapse. Each is looked at by itself, at every site, for each run against the base and for the
difference of the two; the site at which it is largest is quoted.

1. A change is *shown* where its band over all sites lies wholly beyond :data:`SMALL`, and *kept* where the band lies wholly
   within it at every site. Anything else is *open*, which is not the same as kept.
2. *Reshaped* rests on the participation ratio, whose estimate alone among ranks does not grow with the number of rows; on
   that over clusters where samples have several rows. Another rank stands in where only it was asked for and rows suffice.
3. *Turned* needs two witnesses. A collapse inside the base's leading directions makes the rest of them arbitrary, so that
   they overlap less, yet leaves the variance where it was; a flatter spectrum in the same basis has less variance there, yet
   the same directions. Only what both say is turned. A spectrum as flat as noise has no leading directions at all.
4. *Lost* is held against what the base can read of itself. Where rows are few a regression reads less than is there: the
   number is then a lower bound, which can show that information was kept and cannot show that it was lost.
5. *Drifted* is held against 0, or against the base read once more. It alone sees a shift of the mean.
6. *Collapsed* is the participation ratio falling and information lost, both shown at one site and both by :data:`MUCH`: with
   thousands of rows a change of two per cent is shown too, and is no collapse. A rank alone is never a loss, and lower is
   never called worse: training lowers ranks, and that can be good.
7. Two runs are two trainings. A band over samples holds for these two; what another seed would give is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log
from typing import TYPE_CHECKING, Any, NamedTuple

from rankscope.results.brief import COLLAPSE, briefly, in_brief, most_telling
from rankscope.results.claims import Account, Brief, Claim, Meaning, Quoted, State, Subject, is_limited
from rankscope.results.wording import (
    ALONE,
    SEEDS,
    counted,
    headline,
    interval,
    listed,
    number,
    rank_name,
    sentence,
    sentences_on,
)
from rankscope.sites import Site, describe

if TYPE_CHECKING:
    from rankscope.results.arms import ArmContrast
    from rankscope.results.runs import Contrast, Measurement, PairRecord

SMALL = 0.01
"""The change that counts as none: one per cent of the base's number, or one point of a share, which is the step in which a
percentage is read."""
MUCH = 0.1
"""The share of the base's rank, and of what can be read of it, that must be gone to be called collapse."""
FLAT = 0.9
"""The share of the participation ratio of noise from which a spectrum is flat."""
RANKS = ("participation-ratio", "participation-ratio-clustered", "entropy-rank", "roy-vetterli")
"""What *reshaped* rests on: the first that was asked for and suits the rows."""
RELATIONS: Mapping[Meaning, tuple[str, ...]] = {
    "turned": ("overlap", "variance-captured"),
    "lost": ("recoverability",),
    "drifted": ("drift",),
}
"""What the others rest on: all are needed, and the first is quoted."""


class _Held(NamedTuple):
    """What the numbers of one site show."""

    shown: bool = False
    """Whether the change is shown."""
    kept: bool = False
    """Whether it is shown to be none."""
    why: str = ""
    """Why neither can be."""


def judged(contrast: Contrast) -> Account:
    """What a comparison of two runs found."""
    found = {subject: some for subject in subjects(contrast) if (some := list(_claims(contrast, subject)))}
    if not found:
        needed = ", ".join((RANKS[0], *(name for names in RELATIONS.values() for name in names)))
        return Account("no verdict", (f"No verdict: it rests on {needed}, and none of them has a number here.",))
    return Account(
        "; ".join(headline(subject, some, _collapsed(some)) for subject, some in found.items() if not subject.of_runs),
        (*(text for subject, some in found.items() for text in sentences_on(subject, some)), SEEDS),
        tuple(one for some in found.values() for one in some),
        tuple(_brief(contrast, subject, some) for subject, some in found.items()),
        SEEDS,
    )


def _brief(contrast: Contrast, subject: Subject, found: Sequence[Claim]) -> Brief:
    """The verdict on one subject in brief: collapse, at the site where most was lost, or else the change that tells most."""

    def at(one: Claim, site: str) -> Quoted:
        records = (r for r in contrast.records if (r.measure, r.site) == (one.measure, site))
        return next(x for r in records if (x := quoted(r, subject)) is not None)

    there = {one.meaning: one for one in found}
    most = most_telling(found)
    if collapsed := _collapsed(found):
        site = max(collapsed, key=lambda site: _size("lost", at(there["lost"], site)))
        return briefly(subject, found, {m: at(there[m], site) for m in COLLAPSE})
    return briefly(subject, found, {most.meaning: at(most, most.site)} if most else {})


def subjects(contrast: Contrast) -> list[Subject]:
    """Who is compared: each run with the base and the second with the first, or with the first alone."""
    a, b, *base = contrast.names
    again = contrast.again
    if not base:
        return [Subject(b, a, a, "pair", again)]
    against_base = [Subject(a, base[0], base[0], "a", again), Subject(b, base[0], base[0], "b", again)]
    return [*against_base, Subject(b, a, base[0], "difference", again)]


def surveyed(measurement: Measurement) -> Account:
    """What measuring one run found: how far its rank reaches along the sites. Rank alone gives no verdict (rule 6)."""
    there = [r for r in measurement.records if r.value is not None]
    records = ranks(there) or [r for r in there if r.measure == there[0].measure]
    if not records:
        return Account("no number", (f"{measurement.run} has no number at any site.",))
    least, most = (pick(records, key=lambda r: r.value) for pick in (min, max))
    ends = f"is {interval(least.estimate)} at {least.site}"
    if least is not most:
        ends = f"ranges from {interval(least.estimate)} at {least.site} to {interval(most.estimate)} at {most.site}"
    noise = f"; at {least.site} Gaussian noise scores {number(least.noise)}" if least.noise is not None else ""
    few = [r for r in records if is_limited(r.notes)]
    caution = f"; at {counted(few, records)} rows are too few, so that it also measures their number" if few else ""
    rows = f"{least.shape.n} rows of {least.shape.d} features"
    line = f"{measurement.run}: the {rank_name(least.measure)} {ends}"
    return Account(line, (f"{line} ({rows}{noise}{caution}).", ALONE))


def arms_judged(contrast: ArmContrast) -> Account:
    """What a comparison of arms found: the verdicts on each arm, the sites of one word together."""
    if not contrast.verdicts:
        return Account("no verdict", ("No verdict: without a base there is nothing an arm could have preserved.",))
    said, words = [], {}
    for arm, runs in contrast.arms.items():
        by_word: dict[str, dict[str, str]] = {}
        for (site, of), verdict in contrast.verdicts.items():
            if of == arm:
                by_word.setdefault(verdict.word, {})[site] = verdict.why
        words[arm] = listed(by_word)
        for word, sites in by_word.items():
            where, (first, why) = describe([Site.parse(site) for site in sites]), next(iter(sites.items()))
            trained = f"{len(runs)} training" + "s" * (len(runs) != 1)
            said.append(f"{arm} ({trained}) against {contrast.base}: {word} at {where} (at {first}: {why}).")
    return Account("; ".join(f"{arm}: {word}" for arm, word in words.items()), tuple(said))


def _claims(contrast: Contrast, subject: Subject) -> Iterator[Claim]:
    """A claim for each meaning whose measures were asked for and have numbers."""
    along = [one for r in ranks(contrast.records) if (one := quoted(r, subject))]
    if along:
        yield _claim("reshaped", subject, [(one, _held("reshaped", subject, one)) for one in along])
    flat = {one.record.site for one in along if one.record.noise is not None and one.after >= FLAT * one.record.noise}
    for meaning, names in RELATIONS.items():
        first, *more = (
            {r.site: x for r in contrast.records if r.measure == name and (x := quoted(r, subject))} for name in names
        )
        at = []
        for site, one in first.items():
            if all(site in witness for witness in more):
                held = [_held(meaning, subject, x[site]) for x in (first, *more)]
                at.append((one, _together(held, flat=meaning == "turned" and site in flat)))
        if at:
            yield _claim(meaning, subject, at)


def ranks(records: Sequence[Any]) -> list[Any]:
    """The records of the first of :data:`RANKS` that has numbers and suits the rows."""
    for name in RANKS:
        mine = [r for r in records if r.measure == name and r.value is not None]
        clustered = any(r.shape.n > r.shape.samples for r in mine)
        if mine and not (name == "participation-ratio" and clustered):
            return mine
    return []


def quoted(r: PairRecord, subject: Subject) -> Quoted | None:
    """What a record says of a subject; None where it has no number."""
    first = r.a.value if r.base is None or r.a.value is None else r.base + r.a.value
    change, band, percent, before = {
        "a": (r.a, r.band_a, r.percent_a, r.base),
        "b": (r.b, r.band_b, r.percent_b, r.base),
        "pair": (r.estimate, r.band, r.percent, first),
        "difference": (r.estimate, r.band, r.percent, first),
    }[subject.column]
    if change.value is None or (before is None and (r.measure in RANKS or subject.of_runs)):
        return None
    return Quoted(r, before, (before or 0.0) + change.value, change, band, percent)


def _held(meaning: Meaning, subject: Subject, one: Quoted) -> _Held:
    """What one measure shows at one site (rules 1, 2, 4 and 5)."""
    low, high, itself = one.band.low, one.band.high, one.record.itself
    of = one.record.shape
    short = f"{of.n} rows of {of.samples} samples are too few for {of.d} features" if one.limited else ""
    if low is None or high is None:
        return _Held(why="samples are too few for a band over all sites")
    if one.before is not None:  # a change, or the difference of two runs
        if short and meaning in ("reshaped", "lost"):
            return _Held(why=short)
        margin = SMALL
        if meaning == "reshaped":
            margin = max(SMALL * abs(one.before), abs(itself or 0) if subject.again else 0)
        return _Held(low > margin or high < -margin, -margin <= low and high <= margin)
    if meaning == "drifted":
        none = SMALL + (itself or 0 if subject.again else 0)  # halves, unlike readings, do not drift
        return _Held(low > none, high <= none)
    if itself is None:
        return _Held(why=f"rows are too few to say what {subject.reference} scores against itself")
    if low >= itself - SMALL:
        return _Held(kept=True)
    return _Held(why=short) if short and meaning == "lost" else _Held(shown=high < itself - SMALL)


def _together(held: Sequence[_Held], *, flat: bool) -> _Held:
    """What several witnesses show (rule 3)."""
    if any(one.kept for one in held):
        return _Held(kept=True)
    if flat:
        return _Held(why="the spectrum is as flat as noise, and has no leading directions")
    return _Held(shown=all(one.shown for one in held), why=next((one.why for one in held if one.why), ""))


def _claim(meaning: Meaning, subject: Subject, at: Sequence[tuple[Quoted, _Held]]) -> Claim:
    """The claim on one meaning: where it is shown, and the largest of it."""
    shown = [one for one, held in at if held.shown]
    largest = max(shown or [one for one, _ in at], key=lambda one: _size(meaning, one))
    state: State = "shown" if shown else "kept" if all(held.kept for _, held in at) else "open"
    whys = [held.why for _, held in at if held.why] or ["its band over all sites straddles the 1 % margin"]
    why = whys[0] if state == "open" else ""
    return Claim(
        meaning=meaning,
        run=subject.run,
        against=subject.against,
        state=state,
        sentence=sentence(subject, meaning, largest, state, why, counted(shown, at)),
        brief=in_brief(subject, meaning, largest, state, why, counted(shown, at)),
        why=why,
        measure=largest.record.measure,
        site=largest.record.site,
        value=largest.after,
        before=largest.before,
        change=largest.change,
        percent=largest.percent,
        noise=largest.record.noise,
        itself=largest.record.itself,
        sites=tuple(one.record.site for one in shown),
        fell=tuple(one.record.site for one in shown if one.before is not None and one.after < one.before),
        much=tuple(
            one.record.site
            for one in shown
            if _size(meaning, one) >= (-log(1 - MUCH) if meaning == "reshaped" else MUCH)
        ),
        looked_at=len(at),
    )


def _size(meaning: Meaning, one: Quoted) -> float:
    """How large a change is, by which the site is chosen that is quoted."""
    if meaning == "reshaped" and one.before and one.before > 0 and one.after > 0:
        return abs(log(one.after / one.before))  # halved is as large as doubled
    if one.before is not None:
        return abs(one.change.value or 0.0)
    return one.after if meaning == "drifted" else (one.record.itself or 0.0) - one.after


def _collapsed(found: Sequence[Claim]) -> list[str]:
    """The sites at which the rank fell and information was lost, both by much (rule 6)."""
    lost = {site for one in found if one.meaning == "lost" for site in one.much}
    return [
        site for one in found if one.meaning == "reshaped" for site in one.fell if site in one.much and site in lost
    ]
