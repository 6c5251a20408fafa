"""The numbers of arms at one site: each measure in the runs of each arm, over groups of samples, and those of a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import isnan
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.cautions import cautions, overfitted, shape, why_not
from rankscope.analysis.guards import GuardedView
from rankscope.analysis.intervals import Bounds, bounds_of
from rankscope.analysis.replicates import Replicates
from rankscope.analysis.second_pass import Asked, prepare
from rankscope.definition import Comparison, Definition
from rankscope.errors import NotComparable
from rankscope.inference.equivalence import retraining_floor
from rankscope.inference.jackknife import centred_pseudo
from rankscope.registry import known
from rankscope.results.record import Shape
from rankscope.results.verdict import LEAST_RUNS, LOST
from rankscope.sites import Site

_RANKS = ("participation-ratio", "participation-ratio-clustered", "entropy-rank")
_RELATIONS = ("variance-captured", "recoverability", "drift")
"""What a verdict rests on: of the first two ranks the one that suits the rows."""


class ArmNumber(NamedTuple):
    """A measure in the runs of one arm at one site."""

    pseudo: Tensor
    """``(R, G)`` pseudo-values about each run's value on all rows."""
    change: Tensor
    """``(R, G)`` the same of the change: for a relation from its ceiling, which is what the base gives with itself."""
    floor: float | None
    """How far retrainings lie apart, at least the rounding of the features; None with fewer than three runs."""
    step: float = 0.0
    """The step in which the number of a run moves."""
    rounding: float = 0.0
    """Mean over runs of what rounding to that step adds to the continuous number, which the pseudo-values are about."""
    alike: bool = True
    """Whether rows are like the base's enough that the number can show sameness."""


class SiteOfArms(NamedTuple):
    """What was found at one site."""

    site: Site
    shape: Shape
    variant: str
    notes: Mapping[str, tuple[str, ...]]
    """Measure → its cautions."""
    numbers: Mapping[tuple[str, str], ArmNumber | str]
    """(measure, arm) → the number, or why there is none."""
    bounds: Mapping[str, Bounds]
    """Measure → the bounds of what is reported of it: of the number, or of its change from the base."""
    grounds: Mapping[str, tuple[ArmNumber, ...]]
    """Arm → the numbers of its verdict, where there are any, in the order of :class:`Grounds`."""


def site_of_arms(
    site: Site,
    view: GuardedView,
    asked: Sequence[Definition | Comparison],
    places: Mapping[str, Sequence[int]],
    base: int | None,
) -> SiteOfArms:
    numbers: dict[tuple[str, str], ArmNumber | str] = {}
    prepare(view, list(_all_numbers(view, asked, places, base)))
    grounds: dict[str, tuple[ArmNumber, ...]] = {}
    for arm, mine in places.items():
        for what in asked:
            try:
                numbers[what.name, arm] = why_not(what, view) or _number(what, view, mine, base)
            except NotComparable as error:
                numbers[what.name, arm] = str(error)
        if base is not None and not view.refused and len(mine) >= LEAST_RUNS:
            try:
                grounds[arm] = _grounds(view, mine, base)
            except NotComparable:
                continue
    notes = {what.name: (*cautions(what, view), *overfitted(what, view, _scores(numbers, what))) for what in asked}
    bounds = {what.name: bounds_of(what, view) for what in asked}
    if base is not None:
        bounds |= {what.name: bounds[what.name].difference for what in asked if isinstance(what, Definition)}
    return SiteOfArms(site, shape(view), view.variant, notes, numbers, bounds, grounds)


def _scores(numbers: Mapping[tuple[str, str], ArmNumber | str], what: Definition | Comparison) -> list[float]:
    """What each run of every arm scores."""
    found = [number for (name, _), number in numbers.items() if name == what.name and isinstance(number, ArmNumber)]
    return [score for number in found for score in number.pseudo.mean(1).tolist()]


def _all_numbers(
    view: GuardedView, asked: Sequence[Definition | Comparison], places: Mapping[str, Sequence[int]], base: int | None
) -> Iterator[Asked]:
    """All that the numbers and verdicts of the arms are made from."""
    runs = [i for mine in places.values() for i in mine]
    grounds = [known(name) for name in (*_RANKS, *_RELATIONS, "cka")] if base is not None else []
    for what in dict.fromkeys((*asked, *grounds)):
        if why_not(what, view) or (base is None and isinstance(what, Comparison)):
            continue
        for i in runs if base is None else (base, *runs):
            yield what, (i,) if isinstance(what, Definition) or base is None else (base, i)


def _number(what: Definition | Comparison, view: GuardedView, places: Sequence[int], base: int | None) -> ArmNumber:
    """A measure in the runs of one arm.

    Raises:
        NotComparable: for a relation without a base, or where the runs do not allow it.
    """
    if isinstance(what, Comparison):
        if base is None:
            raise NotComparable(f"{what.name} relates two runs; arms need a base for it")
        values = [view.evaluate(what, base, i) for i in places]
        ceiling = view.evaluate(what, base, base)
        floor = None
        if len(places) >= LEAST_RUNS:  # the shortfall between the two retrainings that differ most
            pairs = [view.only(i, j) for i, j in combinations(places, 2)]
            floor = max(abs(float(two.value(what, 0, 1) - two.value(what, 0, 0))) for two in pairs)
        return _joined(values, [x - ceiling for x in values], floor, view)
    values = [view.evaluate(what, i) for i in places]
    if base is not None:
        values = [one - view.evaluate(what, base) for one in values]
    return _changes(values, view)


def _grounds(view: GuardedView, places: Sequence[int], base: int) -> tuple[ArmNumber, ...]:
    """The numbers of a verdict, in the order of :class:`Grounds`.

    Raises:
        NotComparable: if one has no meaning here.
    """
    found = []
    independent, clustered, entropy = _RANKS
    for name in (independent if view.n == view.rows.samples else clustered, entropy):
        before, *after = (view.evaluate(known(name), i).log() for i in (base, *places))
        found.append(_changes([one - before for one in after], view))
    basis, information, drift = (_number(known(name), view, places, base) for name in _RELATIONS)
    # Unrelated rows of one covariance vary in the base's basis as much as its own: that is not the basis kept.
    aligned = torch.stack([view.value(known("cka"), base, i).cpu() for i in places]).mean()
    floor = None if information.floor is None else min(information.floor, LOST)
    return (*found, basis._replace(alike=bool(aligned > LOST)), information._replace(floor=floor), drift)


def _changes(values: Sequence[Replicates], view: GuardedView) -> ArmNumber:
    """A definition, whose values are changes already and whose retraining floor is their spread."""
    apart = torch.stack([one.value.cpu() for one in values])
    floor = float(retraining_floor(apart)) if len(values) >= LEAST_RUNS else None
    return _joined(values, values, floor, view)


def _joined(
    values: Sequence[Replicates], changes: Sequence[Replicates], floor: float | None, view: GuardedView
) -> ArmNumber:
    pseudo, change = (
        torch.stack([centred_pseudo(one.centre, one.left_out) for one in several]) for several in (values, changes)
    )
    rounding = max(torch.finfo(x.dtype).eps for x in view.features)
    # Where a run has no number there is no floor either, rather than that of the rounding.
    floor = None if floor is None or isnan(floor) else max(floor, rounding)
    up = float(torch.stack([(one.value - one.centre).cpu() for one in values]).mean())
    return ArmNumber(pseudo, change, floor, max(one.step for one in values), up)
