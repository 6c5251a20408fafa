"""One site seen in one or several runs on the same rows: every number there, and its values with groups of samples left out.

All second-order numbers come from one pass of sums over groups of samples. Where there are fewer rows than features, the
runs are first expressed, together and without loss, in coordinates of the space that their rows span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from rankscope.comparisons.subspace import subspace_size
from rankscope.definition import Comparison, Definition
from rankscope.errors import NotComparable
from rankscope.features import Rows, samples_in_groups
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments, PairMoments, Sums
from rankscope.linalg.rows import at_unit_scale
from rankscope.linalg.svd import singular_values_of
from rankscope.measures.dtype_floor import values_below_floor
from rankscope.spectrum import rounding_floor

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Sums)

FEWEST = 4
"""The least number of rows for which the unbiased estimates exist."""


class Replicates(NamedTuple):
    """A number on all rows, and with each group of samples left out."""

    value: Tensor
    """``()`` the number on all rows, float64."""
    left_out: Tensor
    """``(G,)`` the number without each group in turn, or the continuous number that it rounds up; empty where no group is
    left out."""
    step: float = 0.0
    """The step in which the number moves; 0 if it moves continuously."""
    smooth: Tensor | None = None
    """``()`` the continuous number on all rows that the number rounds up to the next step; None where it is itself."""

    @property
    def centre(self) -> Tensor:
        """``()`` that of which the replicates are the replicates."""
        return self.value if self.smooth is None else self.smooth

    def __sub__(self, other: Replicates) -> Replicates:
        """The difference, paired: the same samples are left out of both."""
        value, left_out = self.value - other.value, self.left_out - other.left_out
        return Replicates(value, left_out, max(self.step, other.step), self.centre - other.centre)


def computed_once(function: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """A method or function of a view that is computed once for each set of arguments; the view keeps what it returned."""

    @wraps(function)
    def lookup(view: Any, *args: P.args, **keywords: P.kwargs) -> T:
        key = (function.__name__, *args, *keywords.items())
        if key not in view.results:
            view.results[key] = function(view, *args, **keywords)
        return view.results[key]

    return lookup


class View:
    """The features of one or several runs at one site, on the same rows."""

    def __init__(
        self,
        features: Sequence[Tensor],
        rows: Rows,
        *,
        groups: int = 20,
        device: torch.device | str = "cpu",
        replicated: bool = True,
        exponent: int = 0,
    ) -> None:
        """Take the runs' features together.

        Args:
            features: for each run ``(n, d)``, of any floating dtype; the widths may differ.
            rows: where the n rows came from; the same for all.
            groups: how many groups of samples to leave out in turn; fewer samples make fewer groups.
            device: where to compute.
            replicated: whether groups are left out at all.
            exponent: the power of two in which the features are given, if not in their own unit.

        Raises:
            NotComparable: for fewer than four rows or two samples, or features of which no unit suits all.
        """
        self.n, self.rows = len(rows), rows
        if self.n < FEWEST or rows.samples < 2:
            raise NotComparable(
                f"the measures need at least {FEWEST} rows of 2 samples; there are {self.n} rows of {rows.samples}"
            )
        self.features, further = at_unit_scale(features)
        self.exponent = exponent + further
        self.widths = tuple(x.shape[1] for x in features)
        self.device = torch.device(device)
        self.group = samples_in_groups(rows, groups)
        self.groups = int(self.group.max()) + 1
        self._others = 1 - torch.eye(self.groups, dtype=torch.float64, device=self.device)
        self._replicated = replicated
        self._spanned = in_span_of_rows(self.features)
        self.results: dict[tuple[object, ...], Any] = {}

    def derived(self, features: Sequence[Tensor], keep: Tensor | None = None, *, groups: int | None = None) -> View:
        """Other features in the place of these, on all rows or on some (a mask or indices), with nothing left out."""
        rows = self.rows if keep is None else self.rows[keep]
        made = partial(View, features, rows, device=self.device, exponent=self.exponent, replicated=False)
        return made(groups=groups or self.groups)

    @computed_once
    def half(self, first: bool) -> View:
        """The rows of every other group of samples alone."""
        keep = self.even.cpu()[self.group] == first
        return self.derived([x[keep] for x in self.features], keep)

    @computed_once
    def only(self, *places: int) -> View:
        """Some of the runs alone, with nothing left out, so that the fewest rows are enough."""
        return self.derived([self.features[i] for i in places], groups=FEWEST)

    @property
    def even(self) -> Tensor:
        """``(G,)`` bool: every other group, which together make one half of the rows."""
        return torch.arange(self.groups, device=self.device) % 2 == 0

    @computed_once
    def moments(self, run: int) -> Moments:
        """The sums over each group of samples, leading dimension G."""
        return Moments.of(self._spanned[run], shift=self._shift(run), group=self.group, groups=self.groups)

    @computed_once
    def pair(self, a: int, b: int) -> PairMoments:
        """The paired sums over each group of samples, leading dimension G; ``a`` is the reference."""
        x, y, shifts = self._spanned[a], self._spanned[b], {"shift_a": self._shift(a), "shift_b": self._shift(b)}
        return PairMoments.of(x, y, **shifts, group=self.group, groups=self.groups)

    @computed_once
    def spectrum(self, run: int, *, centred: bool, left_out: bool = False) -> Tensor:
        """Singular values of all rows ``(r,)``, or without each group ``(G, r)``; r is at most min(n, d)."""
        return singular_values_of(self._summed(self.moments(run), left_out), centre=centred).values

    @computed_once
    def floor(self, run: int) -> float:
        """The largest singular value that rounding makes out of nothing: of the features to their dtype, or of the sums."""
        norm = float(self.moments(run).sum().gram.diagonal().sum().sqrt())  # |X|_F, since tr XᵀX = |X|_F²
        dtype = self.features[run].dtype
        # Sums of products in float64 leave float64 features the upper half of their digits: λ ± ε|X|², so σ ± √ε|X|
        of_sums = torch.finfo(dtype).eps ** 0.5 * norm if dtype == torch.float64 else 0.0
        return max(of_sums, rounding_floor(norm, self.n, self.widths[run], dtype))

    def below_floor(self, run: int, *, centred: bool = True) -> int:
        """Number of singular values below that floor."""
        s = self.spectrum(run, centred=centred)
        return int(values_below_floor(s, floor=self.floor(run), rows=self.n + (not centred)))

    def evaluate(self, what: Definition | Comparison, *runs: int) -> Replicates:
        """A definition in one run, or a comparison of the second of two runs with the first, the reference.

        Raises:
            NotComparable: if the comparison needs a shared basis and the widths differ.
        """
        widths = [self.widths[run] for run in runs]
        if isinstance(what, Comparison) and what.same_width and len(set(widths)) > 1:
            raise NotComparable(f"{what.name} needs a shared basis; the widths are {widths[0]} and {widths[1]}")
        if isinstance(what, Comparison) and what.across is not None and self.n > self.rows.samples:
            across, (a, b) = what.across, runs
            return self._replicates(lambda left_out: self._across(across, a, b, left_out))
        f = self.function_of(what, *runs)
        if what.reads == "rows":
            features, sample = [self.features[run] for run in runs], self.rows.sample
            found = self._over_rows(lambda keep: f(*(x[keep].to(self.device) for x in features), sample[keep]))
        elif what.reads == "folds":
            found = self._replicates(lambda left_out: self._cross_fitted(f, what, self.pair(*runs), left_out))
        else:
            found = self._replicates(lambda left_out: f(*self._read(what, runs, left_out)))
        if isinstance(what, Comparison) and what.degree and self.exponent:
            found = Replicates(self._in_unit(found.value, what.degree), self._in_unit(found.left_out, what.degree))
        step = what.step(*self._read(what, runs, False)) if callable(what.step) else what.step
        if not isinstance(what, Definition) or what.smooth is None or not self._replicated:
            return found._replace(step=step)
        # A jackknife would miss the steps: its replicates are those of the continuous number that the value rounds up.
        smooth, left_out = (what.smooth(*self._read(what, runs, left_out)) for left_out in (False, True))
        return Replicates(found.value, left_out, step, smooth)

    def _in_unit(self, x: Tensor, degree: int) -> Tensor:
        """Values of a power of the unit of the features, as of the features as given."""
        for _ in range(degree):  # one at a time: the square of a unit may be beyond float64 where the value is not
            x = x * 2.0**self.exponent
        return x

    def function_of(self, what: Definition | Comparison, *runs: int) -> Callable[..., Tensor]:
        """The function of a measure with its keywords filled in."""
        # k belongs to the features' own width, not to that of the space which a few rows span.
        k = min(self._spanned[runs[0]].shape[1], subspace_size(self.widths[runs[0]]))
        coarser = max((self.features[run].dtype for run in runs), key=lambda dtype: torch.finfo(dtype).eps)
        keywords = {"k": k, "dtype": coarser, "width": self.widths[runs[-1]], "rows": self.n}
        if "floor" in what.takes:
            keywords["floor"] = self.floor(*runs)
        return partial(what.function, **{name: keywords[name] for name in what.takes})

    def _read(self, what: Definition | Comparison, runs: Sequence[int], left_out: bool) -> tuple[Tensor | Sums, ...]:
        """What the function reads: of all rows, or without each group."""
        if what.reads in ("spectrum", "spectra"):
            found = [self.spectrum(run, centred=bool(what.centred), left_out=left_out) for run in runs]
            if isinstance(what, Definition) and what.resolved:
                found = [s.where(s >= self.floor(run), 0) for s, run in zip(found, runs, strict=True)]
            return tuple(found)
        if isinstance(what, Definition) and what.reads == "samples":
            return (self._sample_mean(what, *runs, left_out=left_out),)
        if what.reads == "clusters":
            return (self._summed(self._clusters(*runs), left_out),)
        return (self._summed(self.moments(*runs) if len(runs) == 1 else self.pair(*runs), left_out),)

    @computed_once
    def _clusters(self, run: int) -> ClusterMoments:
        """The sums over each group, with what rows of one sample share."""
        x, shift, sample = self._spanned[run], self._shift(run), self.rows.sample
        return ClusterMoments.of(x, sample, shift=shift, group=self.group, groups=self.groups)

    @computed_once
    def _prepared(self, definition: Definition, run: int) -> Tensor:
        """``(S, m)`` what a definition makes of each sample."""
        assert definition.prepare is not None, f"{definition.name} reads samples and prepares none"
        return definition.prepare(self.features[run].to(self.device, torch.float64), self.rows.sample)

    def _sample_mean(self, definition: Definition, run: int, *, left_out: bool) -> Tensor:
        """The mean over samples: ``(m,)``, or ``(G, m)`` without each group."""
        each = self._prepared(definition, run)
        if not left_out:
            return each.mean(0)
        present, place = torch.unique(self.rows.sample, return_inverse=True)
        group = torch.empty(len(present), dtype=torch.int64)
        group[place] = self.group  # (S,): all rows of one sample lie in one group
        weights = self._others[:, group.to(each.device)].to(each)  # (G, S): 0 where the sample is left out
        return weights @ each / weights.sum(1, keepdim=True)

    def _across(self, function: Callable[..., Tensor], a: int, b: int, left_out: bool) -> Tensor:
        """A relation of rows of different samples, of all or without each group."""
        present, place = torch.unique(self.rows.sample, return_inverse=True)
        kept = torch.ones(len(present), dtype=torch.bool)
        if left_out:
            group = torch.empty(len(present), dtype=torch.int64)
            group[place] = self.group
            kept = group != torch.arange(self.groups)[:, None]  # (G, S)
        pair = self._summed(self.pair(a, b), left_out)
        return function(pair, self._spanned[a], self._spanned[b], self.rows.sample, kept.to(self.device))

    def _cross_fitted(
        self,
        function: Callable[[PairMoments, PairMoments], Tensor],
        what: Definition | Comparison,
        sums: PairMoments,
        left_out: bool,
    ) -> Tensor:
        """Fit on one half of the groups and evaluate on the other, both ways, and average."""
        summary = what.summary if isinstance(what, Comparison) else None
        even = self.even.double()
        weights = self._others if left_out else torch.ones_like(even)
        x, y = sums.weighted(weights * even), sums.weighted(weights * (1 - even))
        mean = (function(x, y) + function(y, x)) / 2
        return mean if summary is None else summary(mean)

    def _replicates(self, number: Callable[[bool], Tensor]) -> Replicates:
        value = number(False)
        return Replicates(value, number(True) if self._replicated else value.new_empty(0))

    def _over_rows(self, function: Callable[[Tensor], Tensor]) -> Replicates:
        """The replicates of a function of the ``(n,)`` mask of the rows that are kept."""
        everything = torch.ones(self.n, dtype=torch.bool)
        return self._replicates(
            lambda left: (
                torch.stack([function(self.group != g) for g in range(self.groups)]) if left else function(everything)
            )
        )

    def _summed(self, sums: S, left_out: bool) -> S:
        """The sums over all groups, or over all but each: row g of 1 - I weighs group g by 0 and all others by 1."""
        return sums.weighted(self._others) if left_out else sums.sum()

    @computed_once
    def _shift(self, run: int) -> Tensor:
        """The mean over rows, about which sums are taken so that they do not cancel."""
        return self._spanned[run].to(self.device, torch.float64).mean(0)


def in_span_of_rows(features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The same rows in coordinates of the space that they span, where that is smaller than the space they lie in.

    Runs of one width share one orthonormal basis, so that every inner product within and between them stays as it was;
    runs of different widths get one each.

    Args:
        features: for each run ``(n, d)``.

    Returns:
        For each run ``(n, min(d, m))``, m the number of rows of all runs that share the basis.
    """
    n = len(features[0])
    widths = {x.shape[1] for x in features}
    if len(widths) > 1:
        return tuple(in_span_of_rows([x])[0] for x in features)
    if n * len(features) >= widths.pop():
        return tuple(features)
    together = torch.cat([x.double() for x in features])
    basis, _ = torch.linalg.qr(together.mT)  # QQᵀ projects on the span of the rows, so XQ(YQ)ᵀ = XYᵀ
    return tuple((together @ basis).split(n))
