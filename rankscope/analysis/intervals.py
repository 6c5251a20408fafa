"""Numbers with what sampling leaves open: the interval of each, and bands that hold at all sites together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import expm1
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from rankscope.analysis.guards import GuardedView
from rankscope.analysis.replicates import Replicates
from rankscope.analysis.view import View
from rankscope.definition import Comparison, Definition, Extent, Range
from rankscope.errors import DataError, NotComparable, TooLarge
from rankscope.inference.bands import max_t, sign_flips
from rankscope.inference.jackknife import centred_pseudo, critical_t, degrees_of_freedom, standard_error
from rankscope.inference.ranges import Bounded, Scale, interval_inside, on_grid
from rankscope.results.between import BetweenRecord
from rankscope.results.record import Estimate, Span, number
from rankscope.results.runs import PairRecord

NO_VALUE = (NotComparable, DataError)
"""What a measure raises for rows on which it has no value."""
FEWEST_GROUPS = 6
"""Groups of samples below which sign flips give no p of interest."""


def replicates(what: Definition | Comparison, view: GuardedView, *runs: int) -> Replicates:
    """A number with its replicates; without them where too few rows are left once a group is left out, or memory is short.

    Raises:
        NotComparable: if it has no value on all rows either; or DataError, for a measure of rows that are not of its kind.
    """
    try:
        return view.evaluate(what, *runs)
    except TooLarge as error:
        view.let_go()
        value = view.value(what, *runs)
        return Replicates(value, value.new_empty(0), why=f"no interval: {error}")
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
    within = what.range_of(Extent(view.n, max(view.widths), view.rows.samples))
    return Bounds(within, what.scale, what.of_nothing)


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


class Banded(NamedTuple):
    """A number of a comparison, of which there is a band over all sites."""

    found: Replicates | None
    """The number without each group of samples; None where it has no value."""
    bounds: Bounds
    """Its bounds."""
    tested: bool
    """Whether the p-value of 0 is asked for; 0 is no hypothesis about a relation of two runs."""


B = TypeVar("B", PairRecord, BetweenRecord)
BANDS = {"band": "estimate", "band_a": "a", "band_b": "b"}
"""The fields of a comparison that are bands, each with that of its estimate."""


def banded(
    found: Sequence[tuple[str, B, Mapping[str, Banded]]], level: float, fields: Mapping[str, str] = BANDS
) -> tuple[B, ...]:
    """The records with their bands: each number of each measure by itself, over all its sites.

    Args:
        found: the name of the measure, the record, and its numbers by the field of their band.
        level: the confidence of the bands.
        fields: the fields of a record that are bands, each with that of its estimate.
    """
    records = [record for _, record, _ in found]
    signs = cache(lambda groups: sign_flips(groups, generator=torch.Generator().manual_seed(groups)))
    for field, estimate in fields.items():
        sides = {
            i: (name, side)
            for i, (name, record, some) in enumerate(found)
            # What has no interval of its own has no band either.
            if (side := some.get(field)) and getattr(record, estimate).low is not None
        }
        for i, span, p in _bands(sides, level, signs):
            told: dict[str, Any] = {field: span, **({"p": p} if sides[i][1].tested else {})}
            records[i] = replace(records[i], **told)
    return tuple(records)


def _bands(
    sides: Mapping[int, tuple[str, Banded]], level: float, signs: Callable[[int], Tensor]
) -> Iterator[tuple[int, Span, float | None]]:
    """Place → its band, and the p-value of 0 adjusted for all sites; ``signs`` gives the flips of so many groups.

    Sites whose rows come from other samples (a stack that some samples do not reach) make a family of their own. With m
    families each gets a share of the error: confidence 1 − (1 − level)/m, and p times m (Bonferroni).
    """
    families: dict[tuple[str, int], dict[int, Replicates]] = {}
    for i, (name, side) in sides.items():
        if side.found is not None and len(side.found.left_out) >= FEWEST_GROUPS:
            families.setdefault((name, len(side.found.left_out)), {})[i] = side.found
    shares = Counter(name for name, _ in families)
    for (name, groups), family in families.items():
        level_of_family, tested = 1 - (1 - level) / shares[name], any(sides[i][1].tested for i in family)
        pseudo = {i: centred_pseudo(one.centre, one.left_out) for i, one in family.items()}
        columns = torch.stack([*pseudo.values()], 1)
        steps = torch.tensor([one.step for one in family.values()]).to(columns)
        bands = max_t(columns, within=steps, level=level_of_family, signs=signs(groups), tested=tested)
        for k, i in enumerate(family):
            # No band is narrower than the interval of its site alone
            alone = float(critical_t(degrees_of_freedom(pseudo[i]), level_of_family))
            critical, step = max(bands.critical, alone), float(steps[k])
            low, high, _ = sides[i][1].bounds.bounded(float(bands.mean[k]), float(bands.se[k]), critical, step=step)
            yield i, Span(low, high), number((bands.p[k] * shares[name]).clamp(max=1))


def percent_of(b: Replicates | None, a: Replicates | None, what: Definition | Comparison, level: float) -> Estimate:
    """The change (b − a)/a of a rank, with its interval made on the logarithm of the ratio; None for other measures.

    The interval of the difference divided by ``a`` would take ``a`` for known exactly.
    """
    if a is None or b is None or not isinstance(what, Definition) or what.scale != "log":
        return Estimate()
    if not (float(a.value) > 0 and float(b.value) > 0):
        return Estimate()
    value = float(b.value / a.value) - 1
    if a.step or b.step:
        return Estimate(value)
    ends = limits_of(b.log() - a.log(), Bounds(Range(), "plain"), level).estimate
    if ends.low is None or ends.high is None:
        return Estimate(value)
    return Estimate(value, expm1(ends.low), expm1(ends.high))
