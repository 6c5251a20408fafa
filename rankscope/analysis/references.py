"""What a number is read against: what noise scores, what unrelated runs score, and what a run scores against itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, MutableMapping
from functools import lru_cache
from math import isnan
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from rankscope.analysis.replicates import computed_once
from rankscope.analysis.view import View
from rankscope.definition import Comparison, Definition
from rankscope.errors import DataError, NotComparable, TooLarge, UsageError
from rankscope.features import Rows
from rankscope.inference.nulls import exchanged, is_ragged, shuffles
from rankscope.linalg.moments import PairMoments
from rankscope.linalg.principal import Principal
from rankscope.linalg.streamed import RowMatrix, Streamed, mapped, taken
from rankscope.linalg.sums import lifted
from rankscope.linalg.svd import singular_values_of
from rankscope.results.record import number

DRAWN = 1 << 24
"""Numbers of noise that are drawn from one seed (64 MiB)."""
RAGGED_DRAWS = 20
"""The most draws whose mean is the value of unrelated runs of unequal samples, apart from those of the p-value."""


MOST_DRAWN = 1 << 28
"""The most numbers of noise that are drawn in the place of rows of which only sums are kept (1 GiB)."""


class Unrelated(NamedTuple):
    """What a relation scores where nothing relates the runs."""

    mean: float | None
    """Its mean over the draws."""
    p: float | None = None
    """Share of draws that are as like the reference as the run is, (1 + #) / (B + 1); None for a single draw."""
    notes: tuple[str, ...] = ()
    """Why there is no such value, or on how few of the samples it rests."""


def noise_value(what: Definition, view: View) -> Tensor:
    """``()`` what isotropic Gaussian features of the shape of the first run score, from one seeded draw."""
    if _is_vast(view, 0):
        return torch.tensor(torch.nan)
    return _of_noise(view, 0, what, lambda noise: noise.value(what, 0))


_KNOWN: MutableMapping[Rows, dict[Hashable, Tensor]] = WeakIdKeyDictionary()
"""What was found of noise, as long as the rows live: the sites of a stack share theirs, and so all that noise of one shape is."""


def _of_noise(view: View, run: int, asked: Hashable, find: Callable[[View], Tensor]) -> Tensor:
    """Something of isotropic Gaussian features in the place of a run's, in its dtype, from a fixed seed."""
    width, dtype = view.widths[run], view.features[run].dtype
    known, key = _KNOWN.setdefault(view.rows, {}), (asked, width, dtype, view.device)
    if key not in known:
        known[key] = find(_noise(view, width, dtype))
    return known[key]


def _is_vast(view: View, run: int) -> bool:
    """Whether there are sums of more rows than noise can be drawn for."""
    return not view.has_rows and view.n * view.widths[run] > MOST_DRAWN


@computed_once
def _noise(view: View, width: int, dtype: torch.dtype) -> View:
    return view.derived([_as_held(view, gaussian(view.n, width, dtype))])


def _as_held(view: View, drawn: Streamed) -> RowMatrix:
    """Rows that are drawn, in memory where those of the view are.

    Sums stand for any number of rows, and so is noise in their place drawn in parts, but for fewer rows than features, which are
    brought to the space that they span.
    """
    held = view.n < drawn.shape[1] or (view.has_rows and not any(isinstance(x, Streamed) for x in view.features))
    return drawn[:] if held else drawn


def change_of_noise(view: View, run: int) -> View:
    """Two runs that differ by isotropic Gaussian features of the shape of a run: a change that prefers no direction.

    The first is zero everywhere, so that what is relative to the variance of the base has no value.
    """
    drawn = gaussian(view.n, view.widths[run], view.features[run].dtype)
    return view.derived([_as_held(view, x) for x in (drawn.mapped(torch.zeros_like), drawn)])


def gaussian(n: int, d: int, dtype: torch.dtype) -> Streamed:
    """``(n, d)`` isotropic Gaussian features from a fixed seed, drawn when they are read, :data:`DRAWN` numbers at a time."""
    step = max(1, DRAWN // d)

    @lru_cache(maxsize=1)  # rows are mostly read in their order, so that each stretch is drawn once
    def stretch(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(n * 1_000_003 + d + number * 7_919)
        return torch.randn(min(step, n - number * step), d, generator=generator).to(dtype)

    def read(rows: Tensor) -> Tensor:
        out, number = torch.empty(len(rows), d, dtype=dtype), rows // step
        for one in torch.unique(number).tolist():
            here = number == one
            out[here] = stretch(one)[rows[here] - one * step]
        return out

    return Streamed((n, d), dtype, read)


def unrelated(view: View, comparison: Comparison, a: int, b: int, *, draws: int = 0) -> Unrelated:
    """What a comparison scores where nothing relates the runs.

    Spectra are compared with that of isotropic noise. Otherwise the samples of ``b`` are shuffled among those of equally
    many rows, the rows of one staying together, and, where a shared basis is compared, turned by a random rotation: each
    run keeps its own covariance. Where samples are of unequal length, the value is that of the samples which can be
    exchanged, each paired with another; p counts shuffles of all, in which some stay in their place.
    A row keeps its position, so what rows at the same position of different samples have in common counts as unrelated.
    Where a comparison says what the label of a row is worth, the two rows of each sample are exchanged by a coin instead, and
    p counts the draws that are as *unlike* as the two are.

    Args:
        view: the runs at one site.
        comparison: the comparison.
        a: the reference.
        b: the other run.
        draws: how many shuffles; with 0 there is one, and no p.

    Raises:
        UsageError: for a negative number of draws.
    """
    if draws < 0:
        raise UsageError(f"permutations is a number of shuffles, 0 or more; got {draws}")
    if comparison.reads == "spectra":
        if _is_vast(view, a):
            return Unrelated(None, notes=("no value for noise: there are more rows than can be drawn",))
        centred = bool(comparison.centred)
        mine = view.spectrum(a, centred=centred)
        noise = _of_noise(view, a, ("spectrum", centred), lambda noise: noise.spectrum(0, centred=centred))
        return Unrelated(number(view.function_of(comparison, a, a)(mine, noise)))
    if not view.has_rows:
        why = "sums cannot be shuffled; collect with --keep rows"
        return Unrelated(None, notes=(f"no value for unrelated runs: {why}",))
    if comparison.null == "labels":
        found = _values(comparison, (_relabelled(view, a, b, i) for i in range(draws or 1)))
        return Unrelated(number(found.mean()), _p(view, comparison, a, b, found, found.mean()) if draws else None)
    if not comparison.aligned or not is_ragged(view.rows.sample):
        # The first draw serves every comparison; the others, of which there may be thousands, exist one at a time.
        found = _values(
            comparison, (_scattered(view, a, b, i) if i else _first_scattered(view, a, b) for i in range(draws or 1))
        )
        return Unrelated(number(found.mean()), _p(view, comparison, a, b, found, found.mean()) if draws else None)
    try:
        apart = _values(comparison, (_apart(view, a, b, i) for i in range(max(1, min(draws, RAGGED_DRAWS)))))
    except (NotComparable, DataError) as error:
        return Unrelated(None, notes=(f"no value for unrelated runs: {error}",))
    found = _values(comparison, (_scattered(view, a, b, i) for i in range(draws)))
    p = _p(view, comparison, a, b, found, apart.mean()) if draws else None
    return Unrelated(number(apart.mean()), p, _few_exchanged(view, a, b))


def _values(comparison: Comparison, pairs: Iterable[View]) -> Tensor:
    """``(B,)`` what a comparison scores in each of the pairs, float64 on the CPU."""
    found = [pair.value(comparison, 0, 1).double().cpu() for pair in pairs]
    return torch.stack(found) if found else torch.empty(0, dtype=torch.float64)


def _p(view: View, comparison: Comparison, a: int, b: int, found: Tensor, mean: Tensor) -> float | None:
    """Share of the ``(B,)`` shuffled values as like the reference as the run is, itself counted; as unlike for labels.

    A draw without a value counts as such a one; a run without a value has no p.
    """
    value, best = (float(view.value(comparison, a, other)) for other in (b, a))
    if comparison.null == "labels":
        like = (found - best).abs() >= abs(value - best)
    else:  # a likeness is greatest, a distance least, between the reference and itself
        like = (found >= value) if best >= mean else (found <= value)
    return None if isnan(value) else float(1 + (like | found.isnan()).sum()) / (len(found) + 1)


def _relabelled(view: View, a: int, b: int, draw: int) -> View:
    """Both runs, their rows exchanged in every sample for which a coin says so."""
    generator = torch.Generator().manual_seed(view.n + draw * 7_919)
    _, place = torch.unique(view.rows.sample, return_inverse=True)
    changed = (torch.rand(int(place.max()) + 1, generator=generator) < 0.5)[place]

    def exchanged_rows(own: RowMatrix, other: RowMatrix) -> RowMatrix:
        def read(rows: Tensor) -> Tensor:
            return torch.where(changed[rows, None].to(own.device), other[rows], own[rows])

        made = Streamed((view.n, own.shape[1]), torch.promote_types(own.dtype, other.dtype), read, own.device)
        return made if isinstance(own, Streamed) else made[:]

    x, y = view.features[a], view.features[b]
    return view.derived([exchanged_rows(x, y), exchanged_rows(y, x)])


def _scattered(view: View, a: int, b: int, draw: int = 0) -> View:
    """The reference, and the other run with its samples in a random order and its basis turned."""
    generator = torch.Generator().manual_seed(view.n + draw * 7_919)
    (order,) = shuffles(view.rows.sample, count=1, generator=generator)
    turned, turn = _turned(view, b, order, view.widths[a], generator)
    made = view.derived([view.features[a], turned])
    made.adopt(0, view, a)
    solved = view.part(b).__dict__.get("principal")
    if turn is not None and solved is not None and made.spanned[1].shape[1] == view.spanned[b].shape[1] == len(turn):
        # All rows are still there, so the scatter is RᵀSR, which has the eigenvectors RᵀV
        made.part(1).__dict__["principal"] = Principal(solved.values, turn.mT @ solved.vectors)
    return made


@computed_once
def _apart(view: View, a: int, b: int, draw: int) -> View:
    """The samples of unequal length that can be exchanged: each with another of the second run, its basis turned."""
    generator = torch.Generator().manual_seed(view.n + draw * 7_919)
    keep, order = exchanged(view.rows.sample, generator=generator)
    turned, _ = _turned(view, b, order, view.widths[a], generator)
    return view.derived([taken(view.features[a], keep), turned], keep)


def _turned(
    view: View, run: int, order: Tensor, width: int, generator: torch.Generator
) -> tuple[RowMatrix, Tensor | None]:
    """``(n, d)`` float64 features of a run in some order, in a random basis where a run of that width could share theirs.

    The ``(d, d)`` rotation R, which made them XR, is returned with them; None where there is none.
    """
    x = taken(view.features[run], order)
    if x.shape[1] != width:
        return mapped(x, Tensor.double), None
    drawn = torch.randn(width, width, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(drawn.to(view.device)).Q
    return mapped(x, lambda part: (lifted(part, view.device) @ turn).to(x.device)), turn


def _few_exchanged(view: View, a: int, b: int) -> tuple[str, ...]:
    """A note where less than half of the rows could be paired with those of another sample."""
    rest = _apart(view, a, b, 0)
    if 2 * rest.n >= view.n:
        return ()
    return (
        f"noise is taken from {rest.rows.samples} of {view.rows.samples} samples: only those with equally many rows can be exchanged",
    )


_first_scattered = computed_once(_scattered)


def against_itself(view: View, what: Definition | Comparison, run: int, again: int | None = None) -> float | None:
    """What a run scores against itself; None where half of the rows are too few.

    Args:
        view: the runs at one site.
        what: the measure. For a definition it is the difference of the two readings.
        run: the run.
        again: the same run read once more (in another batch size or dtype); without it the two halves of the rows, or the
            very same rows where the measure relates row to row.

    Raises:
        TooLarge: if memory does not hold it.
    """
    try:
        if isinstance(what, Comparison):
            return number(_of_halves(view, what, run) if again is None else view.value(what, run, again))
        first, second = (view.half(1), view.half(0)) if again is None else (view, view)
        return number(first.value(what, run if again is None else again) - second.value(what, run))
    except TooLarge:
        raise
    except (NotComparable, DataError):
        return None


def _of_halves(view: View, comparison: Comparison, run: int) -> Tensor:
    """On the two halves of the groups where the rows need not be the same, else on the very same rows."""
    f = view.function_of(comparison, run, run)
    first, second = (view.part(run, half) for half in (0, 1))
    if comparison.reads == "spectra":
        spectra = [singular_values_of(half, centre=bool(comparison.centred)).values for half in (first, second)]
        r = min(s.shape[-1] for s in spectra)
        return f(*(s[..., :r] for s in spectra))
    if not comparison.aligned:
        return f(PairMoments.unpaired(first, second))
    return view.value(comparison, run, run)
