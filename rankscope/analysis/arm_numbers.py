"""One site of several arms: every run's numbers there, as pseudo-values of groups of samples, and how far retrainings lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.guards import GuardedView
from rankscope.analysis.view import Replicates, View
from rankscope.definition import Comparison, Definition
from rankscope.errors import NotComparable
from rankscope.inference.equivalence import retraining_floor
from rankscope.inference.jackknife import centred_pseudo
from rankscope.registry import known
from rankscope.results.verdict import LEAST_RUNS, LOST


class Number(NamedTuple):
    """A number of one arm at one site."""

    pseudo: Tensor
    """``(R, G)`` pseudo-values about each run's value on all rows."""
    change: Tensor
    """``(R, G)`` the same of the change: of a relation against its ceiling, what the base gives with itself."""
    floor: float
    """How far retrainings lie apart; NaN with fewer than three runs, and never below the rounding of the features."""


def number(what: Definition | Comparison, view: GuardedView, places: Sequence[int], base: int | None) -> Number:
    """A measure in the runs of one arm.

    Raises:
        NotComparable: for a relation without a base, or where the runs do not allow it.
    """
    if isinstance(what, Comparison):
        if base is None:
            raise NotComparable(f"{what.name} relates two runs; arms need a base for it")
        related = [view.related(what, base, i) for i in places]
        ceiling = view.related(what, base, base)
        return _number(related, [x.minus(ceiling) for x in related], _apart(what, view, places), view)
    found = [view.measured(what, i) for i in places]
    if base is not None:
        found = [one.minus(view.measured(what, base)) for one in found]
    return _number(found, found, _spread(found), view)


def grounds_of(view: GuardedView, places: Sequence[int], base: int) -> tuple[Number, ...]:
    """The numbers of a verdict, in the order of :class:`rankscope.results.verdict.Grounds`.

    Raises:
        NotComparable: if one has no meaning here.
    """
    ranks = ("participation-ratio" if view.n == view.rows.samples else "participation-ratio-clustered", "entropy-rank")
    found = []
    for name in ranks:
        what = known(name)
        assert isinstance(what, Definition)
        logs = [_log(view.measured(what, i)).minus(_log(view.measured(what, base))) for i in places]
        found.append(_number(logs, logs, _spread(logs), view))
    basis, information, drift = (
        number(known(name), view, places, base) for name in ("variance-captured", "recoverability", "drift")
    )
    return (*found, basis, information._replace(floor=min(information.floor, LOST)), drift)


def _number(values: Sequence[Replicates], changes: Sequence[Replicates], floor: float, view: GuardedView) -> Number:
    pseudo, change = (torch.stack([centred_pseudo(*one) for one in several]) for several in (values, changes))
    rounding = max(torch.finfo(x.dtype).eps for x in view.features)
    return Number(pseudo, change, floor if floor != floor else max(floor, rounding))


def _log(estimate: Replicates) -> Replicates:
    return Replicates(estimate.value.log(), estimate.left_out.log())


def _spread(found: Sequence[Replicates]) -> float:
    if len(found) < LEAST_RUNS:
        return math.nan
    return float(retraining_floor(torch.stack([one.value.cpu() for one in found])))


def _apart(what: Comparison, view: GuardedView, places: Sequence[int]) -> float:
    """How far the two runs of an arm that differ most lie apart; NaN with fewer than three runs."""
    if len(places) < LEAST_RUNS:
        return math.nan
    return max(_shortfall(what, view.only(i, j)) for i, j in combinations(places, 2))


def _shortfall(what: Comparison, pair: View) -> float:
    return abs(float(pair.related(what, 0, 1).value) - float(pair.related(what, 0, 0).value))
