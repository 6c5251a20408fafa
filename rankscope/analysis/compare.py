"""Two runs compared on the same rows: against each other, or both against a base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.align import Aligned, data_notes, distinct_names, shared_sites
from rankscope.analysis.banding import banded
from rankscope.analysis.guards import GuardedView, check_variant, guarded_view
from rankscope.analysis.measure import (
    GROUPS,
    NO_VALUE,
    below_floor,
    caution,
    convention,
    dtype_name,
    interval_of,
    measured,
    noise_value,
    related,
    spectra,
    why_not,
)
from rankscope.analysis.references import against_itself, unrelated
from rankscope.analysis.view import FEWEST, Replicates
from rankscope.collecting.resolve import as_run
from rankscope.comparisons.cka_map import cka_map
from rankscope.definition import Comparison, Definition
from rankscope.devices import where
from rankscope.errors import NotComparable
from rankscope.features import Rows
from rankscope.progress import Progress, silent
from rankscope.registry import DEFAULT_COMPARED, Measure, known
from rankscope.results.record import NOTHING, Compared, Contrast
from rankscope.sites import Site, describe
from rankscope.store import Run

MAP_SAMPLES = 2048
"""The most samples from which the site × site map is made."""


def compare(
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    base: Run | str | Path | None = None,
    again: Run | str | Path | None = None,
    measures: Sequence[Measure] = DEFAULT_COMPARED,
    sites: str | Sequence[str | Site] = "all",
    groups: int = GROUPS,
    level: float = 0.95,
    permutations: int = 0,
    common_rows: bool = False,
    variant: str = "raw",
    allow_duplicates: bool = False,
    base_model: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> Contrast:
    """Two runs compared at every site, with intervals from a jackknife over samples, paired across the runs.

    Args:
        a: a run, the path of one, or a checkpoint folder, which is collected first; without a base it is the reference.
        b: the other.
        base: the pre-trained run, against which changes are signed.
        again: the reference (the base, or ``a`` without one) collected once more, in another batch size or dtype: what it
            scores against itself; without it the two halves of its rows tell.
        measures: names of definitions and relations, the objects, or functions on ``(*, r)`` singular values.
        sites: which of the sites that all runs have.
        groups: how many groups of samples the jackknife leaves out in turn.
        level: the coverage of the intervals, and of the bands over all sites together.
        permutations: shuffles of the samples for the p-value of each relation; none by default.
        common_rows: where the rows differ, use those that all have, rather than refuse.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.guards.VARIANTS`.
        allow_duplicates: compare rows even if half a per cent or more are copies of others that the data do not explain.
        base_model: the base of checkpoint folders, in place of the one that their adapters name.
        device: where to compute; the GPU where there is one.
        progress: told of each site.

    Raises:
        NotComparable: if the runs share no site, their rows differ, there are too few, or too many are copies.
        UnknownName: if there is no such site or measure.
        NonFinite: if a feature is NaN or infinite.
    """
    check_variant(variant)
    chosen = [known(m) for m in measures]
    given = (a, b, *(() if base is None else (base,)), *(() if again is None else (again,)))
    runs = tuple(as_run(r, progress=progress, base_model=base_model) for r in given)
    roles = Roles(2 if base is not None else None, len(runs) - 1 if again is not None else None)
    aligned = Aligned(runs, shared_sites(runs, sites), common_rows)
    notes = _notes(runs, aligned, variant)
    guard: dict[str, Any] = {"variant": variant, "allow_duplicates": allow_duplicates, "names": distinct_names(runs)}
    found: list[tuple[Definition | Comparison, Compared, Replicates | None]] = []
    for done, site in enumerate(aligned.sites):
        progress(done, len(aligned.sites), str(site))
        features, rows = aligned.at(site)
        view = guarded_view(features, rows, site, groups=groups, device=where(device), **guard)
        found += [(what, *_compared(aligned, site, what, view, roles, level, permutations)) for what in chosen]
    records = banded(found, level)
    if all(r.value != r.value for r in records):
        raise NotComparable(f"nothing that was asked for compares these runs: {records[0].note}")
    progress(len(aligned.sites), len(aligned.sites), "spectra and similarity")
    names = distinct_names(runs)[: 2 + (base is not None)]
    return Contrast(
        tuple(records),
        names=names,
        rows=f"{runs[0].manifest.rows['kind']}, {runs[0].manifest.probe['name']}",
        spectra={name: spectra(run, aligned.sites, device=device) for name, run in zip(names, runs, strict=False)},
        similarity=_similarity(aligned, roles.reference),
        similarity_sites=aligned.sites,
        notes=tuple(notes),
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


class Roles(NamedTuple):
    """Which of the runs is the base, and which the reference read again; the first two are those compared."""

    base: int | None = None
    again: int | None = None

    @property
    def reference(self) -> int:
        """The run that relations start from."""
        return 0 if self.base is None else self.base


def _compared(
    aligned: Aligned,
    site: Site,
    what: Definition | Comparison,
    view: GuardedView,
    roles: Roles,
    level: float,
    permutations: int,
) -> tuple[Compared, Replicates | None]:
    """A record, and what its bands are made of."""
    based = roles.base is not None
    nothing, parts, calm = why_not(what, view), _Parts(), NOTHING
    try:
        if not nothing:
            parts = (
                _defined(what, view, roles)
                if isinstance(what, Definition)
                else _related(what, view, roles, permutations)
            )
            calm = _without_sinks(what, view, based)
    except NO_VALUE as error:
        nothing = str(error)
    scale = what.scale if isinstance(what, Definition) and not based else "identity"
    a, b, between = (
        interval_of(parts.a, level, scale),
        interval_of(parts.b, level, scale),
        interval_of(parts.between, level),
    )
    record = Compared(
        site=str(site),
        measure=what.name,
        value=between.value,
        low=between.low,
        high=between.high,
        a=a.value,
        b=b.value,
        difference=between.value if parts.a is not None else NOTHING,
        a_low=a.low,
        a_high=a.high,
        b_low=b.low,
        b_high=b.high,
        base=parts.base,
        noise=parts.noise,
        itself=parts.itself,
        n=view.n,
        samples=view.rows.samples,
        d=view.widths[0],
        dtype="/".join(dict.fromkeys(dtype_name(x) for x in view.features)),
        convention=convention(what, aligned.runs[0]),
        unit=what.unit,
        note=nothing or caution(what, view, parts.between),
        variant=view.variant,
        mean_share=view.mean_share(0),
        mean_share_b=view.mean_share(1),
        without_sinks=calm,
        below_floor=below_floor(what, view),
        p_unrelated=parts.p_unrelated,
    )
    return record, parts.between


def _without_sinks(what: Definition | Comparison, view: GuardedView, based: bool) -> float:
    """The number in question without the rows of massive length; NaN where there are none."""
    calm = view.calm
    if calm is None:
        return NOTHING
    if isinstance(what, Definition):
        return float(calm.measured(what, 1).minus(calm.measured(what, 0)).value)
    if not based:
        return float(calm.related(what, 0, 1).value)
    return float(calm.related(what, 2, 1).minus(calm.related(what, 2, 0)).value)


class _Parts(NamedTuple):
    """A measure in the runs and between them; what has no meaning is None or NaN."""

    a: Replicates | None = None
    b: Replicates | None = None
    between: Replicates | None = None
    base: float = NOTHING
    noise: float = NOTHING
    itself: float = NOTHING
    p_unrelated: float = NOTHING


def _defined(what: Definition, view: GuardedView, roles: Roles) -> _Parts:
    a, b, noise = measured(what, view, 0), measured(what, view, 1), noise_value(what, view)
    itself = against_itself(view, what, roles.reference, roles.again)
    if roles.base is None:
        return _Parts(a, b, b.minus(a), noise=noise, itself=itself)
    base = measured(what, view, roles.base)
    return _Parts(a.minus(base), b.minus(base), b.minus(a), base=float(base.value), noise=noise, itself=itself)


def _related(what: Comparison, view: GuardedView, roles: Roles, permutations: int) -> _Parts:
    itself = against_itself(view, what, roles.reference, roles.again)
    null = unrelated(view, what, roles.reference, 1, draws=permutations)
    told: dict[str, Any] = {"noise": null.mean, "itself": itself, "p_unrelated": null.p}
    if roles.base is None:
        return _Parts(between=related(what, view, 0, 1), **told)
    a, b = related(what, view, roles.base, 0), related(what, view, roles.base, 1)
    return _Parts(a, b, b.minus(a), **told)


def _similarity(aligned: Aligned, reference: int) -> Tensor | None:
    """Debiased linear CKA of every site of the reference with every site of the second run, on means over samples."""
    shared = sorted(set.intersection(*map(aligned.samples, aligned.sites)))[:MAP_SAMPLES]
    if len(shared) < FEWEST:
        return None
    sides: tuple[list[Tensor], list[Tensor]] = [], []
    for site in aligned.sites:
        features, rows = aligned.at(site)
        for side, run in zip(sides, (reference, 1), strict=True):
            side.append(_sample_means(features[run], rows, shared))
    return cka_map(*sides)


def _sample_means(x: Tensor, rows: Rows, samples: Sequence[int]) -> Tensor:
    """``(len(samples), d)`` float64, the mean over the rows of each sample."""
    place = torch.full((len(rows.ids),), -1)
    place[torch.tensor(samples)] = torch.arange(len(samples))
    kept = place[rows.sample] >= 0
    where_to = place[rows.sample[kept]]
    total = torch.zeros(len(samples), x.shape[1], dtype=torch.float64).index_add_(0, where_to, x[kept].double())
    return total / torch.bincount(where_to, minlength=len(samples))[:, None]
