"""Two sites of one run related on the same samples, and how that changes from the base to tuned runs.

Sites of different stacks, and kinds of rows of one site, have different numbers of rows. What they share are the samples: the
rows of a kind become one row a sample, and two such matrices are compared as those of two runs are, with the same intervals,
nulls and refusals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.align import Aligned, data_notes, distinct_names, shared_sites
from rankscope.analysis.cautions import cautions, overfitted, shape, why_not
from rankscope.analysis.guards import GuardedView, guarded_view
from rankscope.analysis.intervals import NO_VALUE, Banded, banded, bounds_of, limits_of, replicates
from rankscope.analysis.options import GROUPS, LEVEL, Analysis, chosen
from rankscope.analysis.references import Unrelated, against_itself, unrelated
from rankscope.analysis.replicates import Method
from rankscope.analysis.second_pass import prepare
from rankscope.definition import Comparison, in_full
from rankscope.devices import where
from rankscope.errors import NotComparable, UsageError, public
from rankscope.features import POOLED, Rows
from rankscope.linalg.rows import sample_means
from rankscope.linalg.streamed import taken
from rankscope.progress import Progress, silent
from rankscope.reading.kinds import SiteRows, rows_of
from rankscope.reading.pooling import roles_of
from rankscope.registry import DEFAULT_GAP, DEFAULT_RELATED, Measure, comparison
from rankscope.results.between import Between, BetweenRecord
from rankscope.results.record import number
from rankscope.sites import Site, select
from rankscope.store import Run

Ends = tuple[SiteRows, SiteRows]
"""The rows of the first side and of the second, each at one site."""
Way = tuple[int, int]
"""Which side is read, and from which."""
Found = tuple[str, BetweenRecord, Mapping[str, Banded]]
"""The family of a record, whose sites have a band together; the record; and what its bands are made from."""
BANDS = {"band": "estimate", "change_band": "change"}
"""The fields of a record that are bands, each with that of its estimate."""


@public
def between(
    runs: Run | str | Path | Sequence[Run | str | Path],
    a: str | Site,
    b: str | Site,
    *,
    base: Run | str | Path | None = None,
    measures: Sequence[Measure] | None = None,
    groups: int = GROUPS,
    interval: Method = "influence",
    level: float = LEVEL,
    permutations: int = 0,
    common_rows: bool = False,
    variant: str = "raw",
    allow_duplicates: bool = False,
    base_model: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> Between:
    """Rows of two sites of a run related to each other, as ``vision.final:image`` to ``decoder:text``, and before and after tuning.

    A side is a selection of sites and, after a colon, a kind of rows as collecting knows them: ``image``, ``text``, ``query``,
    ``answer``, ``audio``, all real rows (``tokens``), ``first`` or ``last``. Each sample has one row a side: the mean of its rows
    of that kind, or the one that is first or last. One site is related to each of several, or several to as many, pair by
    pair. A relation with a direction, such as recoverability, is found both ways.

    Args:
        runs: a run, the path of one, or a list of them.
        a: the first side, which stands where formulas speak of the base.
        b: the second side.
        base: the pre-trained run, from which changes are measured on the same samples; none by default.
        measures: a list of names of relations, or the objects; by default :data:`~rankscope.registry.DEFAULT_RELATED`, and
            :data:`~rankscope.registry.DEFAULT_GAP` where both sides are kinds of rows of one site.
        groups: number of groups of samples that the jackknife leaves out in turn, and every other one of which is the half that
            cross-fitted numbers are evaluated on; 20 by default.
        interval: where intervals come from: ``influence``, what every sample does to a number to first order, where that is
            valid; or ``jackknife``, which computes everything again without each group of samples. Records say which was used.
        level: confidence of the intervals, and of the bands over all sites together; 0.95 by default.
        permutations: number of draws of what is unrelated, for the p-value of each relation; none by default.
        common_rows: where the rows of the runs differ, use those that all have, instead of refusing.
        variant: what to do to the rows of each site first, one of :data:`~rankscope.analysis.options.VARIANTS`; by default nothing.
        allow_duplicates: relate rows even if half a per cent or more are copies of others that the data do not explain.
        base_model: the base of checkpoint folders, instead of the one that their adapters name.
        device: the torch device; by default the GPU where there is one.
        progress: called with the pairs of sites done, their number and the site at hand.

    Raises:
        NotComparable: if no pair of sites can be related: no rows of a kind, fewer than four samples that have both, rows
            that differ between runs, runs of which only sums were kept, or no measure that suits the widths.
        UnknownName: if there is no such site, kind of rows, measure or variant.
        NonFinite: if a feature is NaN or infinite.
        UsageError: if the sides name unequal numbers of sites or the same rows, or a measure is of one run.
    """
    options = Analysis("all", groups, level, variant, allow_duplicates, base_model, device, progress, interval)
    sides = rows_of(str(a)), rows_of(str(b))
    given = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    if not given:
        raise UsageError("no run was given; name one or several")
    opened = tuple(options.open_together([*([] if base is None else [base]), *given]))
    pairs = _pairs(sides, shared_sites(opened, "all"))
    asked = chosen(_default(pairs) if measures is None else measures, comparison)
    aligned = Aligned(opened, tuple(dict.fromkeys(s for pair in pairs for s in pair)), common_rows, allow_duplicates)
    if aligned.summed:
        raise NotComparable(
            f"{aligned.summed[0].name} holds sums over its rows, in which those of two sites never met; collect with --keep rows"
        )
    names, notes = distinct_names(opened), data_notes(opened) + aligned.notes()
    # Both kinds of rows of a site come from one reading; the fixed side and the site at hand are all that is kept
    study = _Study(
        lru_cache(1)(partial(guarded_view, aligned, options=options)), options, names, base is not None, permutations
    )
    one_row_each = lru_cache(maxsize=2)(study.pooled)
    found: list[Found] = []
    left_out: list[str] = []
    several = len({one for one, _ in pairs}) > 1
    for done, (one, other) in enumerate(pairs):
        along = one if several else other
        progress(done, len(pairs), str(along))
        ends = SiteRows(str(one), sides[0].kind), SiteRows(str(other), sides[1].kind)
        try:
            view = study.view(*(one_row_each(end) for end in ends))
        except NotComparable as error:
            left_out.append(f"{ends[0]} and {ends[1]}: {error}")
            continue
        found += study.records(view, asked, ends, str(along))
    progress(len(pairs), len(pairs), "done")
    if not found:
        raise NotComparable(f"no two sites could be related; {left_out[0]}")
    records = banded(found, level, BANDS)
    if all(r.value is None for r in records):
        raise NotComparable(f"none of the requested measures can relate these rows: {' · '.join(records[0].notes)}")
    return Between(
        records, names, names[0] if base is not None else "", level, (*notes, *(f"left out, {one}" for one in left_out))
    )


def _pairs(sides: Ends, available: Sequence[Site]) -> list[tuple[Site, Site]]:
    """The sites of both sides, pair by pair."""
    left, right = (select(side.sites, available) for side in sides)
    if len(left) != len(right) and 1 not in (len(left), len(right)):
        raise UsageError(
            f"one site is related to each of several, or several to as many; {sides[0]} are {len(left)} sites, {sides[1]} {len(right)}"
        )
    most = max(len(left), len(right))
    pairs = list(zip(*(sites * (most if len(sites) == 1 else 1) for sites in (left, right)), strict=True))
    if sides[0].kind == sides[1].kind and all(one == other for one, other in pairs):
        raise UsageError(f"both sides are the same rows, {sides[0]}; name two kinds of rows, or two sites")
    return pairs


def _default(pairs: Sequence[tuple[Site, Site]]) -> Sequence[Measure]:
    return (*DEFAULT_RELATED, *(DEFAULT_GAP if all(one == other for one, other in pairs) else ()))


class _OneRowEach(NamedTuple):
    """The rows of one kind at a site, one a sample."""

    features: tuple[Tensor, ...]
    """For each run ``(S, d)``, as stored, float32 at least."""
    sample: Tensor
    """``(S,)`` the sample of each, ascending."""
    found: GuardedView
    """The rows that they were made of, and what was found wrong with them."""


class _Study(NamedTuple):
    """What all pairs of sites share."""

    rows_at: Callable[[Site], GuardedView]
    """The rows of all runs at a site."""
    options: Analysis
    names: tuple[str, ...]
    """The runs, the base first."""
    changes: bool
    """Whether the first run is a base."""
    draws: int
    """Draws of what is unrelated."""

    def pooled(self, end: SiteRows) -> _OneRowEach:
        """The rows of a kind at a site, as one row a sample in each run.

        Raises:
            NotComparable: if there are none.
        """
        found = self.rows_at(Site.parse(end.sites))
        keep = _of_kind(found.rows, end.kind)
        if not keep.any():
            raise NotComparable(
                f"there are no {end.kind} rows at {end.sites} but {found.rows}; collect with rows=tokens"
            )
        sample = found.rows.sample[keep]
        features = []
        for x in found.features:
            mean = sample_means(taken(x, keep), sample)
            half = (
                found.exponent // 2
            )  # of the unit in which the rows were brought; in two steps, as it may be 2 to the 1,024
            mean = mean * 2.0**half * 2.0 ** (found.exponent - half)
            features.append(mean.to(torch.promote_types(x.dtype, torch.float32)))
        return _OneRowEach(tuple(features), torch.unique(sample), found)

    def view(self, left: _OneRowEach, right: _OneRowEach) -> GuardedView:
        """Both sides in every run, on the samples that have rows on both: run r is at 2r and 2r + 1."""
        both = torch.isin(left.sample, right.sample)
        sample, ids = left.sample[both], left.found.rows.ids
        rows = Rows(sample, torch.full_like(sample, -1), torch.full(sample.shape, POOLED, dtype=torch.uint8), ids)
        on_both = both, torch.isin(right.sample, sample)
        features = [
            x[keep]
            for pair in zip(left.features, right.features, strict=True)
            for x, keep in zip(pair, on_both, strict=True)
        ]
        options = self.options
        view = GuardedView(
            features, rows, groups=options.groups, device=where(options.device), interval=options.interval
        )
        view.variant, view.refused = options.variant, left.found.refused or right.found.refused
        everyone = len(torch.unique(torch.cat([left.sample, right.sample])))
        fewer = f"of the {len(sample)} samples with rows on both sides, of {everyone}" if len(sample) < everyone else ""
        view.remarks = tuple(filter(None, dict.fromkeys((fewer, *left.found.remarks, *right.found.remarks))))
        return view

    def records(self, view: GuardedView, asked: Sequence[Comparison], ends: Ends, along: str) -> list[Found]:
        """The records of a pair of sites: of each relation both ways, if it has a direction, in each run."""
        ways = [(what, way) for what in asked for way in ((0, 1), (1, 0))[: 1 + what.directed]]
        places = [(what, way, run) for what, way in ways for run in range(len(self.names))]
        prepare(view, [(what, _at(run, way)) for what, way, run in places if not _why_not(what, view, ends)])
        return [self._record(what, view, way, run, ends, along) for what, way, run in places]

    def _record(self, what: Comparison, view: GuardedView, way: Way, run: int, ends: Ends, along: str) -> Found:
        (a, b), reason, value, before = _at(run, way), _why_not(what, view, ends), None, None
        null, itself = Unrelated(None), None
        try:
            if not reason:
                value, itself = replicates(what, view, a, b), against_itself(view, what, a)
                null = unrelated(view, what, a, b, draws=self.draws)
                before = replicates(what, view, *_at(0, way)) if self.changes and run else None
        except NO_VALUE as error:
            reason = str(error)
        change = None if value is None or before is None else value - before
        bounds, level = bounds_of(what, view), self.options.level
        scores = (null.mean, *(float(one.value) for one in (value, before) if one is not None))
        own, moved = limits_of(value, bounds, level), limits_of(change, bounds.difference, level)
        record = BetweenRecord(
            site=along,
            measure=what.name,
            a=str(ends[way[0]]),
            b=str(ends[way[1]]),
            run=self.names[run],
            estimate=own.estimate,
            noise=null.mean,
            itself=itself,
            shape=replace(shape(view), d=view.widths[a]),
            convention="; ".join(
                (in_full(what), *(f"{s}: {_how(ends[i])}" for s, i in zip("ab", way, strict=True)), "float64")
            ),
            unit=what.unit,
            notes=(reason,)
            if reason
            else (*own.notes, *moved.notes, *cautions(what, view, value), *overfitted(what, view, scores), *null.notes),
            d_b=view.widths[b],
            variant=view.variant,
            p_unrelated=null.p,
            interval_by=None if own.estimate.low is None or value is None else value.method,
            before=None if before is None else number(before.value),
            change=moved.estimate,
            run_base=self.names[0] if self.changes else "",
        )
        bands = {"band": Banded(value, bounds, False), "change_band": Banded(change, bounds.difference, True)}
        return f"{what.name} {way} {run}", record, bands


def _at(run: int, way: Way) -> tuple[int, int]:
    """The places of both sides of a run in the view."""
    return 2 * run + way[0], 2 * run + way[1]


def _why_not(what: Comparison, view: GuardedView, ends: Ends) -> str:
    """Why a relation has no meaning between two sites; empty where it has one."""
    one, other = (Site.parse(end.sites) for end in ends)
    if what.same_width and one.stack != other.stack and not view.refused:
        return f"needs a shared basis, which {one} and {other} do not have: they are of different stacks"
    return why_not(what, view)


def _of_kind(rows: Rows, kind: str) -> Tensor:
    """``(n,)`` bool: the rows of a kind, those of a sample standing together and in their order."""
    if kind in ("first", "last"):
        edge, between_samples = torch.ones(1, dtype=torch.bool), rows.sample.diff() != 0
        return torch.cat([edge, between_samples] if kind == "first" else [between_samples, edge])
    roles = roles_of(kind)
    if roles is None:
        return torch.ones(len(rows), dtype=torch.bool)
    return torch.isin(rows.role, torch.tensor(roles, dtype=rows.role.dtype))


def _how(end: SiteRows) -> str:
    """How the rows of a side became one a sample."""
    if end.kind in ("first", "last"):
        return f"the {end.kind} row of each sample"
    return f"the mean of each sample's {'' if end.kind == 'tokens' else f'{end.kind} '}rows"
