"""A run measured: named numbers along its sites, each with its interval, its convention and what noise scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.guards import APART, GuardedView, check_finite, check_variant, guarded_view
from rankscope.analysis.references import like_noise
from rankscope.analysis.view import Replicates, View
from rankscope.definition import Comparison, Definition, rows_enough
from rankscope.devices import where
from rankscope.errors import DataError, NotComparable
from rankscope.inference.jackknife import Scale, interval
from rankscope.linalg.svd import singular_values
from rankscope.progress import Progress, silent
from rankscope.registry import DEFAULT_DEFINITIONS, Measure, definition
from rankscope.results.record import NOTHING, Measured, Measurement
from rankscope.sites import Site, select
from rankscope.spectrum import Spectrum
from rankscope.store import Run

GROUPS = 20
"""Groups of samples left out in turn."""
NO_VALUE = (NotComparable, DataError)
"""What a measure raises of rows that it has no value for."""
BATCH_BYTES = 1 << 30
"""How much of equally shaped features is decomposed at a time, in float64."""


def spectra(
    run: Run, sites: str | Sequence[str | Site] = "all", *, centre: bool = True, device: str | None = None
) -> dict[Site, Spectrum]:
    """The singular values of a run's features at each site, decomposed in batches of equal shape.

    Args:
        run: the run.
        sites: which of its sites.
        centre: take the mean over rows away first.
        device: where to compute; the GPU where there is one.

    Raises:
        UnknownName: if the run has no such site.
        NonFinite: if a feature is NaN or infinite.
    """
    shapes: dict[tuple[int, int], list[Site]] = {}
    chosen = select(sites, run.sites)
    for site in chosen:
        shapes.setdefault((run.n(site), run.width(site)), []).append(site)
    found: dict[Site, Spectrum] = {}
    for (n, d), members in shapes.items():
        step = max(1, BATCH_BYTES // (8 * n * d))
        for some in (members[i : i + step] for i in range(0, len(members), step)):
            features = [run.features(site) for site in some]
            for site, x in zip(some, features, strict=True):
                check_finite(x, run.rows_at(site), site, run.name)
            solved = singular_values(torch.stack(features).to(where(device)), centre=centre)
            found |= zip(some, (Spectrum.of(solved, site, i) for i, site in enumerate(some)), strict=True)
    return {site: found[site] for site in chosen}


def measure(
    run: Run,
    measures: Sequence[Measure] = DEFAULT_DEFINITIONS,
    *,
    sites: str | Sequence[str | Site] = "all",
    groups: int = GROUPS,
    level: float = 0.95,
    variant: str = "raw",
    allow_duplicates: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> Measurement:
    """Named numbers of one run along its sites.

    Args:
        run: the run.
        measures: names, definitions, or functions from ``(*, r)`` singular values to ``(*,)``.
        sites: which of its sites.
        groups: how many groups of samples the jackknife leaves out in turn.
        level: the coverage of the intervals.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.guards.VARIANTS`.
        allow_duplicates: measure rows even if half a per cent or more are copies of others that the data do not explain.
        device: where to compute; the GPU where there is one.
        progress: told of each site.

    Raises:
        UnknownName: if there is no such site or measure.
        NotComparable: if there are too few rows for any interval, or at every site too many are copies of others.
        NonFinite: if a feature is NaN or infinite.
    """
    check_variant(variant)
    guard: dict[str, Any] = {"variant": variant, "allow_duplicates": allow_duplicates, "names": [run.name]}
    definitions = [definition(m) for m in measures]
    chosen = select(sites, run.sites)
    records: list[Measured] = []
    for done, site in enumerate(chosen):
        progress(done, len(chosen), str(site))
        x, rows = run.features(site), run.rows_at(site)
        view = guarded_view([x], rows, site, groups=groups, device=where(device), **guard)
        records += [_measured(run, site, d, view, level) for d in definitions]
    if all(r.value != r.value for r in records) and records[0].note:
        raise NotComparable(records[0].note)
    progress(len(chosen), len(chosen), "done")
    return Measurement(tuple(records), run.name)


def profile(run: Run, what: Measure, **options: Any) -> Measurement:
    """One measure along the sites of a run: :func:`measure` with a single definition and the same options."""
    return measure(run, [what], **options)


def _measured(run: Run, site: Site, what: Definition, view: GuardedView, level: float) -> Measured:
    nothing, found, noise, calm = why_not(what, view), None, NOTHING, NOTHING
    try:
        if not nothing:
            found, noise = measured(what, view, 0), noise_value(what, view)
            calm = float(view.calm.measured(what, 0).value) if view.calm else NOTHING
    except NO_VALUE as error:
        nothing = str(error)
    limits = interval_of(found, level, what.scale)
    endless = found and len(found.left_out) and limits.value == limits.value and limits.low != limits.low
    lost = "not positive without some of the samples, so without an interval" if endless else ""
    return Measured(
        site=str(site),
        measure=what.name,
        value=limits.value,
        low=limits.low,
        high=limits.high,
        noise=noise,
        n=view.n,
        samples=view.rows.samples,
        d=view.widths[0],
        dtype=dtype_name(view.features[0]),
        convention=convention(what, run),
        unit=what.unit,
        note=nothing or APART.join(filter(None, (lost, caution(what, view, found)))),
        variant=view.variant,
        refused=bool(view.refused),
        mean_share=view.mean_share(0),
        without_sinks=calm,
        below_floor=below_floor(what, view),
    )


def measured(what: Definition, view: GuardedView, run: int) -> Replicates:
    """A definition in one run; without replicates where so few rows are left without a group that there are none.

    Raises:
        NotComparable: if it has no value on all rows either; or DataError, for a measure of rows that are not of its kind.
    """
    try:
        return view.measured(what, run)
    except NO_VALUE:
        return view.only(run).measured(what, 0)


def related(what: Comparison, view: GuardedView, a: int, b: int) -> Replicates:
    """A relation of two runs, as :func:`measured`."""
    try:
        return view.related(what, a, b)
    except NO_VALUE:
        return view.only(a, b).related(what, 0, 1)


class Limits(NamedTuple):
    """A number and the ends of its interval."""

    value: float = NOTHING
    low: float = NOTHING
    high: float = NOTHING


def interval_of(estimate: Replicates | None, level: float, scale: Scale = "identity") -> Limits:
    """The jackknife interval of an estimate; NaN where there is none."""
    if estimate is None:
        return Limits()
    if not len(estimate.left_out):
        return Limits(float(estimate.value))
    found = interval(estimate.value, estimate.left_out, scale=scale, level=level)
    return Limits(float(found.value), float(found.low), float(found.high))


def why_not(what: Definition | Comparison, view: GuardedView) -> str:
    """Why a measure has no meaning here; empty where it has one."""
    if view.refused:
        return view.refused
    if isinstance(what, Definition) and what.needs_tokens and view.n == view.rows.samples:
        return "needs several rows a sample; collect with rows=tokens"
    if isinstance(what, Comparison) and len(set(view.widths)) > 1 and (what.same_width or what.reads == "spectra"):
        need = "a shared basis" if what.same_width else "spectra of equal length"
        return f"needs {need}; the widths are {' and '.join(map(str, view.widths))}"
    return ""


def caution(what: Definition | Comparison, view: GuardedView, found: Replicates | None = None) -> str:
    """What must be said beside a number that has a meaning."""
    bare = (
        "too few rows or groups of samples to leave any out, so without an interval"
        if found and not len(found.left_out)
        else ""
    )
    void = "not defined on these features" if found and found.value != found.value else ""
    return APART.join(filter(None, (void, bare, _caution(what, view), _floor_words(what, view), *view.remarks)))


def below_floor(what: Definition | Comparison, view: GuardedView) -> int:
    """Singular values that a measure of the spectrum meets and the stored dtype does not resolve, in the worst run."""
    if what.reads not in ("spectrum", "spectra") or view.refused:
        return 0
    return max(view.below_floor(run, centred=what.centred) for run in range(len(view.widths)))


def _floor_words(what: Definition | Comparison, view: GuardedView) -> str:
    if not below_floor(what, view):
        return ""
    out = "are left out" if isinstance(what, Definition) and what.resolved else "count, as the measure is defined"
    dtypes = "/".join(dict.fromkeys(dtype_name(x) for x in view.features))
    return f"singular values below what {dtypes} resolves (below_floor of them) {out}"


def _caution(what: Definition | Comparison, view: View) -> str:
    d = max(view.widths)
    enough = d * rows_enough(what)
    if view.n < enough:
        return (
            f"n-limited: {view.n} rows of {d} features, where {enough} are enough, so the value also measures n; "
            "compare at equal n only"
        )
    if what.name == "participation-ratio" and view.n > view.rows.samples:
        return "takes rows as independent, and those of one sample are not; see participation-ratio-clustered"
    return ""


def noise_value(what: Definition, view: View, run: int = 0) -> float:
    """What isotropic Gaussian features of the same shape score, from one seeded draw."""
    return float(like_noise(view, run).measured(what, 0).value)


def convention(what: Definition | Comparison, run: Run) -> str:
    """What was done to the rows before the formula."""
    special = ", special tokens kept" if run.manifest.rows.get("keep_special") else ""
    centring = {True: "centred", False: "uncentred"}[what.centred] if what.reads in ("spectrum", "spectra") else ""
    return "; ".join(filter(None, (what.formula, centring, f"rows={run.manifest.rows['kind']}{special}", "float64")))


def dtype_name(x: Tensor) -> str:
    """``float32`` for a tensor of that dtype."""
    return str(x.dtype).removeprefix("torch.")
