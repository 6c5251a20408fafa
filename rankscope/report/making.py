"""From runs to a report, and from comparisons to a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rankscope.analysis.align import Aligned, distinct_names
from rankscope.analysis.compare import compare
from rankscope.analysis.options import GROUPS, LEVEL, Analysis
from rankscope.analysis.replicates import Method
from rankscope.analysis.weigh import weigh
from rankscope.errors import RankscopeError, UsageError, public
from rankscope.progress import Progress, silent
from rankscope.registry import DEFAULT_COMPARED, Measure
from rankscope.report.extras import Extras
from rankscope.report.page import page
from rankscope.report.planes import Plane, planes
from rankscope.results.runs import Contrast, Pair
from rankscope.results.weights import WeightReport
from rankscope.sites import Site
from rankscope.store import Run
from rankscope.writing import check_free, write_output


@public
def make_report(
    runs: Sequence[Run | str | Path],
    *,
    base: Run | str | Path,
    out: str | Path = "report.html",
    measures: Sequence[Measure] = DEFAULT_COMPARED,
    sites: str | Sequence[str | Site] = "all",
    groups: int = GROUPS,
    interval: Method = "influence",
    level: float = LEVEL,
    common_rows: bool = False,
    variant: str = "raw",
    allow_duplicates: bool = False,
    weights: bool = False,
    base_model: str | Path | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> tuple[Contrast, ...]:
    """Compare runs with their base and write the report: one HTML file.

    Two runs are compared with the base and with each other; one, or three and more, each with the base.

    Args:
        runs: runs, the paths of some, or checkpoint folders, which are collected first, on the base's data, rows and sites.
        base: the pre-trained run.
        out: the file; ``report.html`` by default.
        measures: as for :func:`rankscope.compare`.
        sites: as for :func:`rankscope.compare`.
        groups: as for :func:`rankscope.compare`.
        interval: as for :func:`rankscope.compare`.
        level: confidence of the intervals and bands.
        common_rows: where the rows differ, use those that all runs have.
        variant: as for :func:`rankscope.compare`.
        allow_duplicates: as for :func:`rankscope.compare`.
        weights: whether what changed in the weights is shown too, of the checkpoints that are where the runs say.
        base_model: the base of checkpoint folders, instead of the one that their adapters name.
        device: the torch device; by default the GPU where there is one.
        overwrite: whether a file at ``out`` is replaced.
        progress: called with the sites done, their number and the site at hand.

    Returns:
        The comparisons in the report.

    Raises:
        OutputExists: if there is a file and it is kept.
        UsageError: if there is no run.
        NotComparable, UnknownName, NonFinite: as :func:`rankscope.compare`.
    """
    check_free(Path(out), overwrite=overwrite)
    if isinstance(runs, str | Path) or not runs:
        raise UsageError("a report is made of a list of runs, one or more, and a base; got none")
    options = Analysis(sites, groups, level, variant, allow_duplicates, base_model, device, progress, interval)
    pre_trained, *tuned = options.open_together([base, *runs])
    how: dict[str, Any] = {**vars(options), "measures": measures, "common_rows": common_rows}
    names = distinct_names([pre_trained, *tuned])
    if len(tuned) == 2:
        both = compare(tuned[0], tuned[1], base=pre_trained, **how)
        results = [_renamed(both, (*names[1:], names[0]))]
    else:
        each = zip(tuned, names[1:], strict=True)
        results = [_renamed(compare(pre_trained, run, **how), (names[0], name)) for run, name in each]
    told: dict[str, Any] = {"base_model": base_model, "common_rows": common_rows, "allow_duplicates": allow_duplicates}
    write_report(results, out, runs=[pre_trained, *tuned], weights=weights, overwrite=overwrite, **told)
    return tuple(results)


@public
def write_report(
    results: Sequence[Contrast],
    out: str | Path = "report.html",
    *,
    runs: Sequence[Run | str | Path] = (),
    weights: bool = False,
    base_model: str | Path | None = None,
    common_rows: bool = False,
    allow_duplicates: bool = False,
    device: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report of comparisons that were made already: one HTML file.

    Args:
        results: the comparisons.
        out: the file; ``report.html`` by default.
        runs: the runs that were compared, or their paths, the base (without one, the first) at the head: what they say of themselves,
            and the two leading components of their rows, are then shown too.
        weights: whether what changed in the weights is shown, of the checkpoints that are where the runs say.
        base_model: the base of those checkpoints, instead of the one that their adapters name.
        common_rows: whether the runs were compared on the rows that all have.
        allow_duplicates: whether rows that are copies were kept.
        device: the torch device on which checkpoints among the runs were read.
        overwrite: whether a file at ``out`` is replaced.

    Returns:
        The path.

    Raises:
        OutputExists: if there is a file and it is kept.
        UsageError: if there is no comparison.
        StorageError: if it cannot be written.
    """
    out, found = Path(out), tuple(results)
    if not found or not all(isinstance(result, Contrast) for result in found):
        raise UsageError("a report is of what rankscope.compare returned, one or several of them in a list")
    check_free(out, overwrite=overwrite)
    notes: list[str] = []
    opened = tuple(Analysis(base_model=base_model, device=device).open_together(runs)) if runs else ()
    aligned = Aligned(opened, found[0].similarity_sites, common_rows, allow_duplicates)
    weighed = [one for run in opened if (one := _weighed(run, base_model, notes))] if weights else []
    extras = Extras(opened, _planes(aligned, found, notes) if opened else {}, weighed, notes)
    write_output(out, page(found, extras).encode(), replace=True)
    return out


def names_of(results: Sequence[Contrast]) -> tuple[str, ...]:
    """The runs of comparisons: the reference, then those held against it."""
    found: dict[str, None] = {}
    for result in results:
        a, b, *base = result.names
        found |= dict.fromkeys((*base, a, b))
    return tuple(found)


def _renamed(result: Contrast, names: tuple[str, ...]) -> Contrast:
    """The same comparison, where in a report of several runs their names are others than between two alone."""
    if result.names == names:
        return result
    pair = Pair(*names)
    spectra = dict(zip(names, result.spectra.values(), strict=True))
    records = tuple(replace(record, runs=pair) for record in result.records)
    return replace(result, names=names, spectra=spectra, records=records)


def _planes(aligned: Aligned, results: Sequence[Contrast], notes: list[str]) -> Mapping[str, Sequence[Plane]]:
    try:
        return planes(aligned, names_of(results))
    except RankscopeError as error:
        notes.append(f"the components of the rows are not shown: {error}")
        return {}


def _weighed(run: Run, base_model: str | Path | None, notes: list[str]) -> WeightReport | None:
    """What changed in the weights of a run's checkpoint; None, with a note, where that cannot be found out."""
    told: dict[str, Any] = run.manifest.checkpoint
    path = told.get("path")
    if not told.get("tunings"):
        return None
    if not isinstance(path, str) or not Path(path).exists():
        notes.append(f"the weights of {run.name} are not shown: its checkpoint is not where it was")
        return None
    try:
        return replace(weigh(path, base_model=base_model, draws=0), name=run.name)
    except RankscopeError as error:
        # What went wrong may name folders of this machine, and the report is for others
        notes.append(f"the weights of {run.name} are not shown ({type(error).__name__}): 'rankscope weights' says why")
        return None
