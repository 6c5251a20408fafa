"""The verdict in brief: for each run one sentence on what tells most, and a short line for each meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rankscope.results.claims import Brief, Claim, Meaning, Quoted, State, Subject
from rankscope.results.record import Estimate
from rankscope.results.wording import (
    interval,
    listed,
    margin,
    number,
    percent,
    percents,
    points,
    rank_name,
    sites,
    title,
)

TELLING: tuple[Meaning, ...] = ("lost", "reshaped", "turned", "drifted")
"""Which change is put first, among those of a tenth or more and then among the others: a loss says most, and as almost any training
moves rows a drift says least."""
COLLAPSE: tuple[Meaning, ...] = ("reshaped", "lost")
"""The two that together are collapse."""


def most_telling(found: Sequence[Claim]) -> Claim | None:
    """The claim that is put first; None where none is shown."""
    shown = [one for one in found if one.state == "shown"]
    return min(shown, key=lambda one: (not one.much, TELLING.index(one.meaning)), default=None)


def briefly(subject: Subject, found: Sequence[Claim], first: Mapping[Meaning, Quoted]) -> Brief:
    """The verdict on one run in brief.

    Args:
        subject: who is compared with whom.
        found: its claims.
        first: what is put first, with the numbers of one site: a meaning, or the two of a collapse; empty where nothing is shown.
    """
    shown = [one.meaning for one in found if one.state == "shown"]
    left = [one for one in found if one.state == "open"]
    parts = [_nothing(subject, found)]
    if first:
        site = next(iter(first.values())).record.site
        of = {
            "turned": " of the leading directions",
            "lost": f" of {subject.reference}'s principal scores",
            "drifted": f"{subject.reference}'s",
        }
        figures = listed([_FIGURES[m](subject, _bare(one), of.get(m, "")) for m, one in first.items()])
        word = "collapsed" if len(first) > 1 else next(iter(first))
        parts = [f"{word} at {site}, {figures}"]
        parts += [f"also {listed(more)}"] if (more := [m for m in shown if m not in first]) else []
    if left and not subject.of_runs:
        parts += [f"{listed([one.meaning for one in left])} open"]
    lines: dict[str, str] = {one.meaning: one.brief for one in found if one.state != "open" or not subject.of_runs}
    return Brief(f"{title(subject)}: {'; '.join(parts)}.", lines if first or not subject.of_runs else {})


def _nothing(subject: Subject, found: Sequence[Claim]) -> str:
    """What is said where no change is shown."""
    if subject.of_runs:
        return "no difference shown"
    if len(found) == len(TELLING) and all(one.state == "kept" for one in found):
        return f"preserved: all four {margin(subject)} everywhere ({sites(found[0].looked_at)})"
    return "no change shown"


def in_brief(subject: Subject, meaning: Meaning, one: Quoted, state: State, why: str, shown: str) -> str:
    """One claim in brief; the arguments are those of :func:`rankscope.results.wording.sentence`."""
    if state == "kept":
        return f"no, {margin(subject)} everywhere"
    figures = _FIGURES[meaning](subject, one, "")
    if one.before is None and meaning != "drifted" and one.after > 0 and one.record.itself is not None:
        figures += f" (itself {percent(one.record.itself)})"
    figures += f" at {one.record.site}"
    return f"open, because {why}; {figures}" if state == "open" else f"{figures}; {shown}"


def _reshaped(subject: Subject, one: Quoted, of: str) -> str:
    change = percents(one.percent, "+") if one.percent.value is not None else f"change {interval(one.change)}"
    return f"{rank_name(one.record.measure)} {number(one.before)} → {number(one.after)} ({change})"


def _turned(subject: Subject, one: Quoted, of: str) -> str:
    return _share(subject, one, f"{of} shared")


def _lost(subject: Subject, one: Quoted, of: str) -> str:
    if one.after <= 0 and not subject.of_runs:
        return f"nothing{of} readable (R² {interval(one.change)})"
    return ("at least " if one.limited else "") + _share(subject, one, f"{of} readable")


def _drifted(subject: Subject, one: Quoted, of: str) -> str:
    moved = f"{number(one.before)} → {number(one.after)}" if subject.of_runs else interval(one.change)
    return f"moved by {moved} times {of or 'the'} variance"


def _share(subject: Subject, one: Quoted, what: str) -> str:
    """A relation of one run to the reference, or those of two runs."""
    if subject.of_runs:
        return f"{percent(one.before)} → {percent(one.after)}{what} ({points(one.change)})"
    return f"{percents(one.change)}{what}"


_FIGURES: Mapping[Meaning, Callable[[Subject, Quoted, str], str]] = {
    "reshaped": _reshaped,
    "turned": _turned,
    "lost": _lost,
    "drifted": _drifted,
}


def _bare(one: Quoted) -> Quoted:
    """The same without intervals, for a headline."""
    return one._replace(change=Estimate(one.change.value), percent=Estimate(one.percent.value))
