"""Arms compared: several trainings of each recipe on the same rows, row noise and seed noise apart, and a verdict per site.

At each site every run's numbers become pseudo-values of groups of samples. Along the sites these become records: intervals,
bands, equivalence, and the difference of each pair of arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.align import Aligned, data_notes, shared_sites
from rankscope.analysis.arm_numbers import ArmNumber, SiteOfArms, site_of_arms
from rankscope.analysis.arm_recipes import require_trainings_of_one_recipe
from rankscope.analysis.cautions import convention
from rankscope.analysis.guards import guarded_views
from rankscope.analysis.intervals import Bounds, Limits
from rankscope.analysis.options import GROUPS, LEVEL, Analysis, chosen
from rankscope.analysis.replicates import Method
from rankscope.definition import Comparison, Definition
from rankscope.errors import NotComparable, UsageError, public
from rankscope.inference.arm_bands import ArmBands, arm_bands
from rankscope.inference.equivalence import arm_difference, components, equivalence
from rankscope.inference.jackknife import critical_t, in_groups
from rankscope.progress import Progress, silent
from rankscope.registry import Measure, known
from rankscope.results.arms import ArmContrast, ArmRecord, Equivalent, Errors
from rankscope.results.record import Estimate, Span, number
from rankscope.results.verdict import LEAST_RUNS, Evidence, Grounds, Verdict, verdict
from rankscope.sites import Site
from rankscope.store import Run

DEFAULT_ARM_MEASURES = (
    "roy-vetterli",
    "entropy-rank",
    "participation-ratio-clustered",
    "pt-peft",
    "cka",
    "variance-captured",
    "recoverability",
    "drift",
)
"""What arms are compared in by default."""


@public
def compare_arms(
    arms: Mapping[str, Sequence[Run | str | Path]],
    *,
    base: Run | str | Path | None = None,
    measures: Sequence[Measure] = DEFAULT_ARM_MEASURES,
    sites: str | Sequence[str | Site] = "all",
    groups: int = GROUPS,
    interval: Method = "influence",
    level: float = LEVEL,
    variant: str = "raw",
    allow_duplicates: bool = False,
    base_model: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> ArmContrast:
    """Several runs of each recipe compared on the same rows, with intervals over seeds and samples.

    Args:
        arms: name → runs that differ in seed only: runs, their paths, or checkpoint folders, which are collected first, on the
            data, rows and sites of the first run among all of them. A
            verdict, a retraining floor and an equivalence test need three.
        base: the pre-trained run, against which changes are signed; without it there are no relations and no verdicts.
        measures: a list of names of definitions and relations, the objects, or functions from ``(*, r)`` singular values
            to ``(*,)``; by default :data:`DEFAULT_ARM_MEASURES`.
        sites: the sites, as ``"decoder.0-3"`` or a list; by default all that the runs share.
        groups: number of groups of samples that the jackknife leaves out in turn, and every other one of which is the half that
            cross-fitted numbers are evaluated on; 20 by default.
        interval: where intervals come from: ``influence``, what every sample does to a number to first order, where that is
            valid; or ``jackknife``, which computes everything again without each group of samples. Records say which was used.
        level: confidence of the intervals, and of the bands over all sites together; 0.95 by default.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.options.VARIANTS`; by default nothing.
        allow_duplicates: compare rows even if half a per cent or more are copies of others that the data do not explain.
        base_model: the base of checkpoint folders, instead of the one that their adapters name.
        device: the torch device; by default the GPU where there is one.
        progress: called with the sites done, their number and the site at hand.

    Raises:
        UsageError: if there is no arm, one has no runs, two runs are the same checkpoint, the recipes of one arm differ, or an
            argument has the wrong type.
        NotComparable: if the runs share no site, their rows differ, there are too few, or too many are copies.
        TooLarge: if sums of the width of a site do not fit into memory.
        UnknownName: if there is no such site, measure or variant.
    """
    options = Analysis(sites, groups, level, variant, allow_duplicates, base_model, device, progress, interval)
    if not isinstance(arms, Mapping) or not arms or any(isinstance(x, str | Path) or not x for x in arms.values()):
        raise UsageError("arms are named, and each has at least one run: {'lora': ['lora-s0.pt', 'lora-s1.pt']}")
    asked = chosen(measures, known)
    together = iter(
        options.open_together([*([] if base is None else [base]), *(r for some in arms.values() for r in some)])
    )
    before = [] if base is None else [next(together)]
    opened = {name: [next(together) for _ in several] for name, several in arms.items()}
    require_trainings_of_one_recipe(opened)
    runs = (*before, *(run for several in opened.values() for run in several))
    places: dict[str, range] = {}
    for name, several in opened.items():
        start = len(before) + sum(map(len, places.values()))
        places[name] = range(start, start + len(several))
    aligned = Aligned(runs, shared_sites(runs, sites), all_samples=allow_duplicates)
    cross_data = data_notes(runs) + aligned.notes()
    measured = [what for what in asked if before or isinstance(what, Definition)]
    found = [
        site_of_arms(site, view, asked, places, 0 if before else None)
        for site, view in guarded_views(aligned, options, measured)
    ]
    if not any(isinstance(one, ArmNumber) for at in found for one in at.numbers.values()):
        raise NotComparable(
            f"none of the requested measures can compare these arms: {next(iter(found[0].numbers.values()))}"
        )
    verdicts = _verdicts(found, places, level) if before else {}
    names = {name: tuple(run.name for run in several) for name, several in opened.items()}
    base_name = before[0].name if before else None
    records = [
        record
        for what in asked
        for record in _records(what, found, names, verdicts, level, convention(what, runs[0]), base_name)
    ]
    order = {str(site): i for i, site in enumerate(aligned.sites)}
    notes = (*cross_data, *_notes(names, records, bool(before)))
    return ArmContrast(tuple(sorted(records, key=lambda r: order[r.site])), names, base_name, verdicts, level, notes)


def _notes(names: Mapping[str, Sequence[str]], records: Sequence[ArmRecord], based: bool) -> Iterator[str]:
    for arm, runs in names.items():
        if len(runs) < LEAST_RUNS:
            yield (
                f"{arm} has {len(runs)} of {LEAST_RUNS} runs: no retraining floor, no verdict, and an interval for these "
                "runs only"
            )
    if not based:
        yield "without a base there are no changes, no relations and no verdicts"
    apart = [r.site for r in records if r.measure == "drift" and "−" in r.arm and r.p is not None and r.p < 0.05]
    if apart:
        yield (
            f"the arms drifted by different amounts at {', '.join(dict.fromkeys(apart))}; an arm that learnt less keeps "
            "more: compare them at a matched loss or drift"
        )


class _Estimates(NamedTuple):
    """A number along the sites with all that is uncertain about it; ``(s,)`` each, NaN for what does not exist."""

    value: Tensor
    se: Tensor
    df: Tensor
    seed_sd: Tensor
    seed_se: Tensor
    sample_se: Tensor
    bands: ArmBands


def _estimates(sides: Sequence[Tensor], level: float, steps: Tensor | float = 0.0) -> _Estimates:
    """One arm along the sites, or the second less the first, from ``(R, G, s)`` pseudo-values of each; ``steps`` is ``(s,)``."""
    if len(sides) == 1:
        c = components(sides[0])
        bands = arm_bands(c.mean, c.se, c.df, sides, within=steps, level=level)
        return _Estimates(c.mean, c.se, c.df, c.seed_sd, c.seed_se, c.sample_se, bands)
    a, b = sides
    d = arm_difference(a, b, level=level)
    bands = arm_bands(d.value, d.se, d.df, [-a, b], within=steps, level=level)
    return _Estimates(d.value, d.se, d.df, torch.full_like(d.value, torch.nan), d.seed_se, d.sample_se, bands)


def _verdicts(
    found: Sequence[SiteOfArms], places: Mapping[str, Sequence[int]], level: float
) -> dict[tuple[str, str], Verdict]:
    verdicts: dict[tuple[str, str], Verdict] = {}
    for arm, mine in places.items():
        at = [one for one in found if arm in one.grounds]
        columns = [_evidence([one.grounds[arm][k] for one in at], level) for k in range(len(Grounds._fields)) if at]
        grounds = {one.site: Grounds(*row) for one, row in zip(at, zip(*columns, strict=True), strict=True)}
        for one in found:
            verdicts[str(one.site), arm] = verdict(grounds.get(one.site), len(mine))
    return verdicts


def _evidence(numbers: Sequence[ArmNumber], level: float) -> list[Evidence]:
    """One question of the verdict along the sites."""
    e = _estimates([_stacked([one.change for one in numbers])], level)
    return [
        Evidence(
            float(e.bands.low[i]),
            float(e.bands.high[i]),
            one.floor,
            one.alike and bool(_same(e, i, one.floor).equivalent),
        )
        for i, one in enumerate(numbers)
    ]


def _stacked(pseudo: Sequence[Tensor]) -> Tensor:
    """``(R, G, s)`` the pseudo-values at several sites, in as many groups as there are where there are fewest."""
    fewest = min(one.shape[-1] for one in pseudo)
    return torch.stack([in_groups(one, fewest) for one in pseudo], -1)


def _same(change: _Estimates, i: int, floor: float | None) -> Equivalent:
    """Whether a change lies inside the retraining floor."""
    value, se = change.value[i], change.se[i]
    if floor is None or not bool(value.isfinite() & se.isfinite()):
        return Equivalent(floor)
    found = equivalence(value, se, change.df[i], margin=floor)
    return Equivalent(floor, bool(found.equivalent), number(found.p))


class _ArmsAtSite(NamedTuple):
    """What a record says of an arm, or of two, at one site."""

    estimate: Estimate = Estimate()
    band: Span = Span()
    p: float | None = None
    errors: Errors = Errors()
    equivalence: Equivalent = Equivalent()
    notes: tuple[str, ...] = ()


def _records(
    what: Definition | Comparison,
    found: Sequence[SiteOfArms],
    names: Mapping[str, Sequence[str]],
    verdicts: Mapping[tuple[str, str], Verdict],
    level: float,
    convention: str,
    base: str | None,
) -> Iterator[ArmRecord]:
    """The records of one measure: each arm at each site, and each pair of arms."""
    for arms in [*((arm,) for arm in names), *combinations(names, 2)]:
        along = _along(what, found, arms, level)
        for at in found:
            here = along.get(at.site, _ArmsAtSite())
            missing = [one for one in (at.numbers[what.name, arm] for arm in arms) if isinstance(one, str)]
            yield ArmRecord(
                str(at.site),
                what.name,
                " − ".join(reversed(arms)),
                *here[:-1],
                runs=min(len(names[arm]) for arm in arms),
                shape=at.shape,
                convention=convention,
                unit=what.unit,
                verdict=str(verdicts.get((str(at.site), arms[0]), "")) if len(arms) == 1 else "",
                notes=tuple(missing[:1]) or (*here.notes, *at.notes[what.name]),
                variant=at.variant,
                run_names=" − ".join(", ".join(names[arm]) for arm in reversed(arms)),
                run_base=base,
            )


def _along(
    what: Definition | Comparison, found: Sequence[SiteOfArms], arms: Sequence[str], level: float
) -> dict[Site, _ArmsAtSite]:
    """Site → what is known of an arm, or of two, where all of them have a number."""
    rows: dict[Site, list[ArmNumber]] = {}
    for at in found:
        numbers = [one for one in (at.numbers[what.name, arm] for arm in arms) if isinstance(one, ArmNumber)]
        if len(numbers) == len(arms):
            rows[at.site] = numbers
    if not rows:
        return {}
    steps = torch.tensor([max(one.step for one in row) for row in rows.values()], dtype=torch.float64)
    fewest = min(one.pseudo.shape[-1] for row in rows.values() for one in row)
    e = change = _estimates(
        [torch.stack([in_groups(row[k].pseudo, fewest) for row in rows.values()], -1) for k in range(len(arms))],
        level,
        steps,
    )
    if len(arms) == 1:
        change = _estimates([_stacked([row[0].change for row in rows.values()])], level, steps)
    bounds = {at.site: at.bounds[what.name] for at in found}
    if len(arms) == 2:
        bounds = {site: one.difference for site, one in bounds.items()}
    return {site: _at(e, change, i, row, level, bounds[site]) for i, (site, row) in enumerate(rows.items())}


def _at(
    e: _Estimates, change: _Estimates, i: int, row: Sequence[ArmNumber], level: float, bounds: Bounds
) -> _ArmsAtSite:
    floors = [one.floor for one in row if one.floor is not None]
    step = max(one.step for one in row)
    ups = [one.rounding for one in row]
    up = ups[0] if len(ups) == 1 else ups[1] - ups[0]
    found = _limits(e.value[i], e.se[i], float(critical_t(e.df[i], level)), up, step, bounds)
    # Two trainings leave their spread one degree of freedom, with which a band over sites would reach anywhere.
    several = all(len(one.pseudo) != 2 for one in row)
    band = (
        _limits(e.value[i], e.se[i], float(e.bands.critical[i]), up, step, bounds).estimate if several else Estimate()
    )
    return _ArmsAtSite(
        found.estimate,
        Span(band.low, band.high),
        number(change.bands.p[i]),
        Errors(number(e.seed_sd[i]), number(e.seed_se[i]), number(e.sample_se[i])),
        _same(change, i, max(floors) if len(floors) == len(row) else None),
        found.notes,
    )


def _limits(value: Tensor, se: Tensor, critical: float, up: float, step: float, bounds: Bounds) -> Limits:
    """The mean over runs with its interval; ``up`` is the mean of what rounding to the step added to the runs."""
    shown = number(value + up)
    if shown is None:
        return Limits(Estimate(), (f"{'infinite' if value.isinf() else 'not defined'} on the features of a run",))
    low, high, reason = bounds.bounded(float(value), float(se), critical, step=step, reached=False)
    if low is None or high is None:
        return Limits(Estimate(shown), (reason,))
    return Limits(Estimate(shown, min(low, shown), max(high, shown)))
