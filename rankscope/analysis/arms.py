"""Arms compared: several trainings of each recipe on the same rows, row noise and seed noise apart, and a verdict a site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rankscope.analysis.align import Aligned, data_notes, distinct_names, shared_sites
from rankscope.analysis.arm_numbers import Number, grounds_of, number
from rankscope.analysis.arm_records import Seen, evidence, records_of
from rankscope.analysis.guards import GuardedView, check_variant, guarded_view
from rankscope.analysis.measure import GROUPS, caution, convention, why_not
from rankscope.collecting.resolve import as_run
from rankscope.definition import Comparison, Definition
from rankscope.devices import where
from rankscope.errors import NotComparable, UsageError
from rankscope.progress import Progress, silent
from rankscope.registry import Measure, known
from rankscope.results.arms import ArmCompared, ArmContrast
from rankscope.results.verdict import LEAST_RUNS, Grounds, Verdict, verdict
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
"""What arms are compared in where nothing is asked for."""
Several = Mapping[str, Sequence[Run | str | Path]]
"""Of each arm its runs, the paths of runs, or checkpoint folders."""


def compare_arms(
    arms: Several,
    *,
    base: Run | str | Path | None = None,
    measures: Sequence[Measure] = DEFAULT_ARM_MEASURES,
    sites: str | Sequence[str | Site] = "all",
    groups: int = GROUPS,
    level: float = 0.95,
    variant: str = "raw",
    allow_duplicates: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> ArmContrast:
    """Several runs of each recipe compared on the same rows, with intervals over seeds and samples.

    Args:
        arms: name → runs that differ in seed only. A verdict, a retraining floor and an equivalence test need three.
        base: the pre-trained run, against which changes are signed; without it relations and verdicts are left out.
        measures: names of definitions and relations, the objects, or functions on ``(*, r)`` singular values.
        sites: which of the sites that all runs have.
        groups: how many groups of samples the jackknife leaves out in turn.
        level: the coverage of intervals, and of bands over all sites together.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.guards.VARIANTS`.
        allow_duplicates: compare rows even if half a per cent or more are copies that the data do not explain.
        device: where to compute; the GPU where there is one.
        progress: told of each site.

    Raises:
        UsageError: if there is no arm, or one without runs.
        NotComparable: if the runs share no site, their rows differ, there are too few, or too many are copies.
        UnknownName: if there is no such site, measure or variant.
    """
    check_variant(variant)
    if not arms or not all(arms.values()):
        raise UsageError("arms are named, and each has at least one run: {'lora': ['lora-s0.pt', 'lora-s1.pt']}")
    chosen = [known(m) for m in measures]
    opened = {name: [as_run(run, progress=progress) for run in runs] for name, runs in arms.items()}
    first = [] if base is None else [as_run(base, progress=progress)]
    runs = [*first, *(run for several in opened.values() for run in several)]
    places = _places(opened, len(first))
    aligned = Aligned(tuple(runs), shared_sites(runs, sites), common_rows=False)
    told = data_notes(runs)
    guard: dict[str, Any] = {"variant": variant, "allow_duplicates": allow_duplicates, "groups": groups}
    seen: list[Seen] = []
    for done, site in enumerate(aligned.sites):
        progress(done, len(aligned.sites), str(site))
        features, rows = aligned.at(site)
        view = guarded_view(features, rows, site, names=distinct_names(runs), device=where(device), **guard)
        seen.append(_seen(site, view, chosen, places, 0 if first else None))
    if not any(isinstance(one, Number) for s in seen for one in s.numbers.values()):
        raise NotComparable(f"nothing that was asked for compares these arms: {next(iter(seen[0].numbers.values()))}")
    progress(len(aligned.sites), len(aligned.sites), "done")
    verdicts = _verdicts(seen, places, level) if first else {}
    counts = {arm: len(mine) for arm, mine in places.items()}
    records = [
        record
        for what in chosen
        for record in records_of(what, seen, counts, verdicts, level=level, convention=convention(what, runs[0]))
    ]
    order = {str(site): i for i, site in enumerate(aligned.sites)}
    return ArmContrast(
        records=tuple(sorted(records, key=lambda r: order[r.site])),
        arms={name: tuple(run.name for run in several) for name, several in opened.items()},
        base=first[0].name if first else "",
        verdicts=verdicts,
        level=level,
        notes=(*told, *_notes(counts, records, bool(first))),
    )


def _places(opened: Mapping[str, Sequence[Run]], start: int) -> dict[str, tuple[int, ...]]:
    """Of each arm the places of its runs among all."""
    found: dict[str, tuple[int, ...]] = {}
    for name, runs in opened.items():
        found[name] = tuple(range(start, start + len(runs)))
        start += len(runs)
    return found


def _seen(
    site: Site,
    view: GuardedView,
    chosen: Sequence[Definition | Comparison],
    places: Mapping[str, tuple[int, ...]],
    base: int | None,
) -> Seen:
    numbers: dict[tuple[str, str], Number | str] = {}
    grounds: dict[str, tuple[Number, ...]] = {}
    for arm, mine in places.items():
        for what in chosen:
            numbers[what.name, arm] = why_not(what, view) or _try(what, view, mine, base)
        if base is not None and not view.refused and len(mine) >= LEAST_RUNS:
            try:
                grounds[arm] = grounds_of(view, mine, base)
            except NotComparable:
                continue
    shape = {"n": view.n, "samples": view.rows.samples, "d": view.widths[0], "variant": view.variant}
    return Seen(site, numbers, grounds, {what.name: caution(what, view) for what in chosen}, shape)


def _try(what: Definition | Comparison, view: GuardedView, mine: Sequence[int], base: int | None) -> Number | str:
    try:
        return number(what, view, mine, base)
    except NotComparable as error:
        return str(error)


def _verdicts(
    seen: Sequence[Seen], places: Mapping[str, tuple[int, ...]], level: float
) -> dict[tuple[str, str], Verdict]:
    found: dict[tuple[str, str], Verdict] = {}
    for arm, mine in places.items():
        at = [s for s in seen if arm in s.grounds]
        columns = [evidence([s.grounds[arm][k] for s in at], level) for k in range(len(Grounds._fields)) if at]
        grounds = {s.site: Grounds(*(column[i] for column in columns)) for i, s in enumerate(at)}
        for s in seen:
            found[str(s.site), arm] = verdict(grounds.get(s.site), len(mine))
    return found


def _notes(counts: Mapping[str, int], records: Sequence[ArmCompared], based: bool) -> Iterator[str]:
    for arm, runs in counts.items():
        if runs < LEAST_RUNS:
            yield f"{arm} has {runs} of {LEAST_RUNS} runs: no retraining floor, no verdict, and its interval speaks of these runs"
    if not based:
        yield "without a base there are no changes, no relations and no verdicts"
    apart = [r for r in records if r.measure == "drift" and "−" in r.arm and r.p < 0.05]
    if apart:
        yield (
            f"the arms drifted by different amounts at {', '.join(dict.fromkeys(r.site for r in apart))}; an arm that learnt "
            "less preserves more: compare them at a matched loss or drift"
        )
