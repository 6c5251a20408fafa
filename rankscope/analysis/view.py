"""One site seen in one or several runs on the same rows: every number there, and its values with samples left out.

All second-order numbers come from one pass of sums over the two halves of the samples, and one eigendecomposition of each
run. What each sample does to them takes a second pass (:mod:`rankscope.analysis.second_pass`); measures for which that is
not valid are computed again without each of a few groups of samples. Where there are fewer rows than features, the runs are
first expressed, together and without loss, in coordinates of the space that their rows span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from rankscope.analysis.contraction import UnitSums
from rankscope.analysis.division import Division
from rankscope.analysis.replicates import Method, Replicates, computed_once
from rankscope.analysis.second_pass import first_order
from rankscope.comparisons.subspace import subspace_size
from rankscope.definition import Comparison, Definition
from rankscope.errors import NotComparable
from rankscope.features import Rows
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.rows import at_unit_scale, blocks, in_span_of_rows, mean_row
from rankscope.linalg.streamed import RowMatrix, taken
from rankscope.linalg.sums import Sums, lifted
from rankscope.linalg.svd import singular_values_of
from rankscope.measures.dtype_floor import values_below_floor
from rankscope.spectrum import rounding_floor

S = TypeVar("S", bound=Sums)

FEWEST = 4
"""The least number of rows for which the unbiased estimates exist."""


class View:
    """The features of one or several runs at one site, on the same rows."""

    has_rows = True
    """Whether there are rows, which can be shuffled and left out one by one, and not their sums alone."""

    def __init__(
        self,
        features: Sequence[RowMatrix],
        rows: Rows,
        *,
        groups: int = 20,
        device: torch.device | str = "cpu",
        replicated: bool = True,
        exponent: int = 0,
        interval: Method = "influence",
    ) -> None:
        """Take the runs' features together.

        Args:
            features: for each run ``(n, d)``, of any floating dtype, or streamed; the widths may differ.
            rows: where the n rows came from; the same for all.
            groups: how many groups of samples the jackknife leaves out in turn; fewer samples make fewer groups. Every
                other one belongs to the second half of the samples, with which what the first half fits is evaluated.
            device: where to compute.
            replicated: whether groups are left out at all.
            exponent: the power of two in which the features are given, if not in their own unit.
            interval: how samples are left out, where both ways are valid.

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
        self._groups = groups
        self._replicated = replicated
        self.by_influence = replicated and interval == "influence"
        self.spanned = in_span_of_rows(self.features)
        self.results: dict[tuple[object, ...], Any] = {}

    @cached_property
    def division(self) -> Division:
        """How the samples are divided."""
        return Division(self.rows, self._groups, self.device)

    def derived(self, features: Sequence[RowMatrix], keep: Tensor | None = None, *, groups: int | None = None) -> View:
        """Other features in the place of these, on all rows or on some (a mask or indices), with nothing left out."""
        rows = self.rows if keep is None else self.rows[keep]
        made = partial(View, features, rows, device=self.device, exponent=self.exponent, replicated=False)
        found = made(groups=groups or self.division.groups)
        if keep is None and groups is None:
            found.division = self.division  # the same rows, of which there may be millions
        return found

    def adopt(self, place: int, other: View, run: int) -> None:
        """Take over what another view has solved of a run that both have, on the same rows in the same coordinates."""
        if self.spanned[place] is other.spanned[run]:
            self.results |= {(name, place): getattr(other, name)(run) for name in ("shift", "_halves", "_parts")}

    def let_go(self) -> None:
        """Forget the sums over each group, most of what is kept, to be made again where they are asked for once more."""
        self.results = {k: one for k, one in self.results.items() if k[0] not in ("moments", "pair", "_clusters")}

    @computed_once
    def half(self, which: int) -> View:
        """The rows of one half of the samples alone."""
        keep = self.division.fold == which
        made = self.derived([taken(x, keep) for x in self.features], keep)
        for run, width in enumerate(self.widths):
            part = self.part(run, which)
            if "principal" in part.__dict__ and made.spanned[run].shape[1] == width == part.width:
                made.results["spectrum", run, ("centred", True)] = singular_values_of(part).values  # solved already
        return made

    @computed_once
    def only(self, *places: int) -> View:
        """Some of the runs alone, with nothing left out, so that the fewest rows are enough."""
        return self.derived([self.features[i] for i in places], groups=FEWEST)

    @computed_once
    def moments(self, run: int) -> Moments:
        """The sums over each group of samples, leading dimension G, for the jackknife."""
        return Moments.of(
            self.spanned[run], shift=self.shift(run), group=self.division.group, groups=self.division.groups
        )

    @computed_once
    def pair(self, a: int, b: int) -> PairMoments:
        """The paired sums over each group of samples, leading dimension G; ``a`` is the reference."""
        sides = self.moments(a), self.moments(b)
        return PairMoments.between(*sides, self.spanned[a], self.spanned[b], group=self.division.group)

    @computed_once
    def _halves(self, run: int) -> Moments:
        """The sums over the first and the second half of the groups, leading dimension 2."""
        return Moments.of(self.spanned[run], shift=self.shift(run), group=self.division.fold, groups=2)

    def part(self, run: int, half: int | None = None) -> Moments:
        """The sums over one half of the groups, or over all rows; one object for all who ask, so that it is solved once."""
        return self._parts(run)[2 if half is None else half]

    @computed_once
    def _parts(self, run: int) -> tuple[Moments, Moments, Moments]:
        halves = self._halves(run)
        return halves[0], halves[1], halves.sum()

    @computed_once
    def _pair_halves(self, a: int, b: int) -> PairMoments:
        if a == b:
            return PairMoments.itself(self._halves(a))
        return PairMoments.between(
            self._halves(a), self._halves(b), self.spanned[a], self.spanned[b], group=self.division.fold
        )

    @computed_once
    def part_of_pair(self, a: int, b: int, half: int | None = None) -> PairMoments:
        """The paired sums over one half of the groups, or over all rows."""
        found = self._pair_halves(a, b).sum() if half is None else self._pair_halves(a, b)[half]
        return replace(found, a=self.part(a, half), b=self.part(b, half))

    @computed_once
    def _spectrum_left_out(self, run: int, *, centred: bool) -> Tensor:
        """``(G, r)`` singular values without each group."""
        return singular_values_of(self._without_each(self.moments(run)), centre=centred).values

    @computed_once
    def spectrum(self, run: int, *, centred: bool) -> Tensor:
        """``(r,)`` singular values of all rows; r is at most min(n, d)."""
        whole = self.part(run)
        if self._replicated:  # what each sample does to the values takes the vectors, which come with them
            _ = whole.principal if centred else whole.principal_about_origin
        return singular_values_of(whole, centre=centred).values

    @computed_once
    def floor(self, run: int) -> float:
        """The largest singular value that rounding makes out of nothing: of the features to their dtype, or of the sums."""
        norm = float(self.part(run).gram.diagonal().sum().sqrt())  # |X|_F, since tr XᵀX = |X|_F²
        dtype = self.features[run].dtype
        # Sums of products in float64 leave float64 features the upper half of their digits: λ ± ε|X|², so σ ± √ε|X|
        of_sums = torch.finfo(dtype).eps ** 0.5 * norm if dtype == torch.float64 else 0.0
        return max(of_sums, rounding_floor(norm, self.n, self.widths[run], dtype))

    def below_floor(self, run: int, *, centred: bool = True) -> int:
        """Number of singular values below that floor."""
        s = self.spectrum(run, centred=centred)
        return int(values_below_floor(s, floor=self.floor(run), rows=self.n + (not centred)))

    @computed_once
    def evaluate(self, what: Definition | Comparison, *runs: int) -> Replicates:
        """A definition in one run, or a comparison of the second of two runs with the first, the reference.

        Several asked for together (:func:`~rankscope.analysis.second_pass.prepare`) share one pass over the rows.

        Raises:
            NotComparable: if the comparison needs a shared basis and the widths differ.
        """
        if self.by_influence:
            found = first_order(self, [(what, runs)])
            if (what, runs) in found:
                return found[what, runs]
        return self._jackknife(what, *runs)

    @computed_once
    def value(self, what: Definition | Comparison, *runs: int) -> Tensor:
        """The number of :meth:`evaluate` alone, ``()`` float64, with no sample left out."""
        if ("evaluate", what, *runs) in self.results:
            return self.evaluate(what, *runs).value
        return self._jackknife(what, *runs, replicated=False).value

    def suits(self, what: Definition | Comparison, *runs: int) -> None:
        """Refuse a comparison that needs a shared basis of runs of different width.

        Raises:
            NotComparable: naming the widths.
        """
        widths = [self.widths[run] for run in runs]
        if isinstance(what, Comparison) and what.same_width and len(set(widths)) > 1:
            raise NotComparable(f"{what.name} needs a shared basis; the widths are {widths[0]} and {widths[1]}")

    def _jackknife(self, what: Definition | Comparison, *runs: int, replicated: bool = True) -> Replicates:
        """A number, and everything computed again without each group."""
        left = replicated and self._replicated
        self.suits(what, *runs)
        if isinstance(what, Comparison) and what.across is not None and self.n > self.rows.samples:
            across, (a, b) = what.across, runs
            return self._replicates(left, lambda left_out: self._across(across, a, b, left_out))
        f = self.function_of(what, *runs)
        if what.reads == "rows":
            features, sample = [self.features[run] for run in runs], self.rows.sample
            # A function that takes streamed features as a tensor is refused by them, unless it goes block by block
            found = self._over_rows(
                left, lambda keep: f(*(taken(x, keep).to(self.device) for x in features), sample[keep])
            )
        elif what.reads == "folds":
            found = self._replicates(left, lambda left_out: self._cross_fitted(f, what, runs, left_out))
        else:
            found = self._replicates(left, lambda left_out: f(*self.read(what, runs, left_out)))
        if isinstance(what, Comparison) and what.degree:
            value, left_out = (self.in_unit(x, what.degree) for x in (found.value, found.left_out))
            found = Replicates(value, left_out)
        step = what.step(*self.read(what, runs)) if callable(what.step) else what.step
        if not isinstance(what, Definition) or what.smooth is None or not left:
            return found._replace(step=step)
        # A jackknife would miss the steps: its replicates are those of the continuous number that the value rounds up.
        smooth, left_out = (what.smooth(*self.read(what, runs, left_out)) for left_out in (False, True))
        return Replicates(found.value, left_out, step, smooth)

    def in_unit(self, x: Tensor, degree: int) -> Tensor:
        """Values of a power of the unit of the features, as of the features as given."""
        for _ in range(
            degree if self.exponent else 0
        ):  # one at a time: the square of a unit may be beyond float64 where the value is not
            x = x * 2.0**self.exponent
        return x

    def function_of(self, what: Definition | Comparison, *runs: int) -> Callable[..., Tensor]:
        """The function of a measure with its keywords filled in."""
        # k belongs to the features' own width, not to that of the space which a few rows span.
        k = min(self.spanned[runs[0]].shape[1], subspace_size(self.widths[runs[0]]))
        coarser = max((self.features[run].dtype for run in runs), key=lambda dtype: torch.finfo(dtype).eps)
        keywords = {"k": k, "dtype": coarser, "width": self.widths[runs[-1]], "rows": self.n}
        if "floor" in what.takes:
            keywords["floor"] = self.floor(*runs)
        return partial(what.function, **{name: keywords[name] for name in what.takes})

    def read(
        self, what: Definition | Comparison, runs: Sequence[int], left_out: bool = False
    ) -> tuple[Tensor | Sums, ...]:
        """What the function reads: of all rows, or without each group."""
        if what.reads in ("spectrum", "spectra"):
            spectrum = self._spectrum_left_out if left_out else self.spectrum
            found = [spectrum(run, centred=bool(what.centred)) for run in runs]
            if isinstance(what, Definition) and what.resolved:
                found = [s.where(s >= self.floor(run), 0) for s, run in zip(found, runs, strict=True)]
            return tuple(found)
        if isinstance(what, Definition) and what.reads == "samples":
            return (self.sample_mean(what, *runs, left_out="group" if left_out else None),)
        if what.reads == "clusters":
            return (self._without_each(self._clusters(*runs)) if left_out else self._whole_clusters(*runs)[0],)
        if len(runs) == 1:
            return (self._without_each(self.moments(*runs)) if left_out else self.part(*runs),)
        return (self._without_each(self.pair(*runs)) if left_out else self.part_of_pair(*runs),)

    @computed_once
    def _clusters(self, run: int) -> ClusterMoments:
        """The sums over each group, with what rows of one sample share."""
        x, shift, sample = self.spanned[run], self.shift(run), self.rows.sample
        return ClusterMoments.of(x, sample, shift=shift, group=self.division.group, groups=self.division.groups)

    @computed_once
    def _whole_clusters(self, run: int) -> tuple[ClusterMoments, Tensor, Tensor]:
        """The sums over all rows, and the squared traces and norms of each sample."""
        return ClusterMoments.about_mean(self.part(run), self.spanned[run], self.rows.sample)

    def squares_of_samples(self, run: int) -> dict[str, Tensor]:
        """``(S,)`` what each sample adds to the sums over products of its own rows, by the name of the sum."""
        _, traces, norms = self._whole_clusters(run)
        return {"traces_squared": traces, "norms_squared": norms}

    @computed_once
    def squares_of_units(self, run: int) -> Tensor:
        """``(U,)`` the squared lengths of the rows of each unit about the mean, summed."""
        z, shift, unit = self.spanned[run], self.shift(run), self.division.unit
        squares = torch.cat([(lifted(part, shift.device) - shift).square().sum(1) for part in blocks(z, shift.device)])
        return squares.new_zeros(self.division.units).index_add_(0, unit.to(squares.device), squares)

    def sums_of_units(self, runs: Sequence[int]) -> Iterator[UnitSums] | None:
        """The sums of each unit of a run, or of pairs of two, where they are kept; None where there are rows."""
        return None

    @computed_once
    def _prepared(self, definition: Definition, run: int) -> Tensor:
        """``(S, m)`` what a definition makes of each sample."""
        assert definition.prepare is not None, f"{definition.name} reads samples and prepares none"
        return definition.prepare(cast(Tensor, self.features[run].to(self.device)), self.rows.sample)

    @computed_once
    def sample_mean(
        self, definition: Definition, run: int, *, left_out: Literal["group", "unit"] | None = None
    ) -> Tensor:
        """The mean over samples: ``(m,)``, or ``(G, m)`` without each group, or unit, of them."""
        each = self._prepared(definition, run)
        if left_out is None:
            return each.mean(0)
        group, groups = (
            (self.division.group, self.division.groups)
            if left_out == "group"
            else (self.division.unit, self.division.units)
        )
        lies_in = self.division.of_samples(group)
        total = each.new_zeros(groups, each.shape[1]).index_add_(0, lies_in, each)
        return (each.sum(0) - total) / (len(each) - torch.bincount(lies_in, minlength=groups)[:, None])

    def _across(self, function: Callable[..., Tensor], a: int, b: int, left_out: bool) -> Tensor:
        """A relation of rows of different samples, of all or without each group."""
        x, y, sample = self.spanned[a], self.spanned[b], self.rows.sample
        if not left_out:
            everything = torch.ones(self.rows.samples, dtype=torch.bool, device=self.device)
            return function(self.part_of_pair(a, b), x, y, sample, everything)
        kept = (
            self.division.of_samples(self.division.group)
            != torch.arange(self.division.groups, device=self.device)[:, None]
        )  # (G, S)
        return function(self._without_each(self.pair(a, b)), x, y, sample, kept)

    def _cross_fitted(
        self,
        function: Callable[[PairMoments, PairMoments], Tensor],
        what: Definition | Comparison,
        runs: Sequence[int],
        left_out: bool,
    ) -> Tensor:
        """Fit on one half of the groups and evaluate on the other, both ways, and average."""
        a, b = runs
        if left_out:
            odd, others = torch.arange(self.division.groups, device=self.device) % 2, self._others()
            x, y = (self.pair(a, b).weighted(others * (odd == half)) for half in (0, 1))
        else:
            x, y = (self.part_of_pair(a, b, half) for half in (0, 1))
        mean = (function(x, y) + function(y, x)) / 2
        summary = what.summary if isinstance(what, Comparison) else None
        return mean if summary is None else summary(mean)

    def _replicates(self, left: bool, number: Callable[[bool], Tensor]) -> Replicates:
        """A number, and where groups are left out it without each."""
        value = number(False)
        return Replicates(value, number(True) if left else value.new_empty(0))

    def _over_rows(self, left: bool, function: Callable[[Tensor], Tensor]) -> Replicates:
        """The replicates of a function of the ``(n,)`` mask of the rows that are kept."""
        everything = torch.ones(self.n, dtype=torch.bool)
        return self._replicates(
            left,
            lambda out: (
                torch.stack([function(self.division.group != g) for g in range(self.division.groups)])
                if out
                else function(everything)
            ),
        )

    def _others(self) -> Tensor:
        """``(G, G)`` weights of the groups: row g of 1 - I weighs group g by 0 and all others by 1."""
        return 1 - torch.eye(self.division.groups, dtype=torch.float64, device=self.device)

    def _without_each(self, sums: S) -> S:
        """The sums over all groups but each."""
        return sums.weighted(self._others())

    @computed_once
    def shift(self, run: int) -> Tensor:
        """The mean over rows, about which sums are taken so that they do not cancel."""
        return mean_row(self.spanned[run], self.device)
