"""What a number is read between: what noise scores, what nothing related scores, and what a run scores against itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.view import View
from rankscope.comparisons.itself import unpaired
from rankscope.definition import Comparison, Definition
from rankscope.errors import DataError, NotComparable, UsageError
from rankscope.inference.nulls import shuffles
from rankscope.linalg.svd import singular_values_of
from rankscope.results.record import NOTHING


class Unrelated(NamedTuple):
    """What a relation scores where nothing relates the runs."""

    mean: float = NOTHING
    """Its mean over the draws."""
    p: float = NOTHING
    """The share of draws that are as like the reference as the run is, (1 + #) / (B + 1); NaN for a single draw."""


def like_noise(view: View, run: int) -> View:
    """Isotropic Gaussian features in the place of a run's, in its dtype, from a fixed seed; made once."""

    def draw() -> View:
        generator = torch.Generator().manual_seed(view.n * 1_000_003 + view.widths[run])
        drawn = torch.randn(view.n, view.widths[run], generator=generator).to(view.features[run].dtype)
        return View([drawn], view.rows, device=view.device, replicated=False)

    return view.once(("noise", run), draw)


def unrelated(view: View, comparison: Comparison, a: int, b: int, *, draws: int = 0) -> Unrelated:
    """What a comparison scores where nothing relates the runs.

    Spectra are compared with that of isotropic noise. Otherwise the samples of ``b`` are shuffled, the rows of one staying
    together, and, where a shared basis is compared, turned by a random rotation: each run keeps its own covariance.

    Args:
        view: the runs at one site.
        comparison: the comparison.
        a: the reference.
        b: the other run.
        draws: how many shuffles; one, and no p, where none are asked for.

    Raises:
        UsageError: for fewer than none.
    """
    if draws < 0:
        raise UsageError(f"shuffles are counted from 0, which is none; got {draws}")
    if comparison.reads == "spectra":
        centred = comparison.centred
        mine, noise = view.spectrum(a, centred=centred), like_noise(view, a).spectrum(0, centred=centred)
        return Unrelated(float(view.given(comparison, a, a)(mine, noise)))
    found = torch.stack(
        [_scattered(view, a, b, i).related(comparison, 0, 1).value.double().cpu() for i in range(max(1, draws))]
    )
    mean = float(found.mean())
    if not draws:
        return Unrelated(mean)
    value, best = (float(view.related(comparison, a, other).value) for other in (b, a))
    like = (found >= value) if best >= mean else (found <= value)
    return Unrelated(mean, float(1 + like.sum()) / (draws + 1))


def _scattered(view: View, a: int, b: int, draw: int) -> View:
    """The reference, and the other run with its samples in a random order and its basis turned."""

    def scatter() -> View:
        generator = torch.Generator().manual_seed(view.n + draw * 7_919)
        (order,) = shuffles(view.rows.sample, count=1, generator=generator)
        x = view.features[b][order].double()
        if view.widths[a] == view.widths[b]:
            x = x @ torch.linalg.qr(torch.randn(2 * [x.shape[1]], generator=generator, dtype=torch.float64)).Q
        return View([view.features[a], x], view.rows, groups=view.groups, device=view.device, replicated=False)

    return scatter() if draw else view.once(("unrelated", a, b), scatter)


def against_itself(view: View, what: Definition | Comparison, run: int, again: int | None = None) -> float:
    """What a run scores against itself; NaN where too few rows are left of half of them.

    Args:
        view: the runs at one site.
        what: the measure. Of a definition it is the difference of the two readings.
        run: the run.
        again: the same run read once more (another batch size or dtype); without it the two halves of the rows, or the
            very same rows where the measure relates rows one by one.
    """
    try:
        if again is not None:
            return _read_again(view, what, run, again)
        if isinstance(what, Definition):
            return float(view.half(False).measured(what, run).value - view.half(True).measured(what, run).value)
        return float(_of_halves(view, what, run))
    except (NotComparable, DataError):
        return NOTHING


def _read_again(view: View, what: Definition | Comparison, run: int, again: int) -> float:
    if isinstance(what, Comparison):
        return float(view.related(what, run, again).value)
    return float(view.measured(what, again).value - view.measured(what, run).value)


def _of_halves(view: View, comparison: Comparison, run: int) -> Tensor:
    """On the two halves of the groups where the rows need not be the same, else on the very same rows."""
    f = view.given(comparison, run, run)
    first, second = (view.moments(run).weighted(half.double()) for half in (view.even, ~view.even))
    if comparison.reads == "spectra":
        spectra = [singular_values_of(half, centre=comparison.centred).values for half in (first, second)]
        r = min(s.shape[-1] for s in spectra)
        return f(*(s[..., :r] for s in spectra))
    if not comparison.aligned:
        return f(unpaired(first, second))
    twice = view.once(
        ("itself", run),
        lambda: View([view.features[run]] * 2, view.rows, groups=view.groups, device=view.device, replicated=False),
    )
    return twice.related(comparison, 0, 1).value
