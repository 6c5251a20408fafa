"""Numbers with what sampling leaves open: the interval of each, and bands that hold at all sites together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.guards import GuardedView
from rankscope.analysis.replicates import Replicates
from rankscope.analysis.view import View
from rankscope.definition import Comparison, Definition, Extent, Range
from rankscope.errors import DataError, NotComparable
from rankscope.inference.bands import max_t
from rankscope.inference.jackknife import centred_pseudo, critical_t, degrees_of_freedom, standard_error
from rankscope.inference.ranges import Bounded, Scale, interval_inside, on_grid
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


class Bounds(NamedTuple):
    """What decides the interval of a number besides its standard error."""

    within: Range
    """The range of the number."""
    scale: Scale = "range"
    """The scale on which its interval is made."""
    of_nothing: float | None = None
    """The value outside the range that it has on features that do not vary."""

    @property
    def difference(self) -> Bounds:
        """That of the difference of two such numbers, which is made on the difference itself."""
        return Bounds(self.within.of_differences, "plain")

    def bounded(self, value: float, se: float, critical: float, *, step: float = 0.0, reached: bool = True) -> Bounded:
        """The interval of a number, or of the number that rounds it up in steps; inside the range, or none."""
        if value == self.of_nothing:
            return Bounded(reason="the features do not vary, so there is no interval")
        least, most = self.within
        # The continuous number lies less than a step below the number that rounds it up
        found = interval_inside(value, se, critical, within=Range(least - step, most), scale=self.scale)
        found = on_grid(found, step, difference=self.scale == "plain", reached=reached)
        if found.low is None or found.high is None:
            return found
        return found._replace(low=max(found.low, least), high=min(found.high, most))


def bounds_of(what: Definition | Comparison, view: View) -> Bounds:
    """The bounds of a number of these rows."""
    within = what.range_of(Extent(view.n, max(view.widths)))
    return Bounds(within, what.scale if isinstance(what, Definition) else "range", what.of_nothing)


class Limits(NamedTuple):
    """A number with its interval, and why it has none."""

    estimate: Estimate
    """The number and its interval, None for what does not exist."""
    notes: tuple[str, ...] = ()
    """Why the number has no interval although samples can be left out."""


def limits_of(found: Replicates | None, bounds: Bounds, level: float) -> Limits:
    """A number with the interval that leaving out groups of samples gives it."""
    if found is None:
        return Limits(Estimate())
    value, groups = number(found.value), len(found.left_out)
    if value is None or not groups:
        return Limits(Estimate(value))
    # Equal replicates leave the rounding of their mean, which is no uncertainty
    constant = bool((found.left_out == found.centre).all())
    se = 0.0 if constant else float(standard_error(found.left_out))
    critical = float(critical_t(degrees_of_freedom(found.left_out), level))
    limits = bounds.bounded(float(found.centre), se, critical, step=found.step)
    if limits.low is None or limits.high is None:
        return Limits(Estimate(value), (limits.reason,))
    return Limits(Estimate(value, min(limits.low, value), max(limits.high, value)))


def banded(
    found: Sequence[tuple[Definition | Comparison, PairRecord, Replicates | None, Bounds]], level: float
) -> tuple[PairRecord, ...]:
    """The records with their bands: each measure by itself, over all its sites.

    Sites whose rows come from other samples (a stack that some samples do not reach) make a family of their own. With m
    families each gets a share of the error: confidence 1 − (1 − level)/m, and p times m (Bonferroni).

    Args:
        found: the measure, the record, the number without each group of samples, and its bounds.
        level: the confidence of the bands.
    """
    records = [record for _, record, _, _ in found]
    families: dict[tuple[str, int], dict[int, Tensor]] = {}
    for i, (what, record, between, _) in enumerate(found):
        # What has no interval of its own has no band either.
        if between is not None and len(between.left_out) >= FEWEST_GROUPS and record.low is not None:
            pseudo = centred_pseudo(between.centre, between.left_out)
            families.setdefault((what.name, len(pseudo)), {})[i] = pseudo
    shares = Counter(name for name, _ in families)
    for (name, groups), family in families.items():
        level_of_family, generator = 1 - (1 - level) / shares[name], torch.Generator().manual_seed(groups)
        pseudo = torch.stack([*family.values()], 1)
        steps = torch.tensor([between.step if (between := found[i][2]) is not None else 0.0 for i in family]).to(pseudo)
        bands = max_t(pseudo, within=steps, level=level_of_family, generator=generator)
        for k, i in enumerate(family):
            what, _, _, bounds = found[i]
            # 0 is no hypothesis for a relation of two runs; it is one for the difference of two relations.
            tested = isinstance(what, Definition) or records[i].a.value is not None
            p = number((bands.p[k] * shares[name]).clamp(max=1)) if tested else None
            # No band is narrower than the interval of its site alone
            alone = float(critical_t(degrees_of_freedom(family[i]), level_of_family))
            critical = max(bands.critical, alone)
            low, high, _ = bounds.bounded(float(bands.mean[k]), float(bands.se[k]), critical, step=float(steps[k]))
            records[i] = replace(records[i], band=Span(low, high), p=p)
    return tuple(records)
