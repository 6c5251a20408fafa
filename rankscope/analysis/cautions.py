"""What is said about a number: why it has no value here, the cautions that belong to it, and the convention behind it."""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan

from rankscope.analysis.guards import GuardedView
from rankscope.analysis.replicates import Replicates
from rankscope.definition import Comparison, Definition, in_full, rows_enough
from rankscope.errors import TooLarge
from rankscope.inference.jackknife import degrees_of_freedom
from rankscope.results.record import FEW_DECIDE, N_LIMITED, Shape
from rankscope.store import Run

FEW = 10
"""Degrees of freedom below which an error is known too badly for its interval to be trusted as it stands."""


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


def cautions(what: Definition | Comparison, view: GuardedView, found: Replicates | None = None) -> tuple[str, ...]:
    """The cautions that belong to a number that has a meaning.

    Args:
        what: the measure.
        view: the rows.
        found: the number, for cautions about its value and interval.
    """
    said = [_few_rows(what, view), _unresolved(what, view), *view.remarks]
    if found is not None and not len(found.left_out):
        few = (
            "fitted on fewer than two rows a feature, where no interval is known to hold, so there is none"
            if found.method == "influence"
            else "too few rows or groups of samples to leave any out, so there is no interval"
        )
        said.insert(0, found.why or few)
    if found is not None and few_samples_decide(found):
        said.insert(0, f"{FEW_DECIDE}, so the interval may cover the truth less often than stated")
    if found is not None and found.value.isnan():
        said.insert(0, "not defined on these features")
    if found is not None and found.value.isinf():
        said.insert(0, "infinite on these features")
    return tuple(filter(None, said))


def few_samples_decide(found: Replicates) -> bool:
    """Whether the groups of samples move a number so unequally that its error has lost half of its degrees of freedom,
    and fewer than ten are left.

    What few samples have, most draws would not show: the interval may then be too narrow.
    """
    groups = len(found.left_out)
    return groups > 4 and bool(degrees_of_freedom(found.left_out) < min((groups - 1) / 2, FEW))


def _few_rows(what: Definition | Comparison, view: GuardedView) -> str:
    d = max(view.widths)
    enough = d * rows_enough(what)
    if view.n < enough:
        return (
            f"{N_LIMITED}: {view.n} rows of {d} features, where {enough} are enough, so the value also measures n; "
            "compare at equal n only"
        )
    if what.name == "participation-ratio" and view.n > view.rows.samples:
        return "treats rows as independent, but those of one sample are not; see participation-ratio-clustered"
    return ""


def overfitted(what: Definition | Comparison, view: GuardedView, scores: Iterable[float | None]) -> tuple[str, ...]:
    """The caution that a fit had too few samples, though rows seem enough: those of one sample are not independent.

    An R² on held-out samples is below 0 where noise was fitted. A fit of r of n independent rows scores about -d/(r - d), which is
    -1 for half of 4 d rows: what scores less, be it the runs or what is unrelated, has in effect fewer.

    Args:
        what: the measure.
        view: the rows.
        scores: what the runs score, and what is unrelated; None where there is no such value.
    """
    if what.reads != "folds" or _few_rows(what, view):
        return ()
    least = min((score for score in scores if score is not None and not isnan(score)), default=0.0)
    if least >= -1:
        return ()
    return (
        f"{N_LIMITED}: {view.n} rows of {view.rows.samples} samples act as fewer than {rows_enough(what)} independent rows a feature, "
        f"as a score of {least:.3g} shows, so the value also measures how many there are; give more samples",
    )


def _unresolved(what: Definition | Comparison, view: GuardedView) -> str:
    if not below_floor(what, view):
        return ""
    fate = (
        "are left out" if isinstance(what, Definition) and what.resolved else "are counted, as the measure is defined"
    )
    return f"singular values below what {shape(view).dtype} resolves (below_floor of them) {fate}"


def below_floor(what: Definition | Comparison, view: GuardedView) -> int:
    """Number of singular values below the rounding floor in the run that has most; 0 for measures that read no spectrum."""
    if what.reads not in ("spectrum", "spectra") or view.refused:
        return 0
    try:
        return max(view.below_floor(run, centred=bool(what.centred)) for run in range(len(view.widths)))
    except TooLarge:  # then there is no value either
        return 0


def shape(view: GuardedView) -> Shape:
    """The rows of a view, as records state them."""
    dtypes = "/".join(dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in view.features))
    return Shape(view.n, view.rows.samples, view.widths[0], dtypes)


def convention(what: Definition | Comparison, run: Run) -> str:
    """What was done to the rows before the formula."""
    special = ", special tokens kept" if run.manifest.rows.get("keep_special") else ""
    return "; ".join((in_full(what), f"rows={run.manifest.rows['kind']}{special}", "float64"))
