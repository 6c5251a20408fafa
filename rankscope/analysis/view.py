"""One site seen in one or several runs on the same rows: every number there, and what it becomes when a group of samples is left out.

All second-order numbers come from one pass of sums over groups of samples. Where the rows are few beside the features,
the runs are first turned, losslessly and together, into the space that their rows span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from rankscope.comparisons.subspace import subspace_size
from rankscope.definition import Comparison, Definition
from rankscope.errors import NotComparable
from rankscope.features import Rows, samples_in_groups
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments, PairMoments, Sums
from rankscope.linalg.svd import singular_values_of
from rankscope.spectrum import rounding_floor

T = TypeVar("T")
S = TypeVar("S", bound=Sums)

FEWEST = 4
"""The least number of rows for which the unbiased estimates exist."""


class Replicates(NamedTuple):
    """A number on all rows, and with each group of samples left out."""

    value: Tensor
    """``()`` the number on all rows, float64."""
    left_out: Tensor
    """``(G,)`` the number without each group in turn."""

    def minus(self, other: Replicates) -> Replicates:
        """The difference, paired: the same samples are left out of both."""
        return Replicates(self.value - other.value, self.left_out - other.left_out)


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
    ) -> None:
        """Take the runs' features together.

        Args:
            features: for each run ``(n, d)``, of any floating dtype; the widths may differ.
            rows: where the n rows came from; the same for all.
            groups: how many groups of samples to leave out in turn; fewer samples make fewer groups.
            device: where to compute.
            replicated: whether groups are left out at all.

        Raises:
            NotComparable: for fewer than four rows or two samples.
        """
        self.n, self.rows = len(rows), rows
        if self.n < FEWEST or rows.samples < 2:
            raise NotComparable(
                f"the measures need at least {FEWEST} rows of 2 samples; there are {self.n} rows of {rows.samples}"
            )
        self.features = tuple(features)
        self.widths = tuple(x.shape[1] for x in features)
        self.device = torch.device(device)
        self.group = samples_in_groups(rows, groups)
        self.groups = int(self.group.max()) + 1
        self._kept = 1 - torch.eye(self.groups, dtype=torch.float64, device=self.device)
        self._replicated = replicated
        self._turned = turned(features)
        self._cache: dict[tuple[object, ...], Any] = {}

    def moments(self, run: int) -> Moments:
        """The sums over each group of samples, leading dimension G."""
        return self.once(
            ("moments", run),
            lambda: Moments.of(self._turned[run], shift=self._shift(run), group=self.group, groups=self.groups),
        )

    def clusters(self, run: int) -> ClusterMoments:
        """The same with what rows of one sample share."""
        group, shift = self.group, self._shift(run)
        return self.once(
            ("clusters", run),
            lambda: ClusterMoments.of(
                self._turned[run], self.rows.sample, shift=shift, group=group, groups=self.groups
            ),
        )

    def _sample_mean(self, definition: Definition, run: int, left_out: bool) -> Tensor:
        """The mean of what a definition makes of each sample: ``(m,)``, or ``(G, m)`` without each group."""
        prepare = definition.prepare
        assert prepare is not None, f"{definition.name} reads samples and prepares none"
        each = self.once(
            ("samples", definition.name, run),
            lambda: prepare(self.features[run].to(self.device, torch.float64), self.rows.sample),
        )
        group = self.once(("group of sample",), lambda: self._group_of_sample().to(each.device))
        if not left_out:
            return each.mean(0)
        kept = (group[None] != torch.arange(self.groups, device=each.device)[:, None]).to(each)
        return kept @ each / kept.sum(1, keepdim=True)

    def _group_of_sample(self) -> Tensor:
        """``(S,)`` the group of each sample that has rows, in the order of their numbers."""
        present, place = torch.unique(self.rows.sample, return_inverse=True)
        group = torch.empty(len(present), dtype=torch.int64)
        group[place] = self.group
        return group

    def pair(self, a: int, b: int) -> PairMoments:
        """The paired sums over each group of samples, leading dimension G; ``a`` is the reference."""
        shifts = {"shift_a": self._shift(a), "shift_b": self._shift(b)}
        return self.once(
            ("pair", a, b),
            lambda: PairMoments.of(self._turned[a], self._turned[b], **shifts, group=self.group, groups=self.groups),
        )

    def spectrum(self, run: int, *, centred: bool, left_out: bool = False) -> Tensor:
        """Singular values of all rows ``(r,)``, or without each group ``(G, r)``; r is at most min(n, d)."""

        def solve() -> Tensor:
            sums = self.moments(run)
            return singular_values_of(sums.weighted(self._kept) if left_out else sums.sum(), centre=centred).values

        return self.once(("spectrum", run, centred, left_out), solve)

    def floor(self, run: int) -> float:
        """The largest singular value that rounding to the dtype of the features makes out of nothing."""

        def of_norm() -> float:
            norm = float(self.moments(run).sum().gram.diagonal().sum().sqrt())
            return rounding_floor(norm, self.n, self.widths[run], self.features[run].dtype)

        return self.once(("floor", run), of_norm)

    def below_floor(self, run: int, *, centred: bool = True) -> int:
        """How many singular values lie below it, those left out that are zero by algebra."""
        s = self.spectrum(run, centred=centred)
        return int((s[: self.n - centred] < self.floor(run)).sum())

    def _shift(self, run: int) -> Tensor:
        return self.once(("shift", run), lambda: self._turned[run].to(self.device, torch.float64).mean(0))

    def once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """What ``make`` makes, made when it is first asked for under a key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def measured(self, definition: Definition, run: int) -> Replicates:
        """A definition in one run; where it moves in steps, with the replicates of what it rounds."""
        if definition.reads == "rows":
            f = definition.function
            return self._over_rows(lambda keep: f(self._rows(run, keep), self.rows.sample[keep]))
        told: dict[str, Any] = {"width": self.widths[run]} if "width" in definition.takes else {}
        found = self._replicates(lambda left: definition.function(self._read(definition, run, left), **told))
        if definition.smooth is None or not self._replicated:
            return found
        smooth = definition.smooth
        whole, left = (smooth(self._read(definition, run, part)) for part in (False, True))
        return Replicates(found.value, found.value + left - whole)

    def _read(self, definition: Definition, run: int, left_out: bool) -> Tensor | Sums:
        """What the definition is given: of all rows, or without each group."""
        if definition.reads == "spectrum":
            s = self.spectrum(run, centred=definition.centred, left_out=left_out)
            return s.where(s >= self.floor(run), 0) if definition.resolved else s
        if definition.reads == "moments":
            return self._summed(self.moments(run), left_out)
        if definition.reads == "clusters":
            return self._summed(self.clusters(run), left_out)
        return self._sample_mean(definition, run, left_out)

    def related(self, comparison: Comparison, a: int, b: int) -> Replicates:
        """A comparison of run ``b`` with the reference ``a``.

        Raises:
            NotComparable: if it needs a shared basis and the widths differ.
        """
        if comparison.same_width and self.widths[a] != self.widths[b]:
            raise NotComparable(
                f"{comparison.name} needs a shared basis; the widths are {self.widths[a]} and {self.widths[b]}"
            )
        f, reads = self.given(comparison, a, b), comparison.reads
        if reads == "spectra":
            centred = comparison.centred
            return self._replicates(
                lambda left: f(*(self.spectrum(run, centred=centred, left_out=left) for run in (a, b)))
            )
        if reads == "moments":
            return self._replicates(lambda left: f(self._summed(self.pair(a, b), left)))
        if reads == "folds":
            return self._replicates(lambda left: self._cross_fitted(f, self.pair(a, b), left))
        return self._over_rows(lambda keep: f(self._rows(a, keep), self._rows(b, keep), self.rows.sample[keep]))

    def given(self, comparison: Comparison, a: int, b: int) -> Callable[..., Tensor]:
        """The function with what it takes by keyword. The width is the features' own, not that of the span of few rows."""
        width = min(self._turned[a].shape[1], subspace_size(self.widths[a]))
        coarser = max((self.features[run].dtype for run in (a, b)), key=lambda dtype: torch.finfo(dtype).eps)
        told = {"k": width, "dtype": coarser, "width": self.widths[b]}
        return partial(comparison.function, **{name: told[name] for name in comparison.takes})

    def _replicates(self, number: Callable[[bool], Tensor]) -> Replicates:
        value = number(False)
        return Replicates(value, number(True) if self._replicated else value.new_empty(0))

    def _summed(self, sums: S, left_out: bool) -> S:
        return sums.weighted(self._kept) if left_out else sums.sum()

    def _rows(self, run: int, keep: Tensor) -> Tensor:
        return self.features[run][keep].to(self.device)

    def _over_rows(self, function: Callable[[Tensor], Tensor]) -> Replicates:
        everything = torch.ones(self.n, dtype=torch.bool)
        return self._replicates(
            lambda left: (
                torch.stack([function(self.group != g) for g in range(self.groups)]) if left else function(everything)
            )
        )

    def _cross_fitted(
        self, function: Callable[[PairMoments, PairMoments], Tensor], sums: PairMoments, left_out: bool
    ) -> Tensor:
        """Fit on one half of the groups and evaluate on the other, both ways, and average."""
        even = self.even.double()
        kept = self._kept if left_out else torch.ones_like(even)
        x, y = sums.weighted(kept * even), sums.weighted(kept * (1 - even))
        return (function(x, y) + function(y, x)) / 2

    @property
    def even(self) -> Tensor:
        """``(G,)`` bool: every other group, the one half of the rows."""
        return torch.arange(self.groups, device=self.device) % 2 == 0

    def half(self, first: bool) -> View:
        """The rows of every other group of samples alone, with nothing left out; made once."""
        keep = self.even.cpu()[self.group] == first

        def take() -> View:
            halves = [x[keep] for x in self.features]
            return View(halves, self.rows[keep], groups=self.groups, device=self.device, replicated=False)

        return self.once(("half", first), take)


def turned(features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The same rows in coordinates of the space that they span, where that is smaller than the space they lie in.

    Runs of one width are turned together by one orthonormal basis, so that every inner product within and between them
    stays as it was; runs of different widths by one each.

    Args:
        features: for each run ``(n, d)``.

    Returns:
        For each run ``(n, min(d, m))``, m the number of rows of all runs that share the basis.
    """
    n = len(features[0])
    widths = {x.shape[1] for x in features}
    if len(widths) > 1:
        return tuple(turned([x])[0] for x in features)
    if n * len(features) >= widths.pop():
        return tuple(features)
    together = torch.cat([x.double() for x in features])
    basis, _ = torch.linalg.qr(together.mT)
    return tuple((together @ basis).split(n))
