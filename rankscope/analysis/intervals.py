"""Numbers with what sampling leaves open: the interval of each, and bands that hold at all sites together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.guards import GuardedView
from rankscope.analysis.view import Replicates, View
from rankscope.definition import Comparison, Definition, Range, Size
from rankscope.errors import DataError, NotComparable
from rankscope.inference.bands import max_t
from rankscope.inference.jackknife import Scale, centred_pseudo
from rankscope.inference.ranges import Bounded, bounded_interval, difference_interval, from_scale, to_scale
from rankscope.results.record import Estimate, Span, number
from rankscope.results.runs import PairRecord

NO_VALUE = (NotComparable, DataError)
"""What a measure raises for rows on which it has no value."""
FEWEST_GROUPS = 6
"""Groups of samples below which sign flips give no p of interest."""


def replicates(what: Definition | Comparison, view: GuardedView, *runs: int) -> Replicates:
    """A number with its replicates; without them where too few rows are left once a group is left out.

    Raises:
        NotComparable: if it has no value on all rows either; or DataError, for a measure of rows that are not of its kind.
    """
    try:
        return view.evaluate(what, *runs)
    except NO_VALUE:
        return view.only(*runs).evaluate(what, *range(len(runs)))


class Limits(NamedTuple):
    """A number with its interval, and why it has none."""

    estimate: Estimate
    """The number and its interval, None for what does not exist."""
    notes: tuple[str, ...] = ()
    """Why the number has no interval although samples can be left out."""


def range_of(what: Definition | Comparison, view: View) -> Range:
    """The range of a number of these rows."""
    return what.range_of(Size(view.n, max(view.widths)))


def limits_of(found: Replicates | None, level: float, within: Range, scale: Scale = "identity") -> Limits:
    """A number with its jackknife interval, which stays inside the number's range."""
    return _limits(found, partial(bounded_interval, within=within, scale=scale, level=level))


def difference_limits(found: Replicates | None, level: float, within: Range) -> Limits:
    """A difference of two numbers of a range, with its jackknife interval."""
    return _limits(found, partial(difference_interval, within=within, level=level))


def _limits(found: Replicates | None, bounded: Callable[[Tensor, Tensor], Bounded]) -> Limits:
    if found is None:
        return Limits(Estimate())
    value = number(found.value)
    if value is None or not len(found.left_out):
        return Limits(Estimate(value))
    limits, reason = bounded(*found)
    if limits is None:
        return Limits(Estimate(value), (reason,))
    return Limits(Estimate(value, number(limits.low), number(limits.high)))


def banded(
    found: Sequence[tuple[Definition | Comparison, PairRecord, Replicates | None, Range]], level: float
) -> tuple[PairRecord, ...]:
    """The records with their bands: each measure by itself, over all its sites.

    Sites whose rows come from other samples (a stack that some samples do not reach) make a family of their own. With m
    families each gets a share of the error: confidence 1 − (1 − level)/m, and p times m (Bonferroni).

    Args:
        found: the measure, the record, the number without each group of samples, and the range that it stays in, which
            is without ends for a difference.
        level: the confidence of the bands.
    """
    records = [record for _, record, _, _ in found]
    families: dict[tuple[str, int], dict[int, Tensor]] = {}
    for i, (what, record, between, within) in enumerate(found):
        # What has no interval of its own has no band either.
        if between is not None and len(between.left_out) >= FEWEST_GROUPS and record.low is not None:
            pseudo = centred_pseudo(*(to_scale(x.double(), within) for x in between))
            if not bool(pseudo.isfinite().all()):
                continue
            families.setdefault((what.name, len(pseudo)), {})[i] = pseudo
    shares = Counter(name for name, _ in families)
    for (name, groups), family in families.items():
        level_of_family, generator = 1 - (1 - level) / shares[name], torch.Generator().manual_seed(groups)
        bands = max_t(torch.stack([*family.values()], 1), level=level_of_family, generator=generator)
        for k, i in enumerate(family):
            # 0 is no hypothesis for a relation of two runs; it is one for the difference of two relations.
            tested = isinstance(found[i][0], Definition) or records[i].a.value is not None
            p = number((bands.p[k] * shares[name]).clamp(max=1)) if tested else None
            ends = (from_scale(end[k], found[i][3]) for end in (bands.low, bands.high))
            records[i] = replace(records[i], band=Span(*map(number, ends)), p=p)
    return tuple(records)
