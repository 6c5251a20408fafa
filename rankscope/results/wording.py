"""Account in words: each sentence is complete by itself, so that it can be quoted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rankscope.results.claims import Claim, Meaning, Quoted, State, Subject
from rankscope.results.record import FEW_DECIDE, Estimate
from rankscope.sites import Site, describe

SEEDS = "Each run is one training, so seed noise is unknown."
"""What is said of two runs."""
ALONE = "One run has no verdict, because a rank alone shows neither loss nor preservation: compare it with its base."
"""What is said of one."""
_NAMES = {
    "participation-ratio": "participation ratio",
    "participation-ratio-clustered": "participation ratio",
    "entropy-rank": "entropy rank",
    "roy-vetterli": "effective rank",
}


def title(subject: Subject) -> str:
    """Who is compared with whom."""
    return f"{subject.run} against {subject.against}"


def _who(subject: Subject) -> str:
    """Whom a sentence is about; it names the reference itself."""
    return title(subject) if subject.of_runs else subject.run


def headline(subject: Subject, found: Sequence[Claim], collapsed: Sequence[str]) -> str:
    """The words of the verdict on one run.

    Args:
        subject: who is compared with whom.
        found: its claims.
        collapsed: the sites at which it collapsed, in the place of reshaped and lost.
    """
    words: list[str] = [one.meaning for one in found if one.state == "shown"]
    if collapsed:
        words = [
            f"collapsed at {describe([Site.parse(site) for site in collapsed])}",
            *(w for w in words if w not in ("reshaped", "lost")),
        ]
    if not words:
        words = ["preserved" if len(found) == 4 and all(one.state == "kept" for one in found) else "no change shown"]
    left = [one.meaning for one in found if one.state == "open"]
    return f"{title(subject)}: {listed(words)}" + (f" ({listed(left)} open)" if left else "")


def margin(subject: Subject) -> str:
    """How large a change is that counts as none."""
    return f"within what {subject.reference} read again gives, or 1 %," if subject.again else "within 1 %"


def sentences_on(subject: Subject, found: Sequence[Claim]) -> Iterator[str]:
    """The sentences on one subject: each change that is shown, then what was kept, then what is open."""
    yield from (one.sentence for one in found if one.state == "shown")
    kept = [one for one in found if one.state == "kept"]
    if kept:
        words = listed([one.meaning for one in kept], "or")
        yield f"{title(subject)}: not {words}, {margin(subject)} everywhere ({sites(kept[0].looked_at)})."
    if not subject.of_runs:  # of two runs a difference that is not shown needs no sentence
        yield from (one.sentence for one in found if one.state == "open")


def sentence(subject: Subject, meaning: Meaning, one: Quoted, state: State, why: str, shown: str) -> str:
    """One claim in words.

    Args:
        subject: who is compared with whom.
        meaning: the meaning of collapse that was looked at.
        one: the numbers that are quoted.
        state: what they show.
        why: why it is open.
        shown: at how many sites it is shown.
    """
    said = f"at {one.record.site} {_SAYS[meaning](subject, one)}"
    # The note is about the error of b against a, which is not that of a run against the base.
    unsure = subject.column in ("pair", "difference") and any(n.startswith(FEW_DECIDE) for n in one.record.notes)
    few = f"; {FEW_DECIDE}" if unsure else ""
    if state == "open":
        return f"{_who(subject)}, {meaning}: open, because {why}; {said}{few}."
    if state == "kept":
        return f"{_who(subject)}, not {meaning}: {said}, {margin(subject)} everywhere{few}."
    return f"{_who(subject)}, {meaning}: {said}; beyond row noise at {shown}{few}."


def _reshaped(subject: Subject, one: Quoted) -> str:
    r = one.record
    change = percents(one.percent, "+") if one.percent.value is not None else f"change {interval(one.change)}"
    if subject.of_runs:
        return f"the {rank_name(r.measure)} is {number(one.after)}, and {number(one.before)} in {subject.against} ({change})"
    low, high = one.change.low, one.change.high
    verb = "goes" if low is None or high is None or low <= 0 <= high else "falls" if high < 0 else "rises"
    move = f"{verb} from {subject.reference}'s {number(one.before)} to {number(one.after)}"
    itself = "read again it differs by" if subject.again else "its two halves differ by"
    beside = [] if r.itself is None else [f"{itself} {number(abs(r.itself))}"]
    beside += [] if r.noise is None else [f"Gaussian noise has {number(r.noise)}"]
    return f"the {rank_name(r.measure)} {move} ({change}; {', '.join(beside)})"


def _turned(subject: Subject, one: Quoted) -> str:
    said = f"the leading directions share {percents(one.change)} with {subject.reference}'s"
    if subject.of_runs:
        said = f"the leading directions share {percent(one.after)} with {subject.reference}'s"
        return f"{said}, and {percent(one.before)} in {subject.against} ({points(one.change)})"
    return f"{said} ({_beside(subject, one)})"


def _lost(subject: Subject, one: Quoted) -> str:
    scores = f"of the variance of {subject.reference}'s principal scores can still be read"
    if subject.of_runs:
        return f"{percent(one.after)} {scores}, and {percent(one.before)} in {subject.against} ({points(one.change)})"
    read = f"{'at least ' if one.limited else ''}{percents(one.change)}"
    if one.after <= 0:
        read = f"nothing (R² {interval(one.change)})"
    return f"{read} {scores} ({_beside(subject, one)})"


def _drifted(subject: Subject, one: Quoted) -> str:
    unit = f"times {subject.reference}'s variance"
    if subject.of_runs:
        apart = f"and by {number(one.before)} in {subject.against} (difference {interval(one.change)})"
        return f"rows moved by {number(one.after)} {unit}, {apart}"
    r = one.record
    beside = [] if r.noise is None else [f"{_unrelated(subject, one)} {number(r.noise)}"]
    beside += [f"itself read again {number(r.itself)}"] if subject.again and r.itself is not None else []
    return f"rows moved by {interval(one.change)} {unit}" + (f" ({', '.join(beside)})" if beside else "")


_SAYS: Mapping[Meaning, Callable[[Subject, Quoted], str]] = {
    "reshaped": _reshaped,
    "turned": _turned,
    "lost": _lost,
    "drifted": _drifted,
}


def _beside(subject: Subject, one: Quoted) -> str:
    """What the reference scores against itself, and unrelated rows."""
    r = one.record
    noise = "none" if r.noise is not None and r.noise <= 0 else percent(r.noise)
    return f"itself {percent(r.itself)}, {_unrelated(subject, one)} {noise}"


def _unrelated(subject: Subject, one: Quoted) -> str:
    """What the noise of a relation is: the second run with its samples shuffled, also beside the first run."""
    runs = one.record.runs
    return f"unrelated rows of {runs.run_b}" if subject.column == "a" and runs is not None else "unrelated rows"


def rank_name(measure: str) -> str:
    """What a rank is called in a sentence."""
    return _NAMES.get(measure, measure.replace("-", " "))


def counted(some: Sequence[object], of: Sequence[object]) -> str:
    """``3 of 7 sites``."""
    return f"{len(some)} of {sites(len(of))}"


def sites(count: int) -> str:
    return f"{count} site" + "s" * (count != 1)


def listed(words: Iterable[str], joined: str = "and") -> str:
    """``a, b and c``."""
    *first, last = words
    return f"{', '.join(first)} {joined} {last}" if first else last


def number(value: float | None) -> str:
    """Three significant digits, and whole numbers from 100 on; a dash for none."""
    if value is None:
        return "–"
    return (f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")


def by_method(records: Iterable[Any]) -> str:
    """``, by influence``: the ways in which the intervals of records were made; nothing where none has one."""
    ways = sorted({r.interval_by for r in records if r.interval_by is not None})
    return f", by {listed(ways)}" if ways else ""


def signed(change: float, digits: int = 0) -> str:
    """A change with its sign and so many digits after the point; without a sign where it rounds to 0."""
    text = f"{change:+.{digits}f}"
    return text.replace("-", "−") if float(text) else "0"


def interval(e: Estimate) -> str:
    """``value [low, high]``."""
    return number(e.value) + ("" if e.low is None else f" [{number(e.low)}, {number(e.high)}]")


def _hundredths(share: float, sign: str = "") -> str:
    """A share times 100; below ten with a digit after the point."""
    digits = 0 if abs(share) >= 0.1 else 1
    return f"{100 * share:{sign}.{digits}f}".replace("-", "−")


def percent(share: float | None) -> str:
    return "–" if share is None else f"{_hundredths(share)} %"


def percents(e: Estimate, sign: str = "", unit: str = "%") -> str:
    """A share as ``46 % [44, 48]``."""
    if e.value is None:
        return "–"
    ends = "" if e.low is None or e.high is None else f" [{_hundredths(e.low, sign)}, {_hundredths(e.high, sign)}]"
    return f"{_hundredths(e.value, sign)} {unit}{ends}"


def points(e: Estimate) -> str:
    return percents(e, "+", "points")
