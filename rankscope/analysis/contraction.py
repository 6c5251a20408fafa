"""The sums of every unit of samples, contracted with the derivatives of all numbers by them, block by block of rows.

Three kinds of derivatives are kept apart, because two of them need no product of rows. What depends on eigenvalues takes the
squares of the rows along the eigenvectors, ``(XV)²``, which all such numbers share. What depends on leading eigenvectors is a
product of two thin matrices. Only the rest is a matrix, and numbers whose matrices are one up to scale and the identity share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rankscope.definition import Comparison, Definition
from rankscope.inference.influence import SOLVED, TWICE, Directions
from rankscope.linalg.forms import trace as trace_of
from rankscope.linalg.moments import Moments
from rankscope.linalg.principal import Principal, turned
from rankscope.linalg.sums import at_once, lifted

if TYPE_CHECKING:
    from rankscope.analysis.view import View

BLOCK = 1 << 26
"""Products of rows that exist at a time, in numbers (512 MiB)."""
ROWS = 1 << 23
"""Rows that exist at a time on a CPU, in numbers (64 MiB), of which there are several copies."""
PRODUCT = 150
"""The multiplications that writing one number of a product and reading it again costs, about."""
Asked = tuple[Definition | Comparison, tuple[int, ...]]
"""A measure and the runs that it is of."""
Slopes = dict[str, Tensor]


class Term(NamedTuple):
    """The derivative of a number with respect to the sums over some rows of a run, or of a pair of runs."""

    runs: tuple[int, ...]
    """The run, or the two."""
    half: int | None
    """The half of the samples that was summed; None for all."""
    slopes: Slopes
    """The derivative by the name of the sum, without that of the run, or of what was solved of the sums."""


class UnitSums(NamedTuple):
    """The sums over the rows of one unit about the mean of all."""

    unit: int
    """Its number."""
    product: Tensor
    """``(d, d)`` the sum of products of the rows of a run, or ``(d_a, d_b)`` of those of two."""
    sums: dict[str, Tensor]
    """The others by name."""


class Contraction:
    """The sums of every unit of a run, or of a pair of runs, contracted with the derivatives of all numbers by them."""

    MATRIX = ("second", "cross")

    def __init__(self, view: View, runs: tuple[int, ...]) -> None:
        self.view, self.runs = view, runs
        self.directions = Directions()
        self.halves: dict[int, set[int | None]] = {}
        """For each direction the halves of which it is asked."""
        self.axes: dict[tuple[str, int | None], _Axes] = {}
        self.terms: list[tuple[Asked, Term, tuple[float, int | None, float] | None]] = []

    def take(self, key: Asked, term: Term) -> None:
        """The derivatives of a number: what is a matrix becomes a share of a direction, or of the axes that it has."""
        slopes = dict(term.slopes)
        for name in SOLVED:
            values, vectors = (slopes.pop(f"{name}.{part}", None) for part in Principal._fields)
            if values is not None:
                self._axes(name, term.half).weights.append((key, values))
            if vectors is not None:
                self._axes(name, term.half).turn(key, vectors)
        where = None
        for matrix in [slopes.pop(name) for name in self.MATRIX if name in slopes]:
            where = self._along_scatter(key, term, matrix) or self.directions.place(matrix)
            if where[1] is not None:
                self.halves.setdefault(where[1], set()).add(term.half)
        self.terms.append((key, term._replace(slopes=slopes), where))

    def _axes(self, name: str, half: int | None) -> _Axes:
        if (name, half) not in self.axes:
            self.axes[name, half] = _Axes(self.view, self.runs[0], half, name)
        return self.axes[name, half]

    def _along_scatter(self, key: Asked, term: Term, matrix: Tensor) -> tuple[float, None, float] | None:
        """A multiple of the scatter itself, as of a sum of squares, by its eigenvalues if they are known; None if it is not one."""
        if len(self.runs) > 1 or term.half is not None:
            return None
        part = self.view.part(*self.runs)
        solved, scatter = part.__dict__.get("principal"), part.scatter
        if solved is None:
            return None
        alone = Directions()
        alone.place(scatter)
        trace, place, share = alone.place(matrix)
        if place != 0:
            return None
        self._axes("principal", None).weights.append((key, share * (solved.values - solved.values.mean())))
        return trace, None, 0.0

    def add_to(self, influences: dict[Asked, Tensor]) -> None:
        """Add what the sums of each unit contribute to the ``(U,)`` influences of the numbers that are still asked for."""
        view = self.view
        if (kept := view.sums_of_units(self.runs)) is not None:
            for one in kept:
                self._add_unit(one, influences)
            return
        width = max(view.spanned[run].shape[1] for run in self.runs)
        for units, rows in _blocks(view, width):
            z = [lifted(view.spanned[run][rows], view.device) - view.shift(run) for run in self.runs]
            place = (view.division.unit[rows] - units.start).to(view.device)
            half = view.division.fold[rows].to(view.device)
            count = torch.bincount(place, minlength=units.stop - units.start).double()
            sums, along = self._sums(z, place, half, count)
            for axes in self.axes.values():
                for key, found in axes.of_units(z[0], place, half, len(sums["rows"])):
                    if key in influences:
                        influences[key][units] += found
            self._add_terms(units, sums, along, influences)

    def _add_unit(self, one: UnitSums, influences: dict[Asked, Tensor]) -> None:
        """Add what a unit contributes of which the sums are kept, and no rows."""
        units = slice(one.unit, one.unit + 1)
        half = int(self.view.division.unit_half[one.unit])
        for axes in self.axes.values():
            for key, found in axes.of_sums(one, half):
                if key in influences:
                    influences[key][units] += found
        along = [torch.dot(matrix.flatten(), one.product.flatten()) for matrix in self.directions.matrices]
        sums = {name: x[None] for name, x in one.sums.items()}
        if one.product.shape[0] == one.product.shape[1]:
            sums["trace"] = trace_of(one.product)[None]
        self._add_terms(units, sums, torch.stack(along)[None] if along else one.product.new_zeros(1, 0), influences)

    def _add_terms(self, units: slice, sums: dict[str, Tensor], along: Tensor, influences: dict[Asked, Tensor]) -> None:
        """Add what follows from the sums of each unit of a block, and from ``(u, K)`` their products along directions."""
        for key, term, where in self.terms:
            if key not in influences:
                continue
            found = sums["rows"].new_zeros(len(sums["rows"]))
            for name, slope in term.slopes.items():
                times = 2 if name in TWICE else 1
                found += times * (sums[name] @ slope if sums[name].ndim > 1 else sums[name] * slope)
            if where is not None:
                trace, direction, share = where
                if trace:
                    found += trace * sums["trace"]
                if direction is not None:
                    found += share * along[:, direction]
            here = self.view.division.unit_half[units] == term.half if term.half is not None else 1
            influences[key][units] += found * here

    def _asked(self) -> set[str]:
        """The sums of which there is a derivative."""
        found = {name for _, term, _ in self.terms for name in term.slopes}
        return found | {"trace" for _, _, where in self.terms if where is not None and where[0]}

    def _sums(
        self, z: Sequence[Tensor], place: Tensor, half: Tensor, count: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The sums of each unit of a block by name, the ``trace`` of products for them, and ``(u, K)`` along directions."""
        squares = [one.square().sum(1) for one in z]

        def summed(values: Tensor, place: Tensor = place) -> Tensor:
            return values.new_zeros(len(count), *values.shape[1:]).index_add_(0, place, values)

        first, last = z[0], z[-1]
        of_each: dict[str, Callable[[], Tensor]] = {
            "first": lambda: first,
            "third": lambda: first * squares[0][:, None],
            "fourth": lambda: squares[0].square(),
            "a_weighted": lambda: first * squares[1][:, None],
            "b_weighted": lambda: last * squares[0][:, None],
            "norms": lambda: squares[0] * squares[1],
            "trace": lambda: (first * last).sum(1),
        }
        sums = {name: summed(of_each[name]()) for name in self._asked() - {"rows"}} | {"rows": count}
        matrices = self.directions.matrices
        kept = [
            half == one if (one := _only(self.halves[i])) is not None else torch.ones_like(place, dtype=torch.bool)
            for i in range(len(matrices))
        ]
        if sum(int(rows.sum()) for rows in kept) <= len(place) + PRODUCT * len(count):
            # zᵀDz row by row: with few rows a unit and few directions this is less than the products of each unit
            along = count.new_zeros(len(count), len(matrices))
            for i, (matrix, rows) in enumerate(zip(matrices, kept, strict=True)):
                left, right, of = (first, last, place) if rows.all() else (first[rows], last[rows], place[rows])
                along[:, i] = summed(((left @ matrix) * right).sum(1), of)
            return sums, along
        return sums, self._along(first, last, count.long().tolist())

    def _along(self, first: Tensor, last: Tensor, sizes: Sequence[int]) -> Tensor:
        """``(u, K)`` the products of the rows of each unit along each direction, a stretch of columns of all units at a time.

        So the directions, of which there may be gigabytes, are read once for many units.
        """
        matrices, parts = self.directions.matrices, (first.split(sizes), last.split(sizes))
        found = first.new_zeros(len(sizes), len(matrices))
        height = len(sizes) * first.shape[1]
        step = max(1, min(BLOCK // height, last.shape[1]))
        room = first.new_empty(height * step)  # once, because new memory costs as much as the products
        for start in range(0, last.shape[1], step):
            columns = slice(start, start + step)
            across = min(step, last.shape[1] - start)
            products = room[: height * across].view(len(sizes), first.shape[1], across)
            for place, (x, y) in enumerate(zip(*parts, strict=True)):
                torch.mm(x.mT, y[:, columns], out=products[place])
            found += products.flatten(1) @ torch.stack([matrix[:, columns].flatten() for matrix in matrices], 1)
        return found


class _Axes:
    """The eigenvectors of a run, or of one half of it, about its mean or the origin; and what is asked along them."""

    def __init__(self, view: View, run: int, half: int | None, name: str) -> None:
        part: Moments = view.part(run, half)
        self.solved: Principal = getattr(part, name)
        self.centre = part.offset if name == "principal" else -part.shift
        """Of the rows as they are given, which is about the shift."""
        self.half = half
        self.weights: list[tuple[Asked, Tensor]] = []
        """``(d,)`` derivatives by the eigenvalues."""
        self.factors: list[tuple[Asked, Tensor, Tensor]] = []
        """Two ``(d, k)`` factors of derivatives by the sums."""

    def turn(self, key: Asked, slope: Tensor) -> None:
        """The derivative of a number by the eigenvectors."""
        self.factors.append((key, *turned(self.solved, slope)))

    def of_units(self, z: Tensor, place: Tensor, half: Tensor, units: int) -> Iterator[tuple[Asked, Tensor]]:
        """What the ``(n, d)`` rows of a block contribute to each number, summed over each of its units: ``(u,)``."""
        if self.half is not None:
            z, place = z[half == self.half], place[half == self.half]
        z = z - self.centre

        def summed(values: Tensor) -> Tensor:
            return values.new_zeros(units, *values.shape[1:]).index_add_(0, place, values)

        if self.weights:
            squares = summed((z @ self.solved.vectors).square_())  # an eigenvalue moves by (vᵀz)²
            for key, weight in self.weights:
                yield key, squares @ weight
        for key, a, b in self.factors:
            yield key, summed(((z @ a) * (z @ b)).sum(1))

    def of_sums(self, one: UnitSums, half: int) -> Iterator[tuple[Asked, Tensor]]:
        """What a unit, which lies in a half, contributes to each number: ``()``."""
        if self.half not in (None, half):
            return
        first, c = one.sums["first"], self.centre
        # Σ (z - c)(z - c)ᵀ, of which (Σ (z - c)ᵀv)² along each v is the diagonal of VᵀSV
        about = one.product - torch.outer(first, c) - torch.outer(c, first - one.sums["rows"] * c)
        if self.weights:
            squares = (self.solved.vectors * (about @ self.solved.vectors)).sum(0)
            for key, weight in self.weights:
                yield key, squares @ weight
        for key, a, b in self.factors:
            yield key, (a * (about @ b)).sum()


def _only(halves: set[int | None]) -> int | None:
    """The one half of which something is asked; None where it is asked of all rows, or of both."""
    (first, *others) = halves
    return None if others else first


def _blocks(view: View, width: int) -> Iterator[tuple[slice, Tensor]]:
    """The units in blocks, and the ``(m,)`` indices of the rows of each, of a large unit in parts."""
    room = at_once(view.device, ROWS)
    step = max(1, view.division.units // (view.n * width // room + 1))
    ends = view.division.unit_rows.cumsum(0).long().tolist()
    for first in range(0, view.division.units, step):
        last = min(first + step, view.division.units)
        rows = view.division.by_unit[(ends[first - 1] if first else 0) : ends[last - 1]]
        yield from ((slice(first, last), part) for part in rows.split(max(1, 2 * room // width)))
