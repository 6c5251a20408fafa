"""A run measured: named numbers along its sites, each with its interval, its convention and what noise scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rankscope import memory
from rankscope.analysis.align import HELD, Aligned
from rankscope.analysis.cautions import below_floor, cautions, convention, shape, why_not
from rankscope.analysis.foreseen import check_fits
from rankscope.analysis.guards import GuardedView, check_finite, guarded_views
from rankscope.analysis.intervals import NO_VALUE, bounds_of, limits_of, replicates
from rankscope.analysis.options import GROUPS, LEVEL, Analysis, chosen
from rankscope.analysis.references import noise_value
from rankscope.analysis.replicates import Method, or_told
from rankscope.analysis.second_pass import prepare
from rankscope.analysis.summed import whole
from rankscope.definition import Definition
from rankscope.devices import where
from rankscope.errors import NotComparable, public
from rankscope.linalg.streamed import Streamed
from rankscope.linalg.svd import singular_values, singular_values_of
from rankscope.progress import Progress, silent
from rankscope.registry import DEFAULT_DEFINITIONS, Measure, definition
from rankscope.results.record import number
from rankscope.results.runs import Measurement, RunRecord
from rankscope.sites import Site, select
from rankscope.spectrum import Spectrum
from rankscope.store import Run
from rankscope.store.sums import SummedRun

BATCH_BYTES = 1 << 30
"""The most of equally shaped features that is decomposed at a time, in float64."""
GRAM = 2
"""Matrices that singular values take at the least: of products, and what the solver makes of it."""


@public
def spectra(
    run: Run | str | Path,
    sites: str | Sequence[str | Site] = "all",
    *,
    centre: bool = True,
    base_model: str | Path | None = None,
    device: str | None = None,
) -> dict[Site, Spectrum]:
    """The singular values of a run's features at each site, decomposed in batches of equal shape.

    Args:
        run: a run, the path of one, or the folder of a checkpoint of the embedded model, which is collected first on scenes.
        sites: the sites, as ``"decoder.0-3"`` or a list; by default all.
        centre: whether the mean over rows is subtracted first.
        base_model: the base of a checkpoint folder, instead of the one that its adapter names.
        device: the torch device; by default the GPU where there is one.

    Raises:
        UnknownName: if the run has no such site.
        NonFinite: if a feature is NaN or infinite.
        TooLarge: if products of features do not fit into memory.
    """
    run = Analysis(sites, base_model=base_model, device=device).open(run)
    return spectra_of(Aligned((run,), select(sites, run.sites)), centre=centre, device=device)


def spectra_of(aligned: Aligned, *, centre: bool = True, device: str | None = None) -> dict[Site, Spectrum]:
    """The singular values of the first run at its sites, as :func:`spectra`, on the rows that are analysed."""
    run = aligned.runs[0]
    check_fits(aligned, GRAM, device)
    if isinstance(run, SummedRun):
        dtype, place = run.manifest.torch_dtype, where(device)
        sums = ((site, whole(run, site, place)) for site in aligned.sites)
        return {site: Spectrum.of(singular_values_of(m, centre=centre, dtype=dtype), site) for site, m in sums}
    shapes: dict[tuple[int, int], list[Site]] = {}
    for site in aligned.sites:
        shapes.setdefault((aligned.n(site), run.width(site)), []).append(site)
    found: dict[Site, Spectrum] = {}
    for (n, d), members in shapes.items():
        step = max(1, int(min(BATCH_BYTES, HELD * memory.free())) // (8 * n * d))
        for some in (members[i : i + step] for i in range(0, len(members), step)):
            held: dict[Site, Tensor] = {}
            for site in some:
                (x, *_), rows = aligned.at(site)
                check_finite(x, rows, site, run.name)
                if isinstance(x, Streamed):
                    found[site] = Spectrum.of(singular_values(x.to(where(device)), centre=centre), site)
                else:
                    held[site] = x
            if held:
                solved = singular_values(torch.stack([*held.values()]).to(where(device)), centre=centre)
                found |= {site: Spectrum.of(solved, site, i) for i, site in enumerate(held)}
    return {site: found[site] for site in aligned.sites}


@public
def measure(
    run: Run | str | Path,
    measures: Sequence[Measure] = DEFAULT_DEFINITIONS,
    *,
    sites: str | Sequence[str | Site] = "all",
    groups: int = GROUPS,
    interval: Method = "influence",
    level: float = LEVEL,
    variant: str = "raw",
    allow_duplicates: bool = False,
    base_model: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> Measurement:
    """Named numbers of one run along its sites.

    Args:
        run: a run, the path of one, or the folder of a checkpoint of the embedded model, which is collected first on scenes.
        measures: a list of names, definitions, or functions from ``(*, r)`` singular values to ``(*,)``; by default
            :data:`~rankscope.registry.DEFAULT_DEFINITIONS`.
        sites: the sites, as ``"decoder.0-3"`` or a list; by default all.
        groups: number of groups of samples that the jackknife leaves out in turn, and every other one of which is the half that
            cross-fitted numbers are evaluated on; 20 by default.
        interval: where intervals come from: ``influence``, what every sample does to a number to first order, where that is
            valid; or ``jackknife``, which computes everything again without each group of samples. Records say which was used.
        level: confidence of the intervals; 0.95 by default.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.options.VARIANTS`; by default nothing.
        allow_duplicates: measure rows even if half a per cent or more are copies of others that the data do not explain.
        base_model: the base of a checkpoint folder, instead of the one that its adapter names.
        device: the torch device; by default the GPU where there is one.
        progress: called with the sites done, their number and the site at hand.

    Raises:
        UnknownName: if there is no such site, measure or variant.
        NotComparable: if there are too few rows for any interval, or at every site too many are copies of others.
        NonFinite: if a feature is NaN or infinite.
        TooLarge: if sums of the width of a site do not fit into memory; a measure that needs more says so in its record.
        UsageError: if an argument has the wrong type, as an array in the place of the run.
    """
    options = Analysis(sites, groups, level, variant, allow_duplicates, base_model, device, progress, interval)
    definitions = chosen(measures, definition)
    run = options.open(run)
    aligned = Aligned((run,), select(sites, run.sites), all_samples=allow_duplicates)
    records = []
    for site, view in guarded_views(aligned, options, definitions):
        view.mean_share(0)  # while memory is free, because every record has it
        prepare(view, [(what, (0,)) for what in definitions if not why_not(what, view)])
        records += [_record(run, site, what, view, level) for what in definitions]
    if all(r.value is None for r in records) and records[0].notes:
        raise NotComparable(" · ".join(records[0].notes))
    return Measurement(tuple(records), run.name, tuple(aligned.notes()), level)


@public
def profile(
    run: Run | str | Path,
    what: Measure,
    *,
    sites: str | Sequence[str | Site] = "all",
    groups: int = GROUPS,
    interval: Method = "influence",
    level: float = LEVEL,
    variant: str = "raw",
    allow_duplicates: bool = False,
    base_model: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> Measurement:
    """One measure along the sites of a run: :func:`measure` with a single definition.

    Args:
        run: a run, the path of one, or the folder of a checkpoint of the embedded model, which is collected first on scenes.
        what: a name, a definition, or a function from ``(*, r)`` singular values to ``(*,)``.
        sites: the sites, as ``"decoder.0-3"`` or a list; by default all.
        groups: number of groups of samples that the jackknife leaves out in turn, and every other one of which is the half that
            cross-fitted numbers are evaluated on; 20 by default.
        interval: where intervals come from: ``influence``, what every sample does to a number to first order, where that is
            valid; or ``jackknife``, which computes everything again without each group of samples. Records say which was used.
        level: confidence of the intervals; 0.95 by default.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.options.VARIANTS`; by default nothing.
        allow_duplicates: measure rows even if half a per cent or more are copies of others that the data do not explain.
        base_model: the base of a checkpoint folder, instead of the one that its adapter names.
        device: the torch device; by default the GPU where there is one.
        progress: called with the sites done, their number and the site at hand.

    Raises:
        UnknownName: if there is no such site, measure or variant.
        NotComparable: if there are too few rows for any interval, or at every site too many are copies of others.
        NonFinite: if a feature is NaN or infinite.
        TooLarge: if sums of the width of a site do not fit into memory; a measure that needs more says so in its record.
        UsageError: if an argument has the wrong type, as an array in the place of the run.
    """
    options = Analysis(sites, groups, level, variant, allow_duplicates, base_model, device, progress, interval)
    return measure(run, [what], **vars(options))


def _record(run: Run, site: Site, what: Definition, view: GuardedView, level: float) -> RunRecord:
    reason, found, noise, without_sinks = why_not(what, view), None, None, None
    short: list[str] = []
    try:
        if not reason:
            found, noise = replicates(what, view, 0), or_told(short, lambda: number(noise_value(what, view)))
            if (rest := view.without_sinks) is not None:
                without_sinks = or_told(short, lambda: number(rest.value(what, 0)))
    except NO_VALUE as error:
        reason = str(error)
    estimate, no_interval = limits_of(found, bounds_of(what, view), level)
    notes = (reason,) if reason else (*no_interval, *cautions(what, view, found), *dict.fromkeys(short))
    return RunRecord(
        site=str(site),
        measure=what.name,
        estimate=estimate,
        noise=noise,
        shape=shape(view),
        convention=convention(what, run),
        unit=what.unit,
        notes=notes,
        variant=view.variant,
        refused=bool(view.refused),
        mean_share=view.mean_share(0),
        without_sinks=without_sinks,
        below_floor=below_floor(what, view),
        interval_by=None if estimate.low is None or found is None else found.method,
        run=run.name,
    )
