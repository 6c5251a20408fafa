"""Two runs compared on the same rows: against each other, or both against a base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.align import Aligned, data_notes, distinct_names, shared_sites
from rankscope.analysis.cautions import below_floor, cautions, convention, overfitted, shape, why_not
from rankscope.analysis.guards import GuardedView, guarded_views
from rankscope.analysis.intervals import NO_VALUE, Banded, banded, bounds_of, limits_of, percent_of, replicates
from rankscope.analysis.measure import spectra_of
from rankscope.analysis.options import GROUPS, LEVEL, Analysis, chosen
from rankscope.analysis.references import Unrelated, against_itself, noise_value, unrelated
from rankscope.analysis.replicates import Method, Replicates, or_told
from rankscope.analysis.second_pass import Asked, prepare
from rankscope.analysis.view import FEWEST
from rankscope.comparisons.cka_map import cka_map
from rankscope.data.open import bare_name
from rankscope.definition import Comparison, Definition
from rankscope.errors import NotComparable, public
from rankscope.linalg.rows import at_unit_scale, sample_means
from rankscope.linalg.streamed import taken
from rankscope.linalg.svd import singular_values_of
from rankscope.progress import Progress, silent
from rankscope.registry import DEFAULT_COMPARED, Measure, known
from rankscope.results.record import Estimate, number
from rankscope.results.runs import Contrast, Pair, PairRecord
from rankscope.sites import Site, describe
from rankscope.spectrum import Spectrum
from rankscope.store import Run

MAP_SAMPLES = 2048
"""The most samples from which the site × site map is made."""


@public
def compare(
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    base: Run | str | Path | None = None,
    again: Run | str | Path | None = None,
    measures: Sequence[Measure] = DEFAULT_COMPARED,
    sites: str | Sequence[str | Site] = "all",
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
) -> Contrast:
    """Two runs compared at every site, with intervals over samples, paired across the runs.

    Args:
        a: a run, the path of one, or a checkpoint folder, which is collected first, on the data, rows and sites of the first
            run among these; without a base it is the reference.
        b: the other.
        base: the pre-trained run, against which changes are signed; none by default.
        again: the reference (the base, or ``a`` without one) collected once more, in another batch size or dtype: what it
            scores against itself. By default its two halves are compared.
        measures: a list of names of definitions and relations, the objects, or functions from ``(*, r)`` singular values
            to ``(*,)``; by default :data:`~rankscope.registry.DEFAULT_COMPARED`.
        sites: the sites, as ``"decoder.0-3"`` or a list; by default all that the runs share.
        groups: number of groups of samples that the jackknife leaves out in turn, and every other one of which is the half that
            cross-fitted numbers are evaluated on; 20 by default.
        interval: where intervals come from: ``influence``, what every sample does to a number to first order, where that is
            valid; or ``jackknife``, which computes everything again without each group of samples. Records say which was used.
        level: confidence of the intervals, and of the bands over all sites together; 0.95 by default.
        permutations: number of shuffles of the samples for the p-value of each relation; none by default.
        common_rows: where the rows differ, use those that all runs have, instead of refusing.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.options.VARIANTS`; by default nothing.
        allow_duplicates: compare rows even if half a per cent or more are copies of others that the data do not explain.
        base_model: the base of checkpoint folders, instead of the one that their adapters name.
        device: the torch device; by default the GPU where there is one.
        progress: called with the sites done, their number and the site at hand.

    Raises:
        NotComparable: if the runs share no site, their rows differ, there are too few, or too many are copies.
        UnknownName: if there is no such site, measure or variant.
        NonFinite: if a feature is NaN or infinite.
        TooLarge: if sums of the width of a site do not fit into memory; a measure that needs more says so in its record.
        UsageError: if an argument has the wrong type, as an array in the place of a run.
    """
    options = Analysis(sites, groups, level, variant, allow_duplicates, base_model, device, progress, interval)
    asked = chosen(measures, known)
    runs = tuple(options.open_together([run for run in (a, b, base, again) if run is not None]))
    aligned = Aligned(runs, shared_sites(runs, sites), common_rows, allow_duplicates)
    notes = _notes(runs, aligned, variant)
    names = distinct_names(runs)[: 2 + (base is not None)]
    roles = _Roles(2 if base is not None else None, len(runs) - 1 if again is not None else None, permutations)
    found, solved = [], dict[tuple[int, Site], Spectrum]()
    for site, view in guarded_views(aligned, options, asked, then="spectra and similarity"):
        for run in (0, 1):
            view.mean_share(run)  # while memory is free, because every record has it
        prepare(view, [one for what in asked if not why_not(what, view) for one in _numbers(what, roles.base)])
        found += [(what.name, *_record(runs[0], Pair(*names), site, what, view, roles, level)) for what in asked]
        solved |= {(i, site): one for i in range(len(names)) if (one := _solved(view, runs[i], i, site)) is not None}
    records, short = banded(found, level), list[str]()
    if all(r.value is None for r in records):
        raise NotComparable(f"none of the requested measures can compare these runs: {' · '.join(records[0].notes)}")
    spectra = or_told(
        short,
        lambda: {
            name: _spectra(runs[i], [(site, solved.get((i, site))) for site in aligned.sites], options)
            for i, name in enumerate(names)
        },
    )
    similarity = or_told(short, lambda: _similarity(aligned, roles.reference))
    return Contrast(
        records,
        names=names,
        rows=f"{runs[0].manifest.rows['kind']}, {bare_name(str(runs[0].manifest.probe['name']))}",
        spectra=spectra or {},
        similarity=similarity,
        similarity_sites=aligned.sites,
        notes=(*notes, *(f"without the figure of it: {one}" for one in short)),
        again=again is not None,
        level=level,
    )


def _notes(runs: Sequence[Run], aligned: Aligned, variant: str) -> list[str]:
    notes = data_notes(runs) + aligned.notes()
    for run in runs:
        alone = [s for s in run.sites if any(s not in other.sites for other in runs)]
        if alone:
            notes.append(f"only {run.name} has {describe(alone)}; left out")
    dtypes = {run.manifest.dtype for run in runs}
    if len(dtypes) > 1:
        notes.append(f"the runs are stored in different dtypes ({', '.join(sorted(dtypes))}), whose rounding differs")
    if variant != "raw":
        notes.append(f"the spectra and the map of similarity are of all rows as they were read, not of {variant}")
    return notes


class _Roles(NamedTuple):
    """The places of the base and of the reference read again; those compared are 0 and 1."""

    base: int | None
    again: int | None
    permutations: int

    @property
    def reference(self) -> int:
        """The run that relations start from."""
        return 0 if self.base is None else self.base


class _PairAtSite(NamedTuple):
    """A measure in the runs, between them, and what it is read against; None for what does not exist."""

    a: Replicates | None = None
    b: Replicates | None = None
    between: Replicates | None = None
    base: float | None = None
    null: Unrelated = Unrelated(None)
    itself: float | None = None
    values: tuple[Replicates | None, ...] = (None, None, None)
    """A definition in the first run, the second and the base."""

    def percents(self, what: Definition | Comparison, level: float) -> list[Estimate]:
        """The changes as shares of what was before: b against a, and both against the base."""
        a, b, base = self.values
        return [percent_of(after, before, what, level) for after, before in ((b, a), (a, base), (b, base))]


def _record(
    run: Run, names: Pair, site: Site, what: Definition | Comparison, view: GuardedView, roles: _Roles, level: float
) -> tuple[PairRecord, dict[str, Banded]]:
    """A record, and what its bands are made from."""
    reason, found, without_sinks = why_not(what, view), _PairAtSite(), None
    short: list[str] = []
    try:
        if not reason:
            found = _find(what, view, roles, short)
            if view.without_sinks is not None:
                evaluate = partial(view.without_sinks.evaluate, what)
                without_sinks = or_told(short, lambda: number(_sides(what, evaluate, roles.base)[2].value))
    except NO_VALUE as error:
        reason = str(error)
    bounds = bounds_of(what, view)
    of_side = bounds.difference if isinstance(what, Definition) and roles.base is not None else bounds
    of_both = bounds if isinstance(what, Comparison) and roles.base is None else bounds.difference
    a, b = limits_of(found.a, of_side, level), limits_of(found.b, of_side, level)
    between = limits_of(found.between, of_both, level)
    no_interval = dict.fromkeys((*between.notes, *a.notes, *b.notes))
    percent, percent_a, percent_b = found.percents(what, level)
    sides_of = (found.between,) if roles.base is None else (found.a, found.b)
    scores = (found.null.mean, *(float(one.value) for one in sides_of if one is not None))
    record = PairRecord(
        site=str(site),
        measure=what.name,
        estimate=between.estimate,
        a=a.estimate,
        b=b.estimate,
        base=found.base,
        noise=found.null.mean,
        itself=found.itself,
        shape=shape(view),
        convention=convention(what, run),
        unit=what.unit,
        notes=(reason,)
        if reason
        else (
            *no_interval,
            *cautions(what, view, found.between),
            *overfitted(what, view, scores),
            *found.null.notes,
            *dict.fromkeys(short),
        ),
        variant=view.variant,
        mean_share=view.mean_share(0),
        mean_share_b=view.mean_share(1),
        without_sinks=without_sinks,
        below_floor=below_floor(what, view),
        interval_by=None if between.estimate.low is None or found.between is None else found.between.method,
        p_unrelated=found.null.p,
        runs=names,
        percent=percent,
        percent_a=percent_a,
        percent_b=percent_b,
    )
    sides = {"band": Banded(found.between, of_both, isinstance(what, Definition) or roles.base is not None)}
    if roles.base is not None:
        sides |= {"band_a": Banded(found.a, of_side, False), "band_b": Banded(found.b, of_side, False)}
    return record, sides


def _find(what: Definition | Comparison, view: GuardedView, roles: _Roles, short: list[str]) -> _PairAtSite:
    itself = or_told(short, lambda: against_itself(view, what, roles.reference, roles.again))
    if isinstance(what, Comparison):
        draws, of = roles.permutations, what
        null = or_told(short, lambda: unrelated(view, of, roles.reference, 1, draws=draws)) or Unrelated(None)
    else:
        of_noise = what
        null = Unrelated(or_told(short, lambda: number(noise_value(of_noise, view))))
    a, b, between = _sides(what, partial(replicates, what, view), roles.base)
    if isinstance(what, Comparison) or roles.base is None or a is None or b is None:
        values = (a, b, None) if isinstance(what, Definition) else (None, None, None)
        return _PairAtSite(a, b, between, None, null, itself, values)
    base = replicates(what, view, roles.base)
    return _PairAtSite(a - base, b - base, between, number(base.value), null, itself, (a, b, base))


def _sides(
    what: Definition | Comparison, evaluate: Callable[..., Replicates], base: int | None
) -> tuple[Replicates | None, Replicates | None, Replicates]:
    """The measure in each run, or between the base and each, and b − a; for a relation without a base that of b to a."""
    if isinstance(what, Comparison) and base is None:
        return None, None, evaluate(0, 1)
    reference = () if isinstance(what, Definition) else (base,)
    a, b = evaluate(*reference, 0), evaluate(*reference, 1)
    return a, b, b - a


def _solved(view: GuardedView, run: Run, place: int, site: Site) -> Spectrum | None:
    """The singular values that the measures were made from; None where those of the figure are of other rows, or finer."""
    features = view.features[place]
    if view.variant != "raw" or view.n != run.n(site) or view.exponent or features.dtype == torch.float64:
        return None
    # Where memory is short they are decomposed again once the view is gone
    return or_told([], lambda: Spectrum.of(singular_values_of(view.part(place), dtype=features.dtype), site))


def _spectra(run: Run, solved: Sequence[tuple[Site, Spectrum | None]], options: Analysis) -> dict[Site, Spectrum]:
    """The spectrum of a run at each site, decomposed where it was not yet."""
    missing = tuple(site for site, one in solved if one is None)
    rest = spectra_of(Aligned((run,), missing, all_samples=options.allow_duplicates), device=options.device)
    return {site: rest[site] if one is None else one for site, one in solved}


def _numbers(what: Definition | Comparison, base: int | None) -> list[Asked]:
    """All that a record of a measure is made from: it in the two runs and the base, or between the runs and the base."""
    if isinstance(what, Definition):
        return [(what, (run,)) for run in (0, 1, base) if run is not None]
    return [(what, (0, 1))] if base is None else [(what, (base, 0)), (what, (base, 1))]


def _similarity(aligned: Aligned, reference: int) -> Tensor | None:
    """Debiased linear CKA of every site of the reference with every site of the second run, on means over samples."""
    if aligned.summed:  # whose sites were never summed across
        return None
    shared = sorted(set.intersection(*map(aligned.samples, aligned.sites)))[:MAP_SAMPLES]
    if len(shared) < FEWEST:
        return None
    sides: tuple[list[Tensor], list[Tensor]] = [], []
    for site in aligned.sites:  # one site at a time in memory
        features, rows = aligned.at(site)
        kept = torch.isin(rows.sample, torch.tensor(shared))
        for side, run in zip(sides, (reference, 1), strict=True):
            (x,), _ = at_unit_scale([taken(features[run], kept)])
            side.append(sample_means(x, rows.sample[kept]))
    return cka_map(*sides)
