"""One site seen in runs of which sums over groups of samples are kept, and no rows.

The sums of each group are brought to the mean of all rows, about which a view takes them, so every number that is made from
sums is that of the rows up to rounding. The groups are what is left out and what has an influence; several of them together
make the groups of an analysis that asks for fewer. A group's matrices are read when they are needed, one group at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from rankscope import memory
from rankscope.analysis.contraction import UnitSums
from rankscope.analysis.replicates import Method, computed_once
from rankscope.analysis.view import FEWEST, View
from rankscope.definition import Comparison, Definition
from rankscope.errors import NotComparable, UsageError
from rankscope.features import Rows
from rankscope.linalg.about import clusters_about, moments_about, pair_about
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.forms import trace
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.streamed import RowMatrix
from rankscope.linalg.sums import Sums
from rankscope.sites import Site
from rankscope.store.sums import SummedRun

S = TypeVar("S", bound=Sums)

REMEMBERED = 0.25
"""The part of the free memory that the sums over all groups at one site may take; otherwise they are read again."""
INSTEAD = "collect with --keep rows (keep='rows')"
"""What gives numbers that sums do not."""


class SummedDivision:
    """How groups of samples that were summed make the groups, halves and units of an analysis.

    Args:
        unit_rows: ``(U,)`` float64 number of rows of each group that was summed.
        unit_group: ``(U,)`` int64 the group of the analysis that each is part of.
    """

    def __init__(self, unit_rows: Tensor, unit_group: Tensor) -> None:
        self.unit_rows, self.unit_group = unit_rows, unit_group
        self.units, self.groups = len(unit_group), int(unit_group.max()) + 1
        self.unit_half = (unit_group % 2).to(unit_rows.device)
        """``(U,)`` the half that each unit belongs to."""

    def of_units(self, each: Tensor) -> Tensor:
        """Sums over units as they are; those of samples are not known."""
        return each


class SummedView(View):
    """The sums of one or several runs at one site, over the same groups of samples."""

    has_rows = False

    def __init__(
        self,
        runs: Sequence[SummedRun],
        site: Site,
        rows: Rows,
        *,
        groups: int = 20,
        device: torch.device | str = "cpu",
        replicated: bool = True,
        interval: Method = "influence",
        units: Sequence[int] | None = None,
    ) -> None:
        """Take the runs' sums together.

        Args:
            runs: the runs.
            site: the site.
            rows: where the n rows came from; the same for all.
            groups: how many groups of samples the jackknife leaves out in turn: as many as were summed, or a divisor of that.
            device: where to compute.
            replicated: whether groups are left out at all.
            interval: how samples are left out, where both ways are valid.
            units: the groups that were summed, all by default.

        Raises:
            NotComparable: for fewer than four rows or two samples, or if the runs were summed in different groups.
            UsageError: if the groups that were summed cannot make as many as were asked for.
        """
        self.n, self.rows, self.site, self.runs = len(rows), rows, site, tuple(runs)
        if self.n < FEWEST or rows.samples < 2:
            raise NotComparable(
                f"the measures need at least {FEWEST} rows of 2 samples; there are {self.n} rows of {rows.samples}"
            )
        self.widths = tuple(run.width(site) for run in runs)
        # No rows, but their dtype and width, and how many coordinates they would span
        pairs = zip(runs, self.widths, strict=True)
        dtypes = [(run.manifest.torch_dtype, d) for run, d in pairs]
        span = self.n * (len(runs) if len(set(self.widths)) == 1 else 1)
        self.features = tuple(torch.empty(0, d, dtype=dtype) for dtype, d in dtypes)
        self.spanned = tuple(torch.empty(0, min(d, span), dtype=dtype) for dtype, d in dtypes)
        self.exponent, self.device = 0, torch.device(device)
        self._of_runs = range(runs[0].summing.groups) if units is None else units
        self.division: Any = self._divided(groups, whole=units is None)
        self._replicated = replicated
        self.by_influence = replicated and interval == "influence"
        self.results: dict[tuple[object, ...], Any] = {}
        # The matrices of each run, and of two or three pairs of them
        matrices = 8 * max(self.widths) ** 2 * self.division.units * (2 * len(runs))
        self._remembers = matrices < memory.free() * REMEMBERED

    def _divided(self, groups: int, *, whole: bool) -> SummedDivision:
        first, summed, samples = self.runs[0], len(self._of_runs), self.rows.samples
        for other in self.runs[1:]:
            if other.group_samples != first.group_samples:
                raise NotComparable(
                    f"{first.name} and {other.name} were summed in {first.summing.groups} and {other.summing.groups} groups, and not the same "
                    "samples are together; collect both with one --groups"
                )
        made = min(groups, samples)
        if whole and summed < samples and summed % made:
            raise UsageError(
                f"{first.name} holds sums of {summed} groups of samples, which do not make {made}; ask for --groups {summed} "
                f"(groups={summed}) or a divisor of it, or collect with --groups {made}"
            )
        rows = torch.tensor([first.rows_of_group(self.site, g) for g in self._of_runs], dtype=torch.float64)
        return SummedDivision(rows.to(self.device), torch.arange(summed) * min(made, summed) // summed)

    def derived(self, features: Sequence[RowMatrix], keep: Tensor | None = None, *, groups: int | None = None) -> View:
        """Rows in the place of these sums, divided as rows are."""
        return super().derived(features, keep, groups=groups or self.division.groups)

    @computed_once
    def half(self, which: int) -> View:
        """One half of the samples alone."""
        units = [
            unit for unit, half in zip(self._of_runs, self.division.unit_half.tolist(), strict=True) if half == which
        ]
        some = torch.tensor([i for unit in units for i in self.runs[0].group_samples[unit]], dtype=torch.int64)
        rows = self.rows[torch.isin(self.rows.sample, some)]
        return self._alike(self.runs, rows, units)

    @computed_once
    def only(self, *places: int) -> View:
        """Some of the runs alone, with nothing left out."""
        return self._alike([self.runs[i] for i in places], self.rows, self._of_runs)

    def _alike(self, runs: Sequence[SummedRun], rows: Rows, units: Sequence[int]) -> SummedView:
        made = partial(SummedView, runs, self.site, rows, device=self.device, replicated=False)
        return made(groups=self.division.groups, units=units)

    def suits(self, what: Definition | Comparison, *runs: int) -> None:
        """Refuse what does not come from sums.

        Raises:
            NotComparable: saying what to collect instead.
        """
        super().suits(what, *runs)
        if what.reads in ("rows", "samples"):
            raise NotComparable(f"{what.name} reads the rows themselves, and sums are kept; {INSTEAD}")
        if not isinstance(what, Comparison) or what.reads == "spectra":
            return
        if what.across is not None and self.n > self.rows.samples:
            raise NotComparable(
                f"{what.name} leaves out pairs of rows of one sample, which takes the rows; {INSTEAD}, or one row a sample "
                "(--rows last or mean)"
            )
        if what.aligned and not self._are_crossed(*runs):
            a, b = (self.runs[run].name for run in runs)
            raise NotComparable(
                f"{what.name} pairs rows, and the sums over pairs of rows of {a} and {b} are not kept; collect {b} with --keep "
                f"moments --beside the checkpoint of {a}, and compare with the run that this makes of it"
            )

    def _are_crossed(self, a: int, b: int) -> bool:
        same = self.runs[a].identity == self.runs[b].identity
        return same or any(place is not None for place in (self._beside(a, b), self._beside(b, a)))

    def _beside(self, a: int, b: int) -> int | None:
        return self.runs[a].beside(self.runs[b], self.site)

    @computed_once
    def shift(self, run: int) -> Tensor:
        """The mean over rows, about which sums are taken so that they do not cancel."""
        return self.runs[run].mean(self.site, self._of_runs).to(self.device)

    def mean_share(self, run: int) -> float:
        """The mean row's share of a run's energy, as :func:`rankscope.analysis.guards.mean_share`."""
        whole = self.part(run)
        length = float(whole.mean.square().sum())
        spread = float(whole.trace) / max(1, self.n - 1)
        return length / (length + spread) if length else 0.0

    def _unit(self, run: int, unit: int) -> Moments:
        """The sums over a group about the mean of all rows."""
        return self._remembered(
            (run, unit), lambda: moments_about(self.runs[run].moments(self.site, unit).to(self.device), self.shift(run))
        )

    def _unit_of_pair(self, a: int, b: int, unit: int) -> PairMoments:
        """The sums over pairs of rows of a group about the means of all rows."""
        return self._remembered((a, b, unit), lambda: self._made_pair(a, b, unit))

    def _remembered(self, key: tuple[int, ...], make: Callable[[], S]) -> S:
        """Sums over a group, read again whenever they are needed where memory does not hold those of all groups."""
        if not self._remembers:
            return make()
        if (*key, "unit") not in self.results:
            self.results[*key, "unit"] = make()
        return self.results[*key, "unit"]

    def _made_pair(self, a: int, b: int, unit: int) -> PairMoments:
        if self.runs[a].identity == self.runs[b].identity:
            return PairMoments.itself(self._unit(a, unit))
        place, turned = self._beside(a, b), False
        if place is None:
            place, turned = self._beside(b, a), True
        if place is None:
            return PairMoments.unpaired(self._unit(a, unit), self._unit(b, unit))
        left, right = (b, a) if turned else (a, b)
        *crossed, shift = self.runs[left].crossed(self.site, unit, place)
        sides = [self.runs[run].about(self.site, unit) for run in (left, right)]
        if not torch.equal(shift, sides[1][0]):
            raise NotComparable(
                f"{self.runs[right].name} was collected on another machine or with other software than beside "
                f"{self.runs[left].name}, so its rows differ by rounding; compare with the run that was made beside it"
            )
        moved = [self._unit(run, unit) for run in (left, right)]
        before = [
            replace(m, shift=c.to(self.device), first=s.to(self.device)) for m, (c, s) in zip(moved, sides, strict=True)
        ]
        cross, weighted_a, weighted_b, norms = (x.to(self.device) for x in crossed)
        pair = PairMoments(before[0], before[1], cross, weighted_a, weighted_b, norms)
        about = pair_about(pair, *moved)
        if not turned:
            return about
        return PairMoments(about.b, about.a, about.cross.mT, about.b_weighted, about.a_weighted, about.norms)

    def _unit_of_samples(self, run: int, unit: int) -> ClusterMoments:
        return clusters_about(self.runs[run].clusters(self.site, unit).to(self.device), self.shift(run))

    def _gathered(self, of_unit: Callable[[int], S], places: Tensor) -> S:
        """The sums over the units at each of some places, with these as the leading dimension."""
        found: list[S | None] = [None] * (int(places.max()) + 1)
        for unit, place in zip(self._of_runs, places.tolist(), strict=True):
            before = found[place]
            found[place] = of_unit(unit) if before is None else before + of_unit(unit)
        return _stacked([one for one in found if one is not None])

    @computed_once
    def moments(self, run: int) -> Moments:
        """The sums over each group of samples, leading dimension G, for the jackknife."""
        return self._gathered(partial(self._unit, run), self.division.unit_group)

    @computed_once
    def pair(self, a: int, b: int) -> PairMoments:
        """The paired sums over each group of samples, leading dimension G; ``a`` is the reference."""
        return self._gathered(partial(self._unit_of_pair, a, b), self.division.unit_group)

    @computed_once
    def _halves(self, run: int) -> Moments:
        return self._gathered(partial(self._unit, run), self.division.unit_half)

    @computed_once
    def _pair_halves(self, a: int, b: int) -> PairMoments:
        if a == b:
            return PairMoments.itself(self._halves(a))
        return self._gathered(partial(self._unit_of_pair, a, b), self.division.unit_half)

    @computed_once
    def _clusters(self, run: int) -> ClusterMoments:
        return self._gathered(partial(self._unit_of_samples, run), self.division.unit_group)

    @computed_once
    def _whole_clusters(self, run: int) -> tuple[ClusterMoments, Tensor, Tensor]:
        """The sums over all rows, and the squared traces and norms of the samples of each unit."""
        total, squares = None, []
        for unit in self._of_runs:
            one = self._unit_of_samples(run, unit)
            squares.append(torch.stack([one.traces_squared, one.norms_squared]))
            total = one if total is None else total + one
        assert total is not None, "a view has groups"
        traces, norms = torch.stack(squares, 1)
        return replace(total, moments=self.part(run)), traces, norms

    def squares_of_units(self, run: int) -> Tensor:
        """``(U,)`` the squared lengths of the rows of each unit about the mean, summed."""
        return torch.stack([trace(self._unit(run, unit).second) for unit in self._of_runs])

    def sums_of_units(self, runs: Sequence[int]) -> Iterator[UnitSums]:
        """The sums of each unit of a run, or over pairs of two."""
        for place, unit in enumerate(self._of_runs):
            if len(runs) == 1:
                m = self._unit(runs[0], unit)
                product, sums = m.second, {"first": m.first, "third": m.third, "fourth": m.fourth}
            else:
                pair = self._unit_of_pair(runs[0], runs[1], unit)
                product = pair.cross
                sums = {"a_weighted": pair.a_weighted, "b_weighted": pair.b_weighted, "norms": pair.norms}
            yield UnitSums(place, product, {"rows": self.division.unit_rows[place], **sums})


def _stacked(parts: Iterable[S]) -> S:
    """Sums about one shift as one, with a leading dimension for them."""
    several = list(parts)
    changed: dict[str, Any] = {}
    for name in (f.name for f in fields(several[0])):
        values = [getattr(one, name) for one in several]
        if name != "shift":
            changed[name] = _stacked(values) if isinstance(values[0], Sums) else torch.stack(values)
    return replace(several[0], **changed)


def whole(run: SummedRun, site: Site, device: torch.device | str) -> Moments:
    """The sums over all rows of a run at a site, about their mean."""
    view = SummedView([run], site, run.rows_at(site), groups=run.summing.groups, device=device)
    return view.part(0)
