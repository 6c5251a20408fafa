"""The second pass over the rows of a view: what each sample does to every number that was asked for, to first order.

The first pass summed the moments and solved them once. From them comes the gradient of each number; here the moments of
every unit of samples are formed once more and contracted with all gradients, block by block, so that nothing of the size of
units times d² is kept. Numbers whose gradients are one matrix, up to scale and the identity, share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.contraction import Asked, Contraction, Slopes, Term
from rankscope.analysis.replicates import Replicates, naming
from rankscope.definition import Comparison, Definition, Extent
from rankscope.errors import DataError, NotComparable, TooLarge
from rankscope.inference.influence import gradient, left_out
from rankscope.linalg.moments import PairMoments

if TYPE_CHECKING:
    from rankscope.analysis.view import View

ROWS_A_FEATURE = 2
"""With fewer rows a feature, in a half where one half is fitted, first order is not enough."""
AFFORDABLE = 512
"""Features, or rows if there are fewer, up to which groups are left out again nevertheless."""


class FirstOrder(NamedTuple):
    """A number, and the derivatives from which its influences follow."""

    value: Tensor
    smooth: Tensor | None
    step: float
    terms: tuple[Term, ...] = ()
    direct: Tensor | None = None
    """``(U,)`` the part of the influence of each unit that is known already."""
    folds: bool = False
    """Whether a unit's weight is one among those of its half, not of all rows."""


def prepare(view: View, asked: Sequence[Asked]) -> None:
    """Find several numbers of a view by their influences together; the view then has them, with one pass over its rows.

    What has no value here, or none by influence, is left to :meth:`~rankscope.analysis.view.View.evaluate`, which says why or
    leaves out groups of samples.
    """
    if view.by_influence:
        # Where memory does not hold all numbers together, each is found alone, and says what it lacks
        with suppress(TooLarge), naming(view):
            found = first_order(view, asked)
            view.results |= {("evaluate", what, *runs): one for (what, runs), one in found.items()}


def first_order(view: View, asked: Sequence[Asked]) -> dict[Asked, Replicates]:
    """The numbers that have influences, with each unit of samples left out to first order."""
    found: dict[Asked, FirstOrder | Replicates | None] = {}
    contractions: dict[tuple[int, ...], Contraction] = {}
    for what, runs in asked:
        if (what, runs) in found or ("evaluate", what, *runs) in view.results:
            continue
        try:
            one = _differentiated(view, what, runs)
        except (NotComparable, DataError):
            continue
        # Matrices that are one direction are kept once: at width 4,096 those of every number would be gigabytes
        for term in one.terms if isinstance(one, FirstOrder) else ():
            contractions.setdefault(term.runs, Contraction(view, term.runs)).take((what, runs), term)
        found[what, runs] = one._replace(terms=()) if isinstance(one, FirstOrder) else one
    # Numbers of one measure are subtracted from each other, so all of them are found in one way
    view.results |= {("solved again", what): True for (what, _), one in found.items() if one is None}
    found = {key: one for key, one in found.items() if ("solved again", key[0]) not in view.results}
    numbers = {key: one for key, one in found.items() if isinstance(one, FirstOrder)}
    influences = {key: _nothing(view) if one.direct is None else one.direct.clone() for key, one in numbers.items()}
    for contraction in contractions.values():
        contraction.add_to(influences)
    done = {key: one for key, one in found.items() if isinstance(one, Replicates)}
    for key, one in numbers.items():
        share = torch.stack([_share_of_units(view, run, in_half=one.folds) for run in key[1]]).amax(0)
        centre = one.value if one.smooth is None else one.smooth
        replicates = left_out(centre, influences[key], share)
        # A regression that interpolates its rows answers to one of them as no first order says
        if "width" in key[0].takes and one.folds and view.n < _enough(view, key[0]):
            replicates = replicates.new_empty(0)
        scaled = partial(view.in_unit, degree=key[0].degree if isinstance(key[0], Comparison) else 0)
        done[key] = Replicates(scaled(one.value), scaled(replicates), one.step, one.smooth, "influence")
    return done


def _differentiated(view: View, what: Definition | Comparison, runs: tuple[int, ...]) -> FirstOrder | Replicates | None:
    """A number with its derivatives; None where it has none.

    Raises:
        NotComparable: if it has no value here; or DataError.
    """
    smooth = what.smooth if isinstance(what, Definition) else None
    if what.reads == "rows" or (what.step and smooth is None) or not _linear(view, what):
        return None
    view.suits(what, *runs)
    if what.reads == "samples":
        return _of_samples(view, what, *runs)
    if isinstance(what, Comparison) and what.across is not None and view.n > view.rows.samples:
        return _across(view, what, *runs)
    if what.reads == "folds":
        return _cross_fitted(view, what, *runs)
    function, read = view.function_of(what, *runs), view.read(what, runs)
    found = gradient(smooth or function, read)
    if found is None:
        return None
    if isinstance(what, Definition) and not any(found.slopes):
        return None  # the function of a user may move in steps without saying so
    value = found.value if smooth is None else function(*read)
    continuous = None if smooth is None else found.value
    step = what.step(*read) if callable(what.step) else what.step
    if what.reads in ("spectrum", "spectra"):
        terms = [
            _of_spectrum(view, run, bool(what.centred), s, slopes[""])
            for run, s, slopes in zip(runs, read, found.slopes, strict=True)
            if slopes and isinstance(s, Tensor)
        ]
        return FirstOrder(value, continuous, step, tuple(terms))
    if what.reads == "clusters":
        (run,) = runs
        squares = view.squares_of_samples(run)
        slopes = {name: found.slopes[0].get(name, torch.zeros(())) for name in squares}
        parts = [2 * slopes[name].item() * view.division.of_units(one) for name, one in squares.items()]
        inner = {name.removeprefix("moments."): s for name, s in found.slopes[0].items() if name.startswith("moments.")}
        return FirstOrder(value, continuous, step, (Term(runs, None, inner),), torch.stack(parts).sum(0))
    return FirstOrder(value, continuous, step, tuple(_terms(runs, None, found.slopes[0])))


def _linear(view: View, what: Definition | Comparison) -> bool:
    """Whether samples move a number to first order as its derivative says, or solving it again is too expensive.

    With few samples the groups that are left out are the samples, and with few rows for each feature the smallest singular
    values, and what is fitted, answer to a single row. Both are found by simulation (``benchmarks/coverage.py``).
    """
    size = Extent(view.n, max(view.widths), view.rows.samples)
    linear = what.linear(size) if callable(what.linear) else what.linear
    if not linear or view.rows.samples <= view.division.groups:
        return False
    return view.n >= _enough(view, what) or min(view.n, max(view.widths)) > AFFORDABLE


def _enough(view: View, what: Definition | Comparison) -> int:
    """The rows from which first order is enough."""
    return max(view.widths) * ROWS_A_FEATURE * (2 if what.reads == "folds" else 1)


def _share_of_units(view: View, run: int, *, in_half: bool) -> Tensor:
    """``(U,)`` each unit's share of the rows or of the variation of a run, whichever is more: of all, or of its half.

    Most numbers are relative to the variation, and what a unit takes away from it makes the others weigh more.
    """
    shares = []
    for of_unit in (view.division.unit_rows, view.squares_of_units(run)):
        of_half = of_unit.new_zeros(2).index_add_(0, view.division.unit_half, of_unit)
        shares.append(of_unit / (of_half[view.division.unit_half] if in_half else of_half.sum()))
    return torch.stack(shares).nan_to_num().amax(0)


def _terms(runs: tuple[int, ...], half: int | None, slopes: Slopes) -> Iterator[Term]:
    """The derivatives by the sums over each side of a pair, and by those over the pair."""
    if len(runs) == 1:
        yield Term(runs, half, slopes)
        return
    for side, run in zip("ab", runs, strict=True):
        own = {name[2:]: slope for name, slope in slopes.items() if name.startswith(f"{side}.")}
        if own:
            yield Term((run,), half, own)
    both = {name: slope for name, slope in slopes.items() if "." not in name}
    if both:
        yield Term(runs, half, both)


def _of_samples(view: View, what: Definition | Comparison, run: int) -> Replicates:
    """A function of a mean over samples without each unit, which costs nothing and so need not be approximated."""
    assert isinstance(what, Definition), "only numbers of one run read samples"
    whole, without = view.sample_mean(what, run), view.sample_mean(what, run, left_out="unit")
    step = what.step(whole) if callable(what.step) else what.step
    smooth = what.smooth or what.function
    continuous = None if what.smooth is None else smooth(whole)
    return Replicates(what.function(whole), smooth(without), step, continuous, "influence")


def _of_spectrum(view: View, run: int, centred: bool, s: Tensor, slope: Tensor) -> Term:
    """The derivative by the eigenvalues of a run, of a function of its singular values."""
    # λ = σ², so ∂f/∂λ = ∂f/∂σ / 2σ. Where σ is 0 no row reaches that direction, and none changes it
    by_eigenvalue = s.new_zeros(view.spanned[run].shape[1])
    by_eigenvalue[: len(s)] = (slope / (2 * s.where(s > 0, 1))).where(s > 0, 0)
    return Term((run,), None, {f"{'principal' if centred else 'principal_about_origin'}.values": by_eigenvalue})


def _cross_fitted(view: View, what: Definition | Comparison, a: int, b: int) -> FirstOrder | None:
    """A number fitted on each half of the samples and evaluated on the other."""
    function = view.function_of(what, a, b)
    summary = what.summary if isinstance(what, Comparison) else None

    def both_ways(x: PairMoments, y: PairMoments) -> Tensor:
        mean = (function(x, y) + function(y, x)) / 2
        return mean if summary is None else summary(mean)

    halves = [view.part_of_pair(a, b, half) for half in (0, 1)]
    found = gradient(both_ways, halves)
    if found is None:
        return None
    terms = [term for half, slopes in enumerate(found.slopes) for term in _terms((a, b), half, slopes)]
    return FirstOrder(found.value, None, 0.0, tuple(terms), folds=True)


def _across(view: View, what: Comparison, a: int, b: int) -> FirstOrder | None:
    """A relation of rows of different samples: by the weights of the samples, and by the sums that these weigh."""
    assert what.across is not None, "only for relations that leave out pairs of one sample"
    x, y, sample, across = view.spanned[a], view.spanned[b], view.rows.sample, what.across
    weights = torch.ones(view.rows.samples, dtype=torch.float64, device=view.device)
    found = gradient(lambda pair, kept: across(pair, x, y, sample, kept), (view.part_of_pair(a, b), weights))
    if found is None:
        return None
    of_pair, of_weights = found.slopes
    direct = view.division.of_units(of_weights[""]) if of_weights else None
    return FirstOrder(found.value, None, 0.0, tuple(_terms((a, b), None, of_pair)), direct)


def _nothing(view: View) -> Tensor:
    """``(U,)`` no influence."""
    return torch.zeros(view.division.units, dtype=torch.float64, device=view.device)
