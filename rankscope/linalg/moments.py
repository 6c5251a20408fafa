r"""Sums of powers of rows that add and subtract, from which means, scatters and unbiased ranks follow.

A row :math:`x` enters as :math:`z = x - c` with a fixed shift :math:`c` near the mean (the mean of a first chunk, say),
which keeps the sums free of cancellation. As the shift is fixed, the sums of disjoint sets of rows add, and those of a
subset can be taken away again: a delete-a-group jackknife over G groups is ``total - groups``. Every sum is float64,
whatever the dtype of the features, and none grows with the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from rankscope.errors import NonFinite, UsageError

_BLOCK = 1 << 24
"""Numbers lifted to float64 at a time (128 MiB)."""


@dataclass(frozen=True)
class Sums:
    """What all sums share: field by field they add, subtract, and are summed over or picked from leading dimensions."""

    def __add__(self, other: Self) -> Self:
        return self._joined(other, torch.add)

    def __sub__(self, other: Self) -> Self:
        return self._joined(other, torch.sub)

    def _joined(self, other: Self, operation: Callable[[Tensor, Tensor], Tensor]) -> Self:
        changed: dict[str, object] = {}
        for name in (f.name for f in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Sums):
                changed[name] = mine._joined(theirs, operation)
            elif name != "shift":
                changed[name] = operation(mine, theirs)
            elif mine is not theirs and not torch.equal(mine, theirs):
                raise UsageError("sums about different shifts cannot be joined; make them with the same shift")
        return replace(self, **changed)

    def _mapped(self, function: Callable[[Tensor], Tensor], *, shift: bool = False) -> Self:
        changed: dict[str, object] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Sums):
                changed[name] = value._mapped(function, shift=shift)
            elif name != "shift" or shift:
                changed[name] = function(value)
        return replace(self, **changed)

    def sum(self, dim: int = 0) -> Self:
        """The entries along leading dimension ``dim`` (counted from the front) joined into one."""
        return self._mapped(lambda value: value.sum(dim))

    def __getitem__(self, index: int | slice | Tensor) -> Self:
        """The entries at ``index`` of the first leading dimension."""
        return self._mapped(lambda value: value[index])

    def weighted(self, weights: Tensor) -> Self:
        """The entries of the first leading dimension joined with weights: ``(G,)`` gives one set, ``(k, G)`` gives k."""
        return self._mapped(lambda value: torch.tensordot(weights, value, dims=1))

    def to(self, device: torch.device | str) -> Self:
        """The same sums on another device."""
        return self._mapped(lambda value: value.to(device), shift=True)


@dataclass(frozen=True)
class Moments(Sums):
    """Sums over the rows of one matrix, with leading batch dimensions ``*`` (one entry a group, say)."""

    rows: Tensor
    """``(*,)`` how many rows were summed, as float64."""
    shift: Tensor
    """``(d,)`` the shift c that was taken from every row."""
    first: Tensor
    """``(*, d)`` Σ z."""
    second: Tensor
    """``(*, d, d)`` Σ z zᵀ."""
    third: Tensor
    """``(*, d)`` Σ ‖z‖² z."""
    fourth: Tensor
    """``(*,)`` Σ ‖z‖⁴."""

    @classmethod
    def of(cls, x: Tensor, *, shift: Tensor, group: Tensor | None = None, groups: int = 1) -> Moments:
        """The sums over the rows of ``x``, a batch entry a group.

        Args:
            x: ``(n, d)`` features of any floating dtype.
            shift: ``(d,)`` what to take from every row.
            group: ``(n,)`` int64 group of each row in 0…G-1; without it all rows are in group 0.
            groups: G, the length of the leading dimension of the result.

        Raises:
            NonFinite: if a row is NaN or infinite.
            UsageError: if the shapes disagree.
        """
        return cls.stream([(x, group)], shift=shift, groups=groups)

    @classmethod
    def stream(cls, chunks: Iterable[tuple[Tensor, Tensor | None]], *, shift: Tensor, groups: int = 1) -> Moments:
        """The same as :meth:`of` over ``(x, group)`` chunks, holding one chunk and one set of sums."""
        total = cls.zeros(shift, groups)
        for x, group in chunks:
            for g, index in _blocks(x, group, groups):
                total._take(g, _shifted(x, index, total.shift))
            _refuse_non_finite(total.fourth, x)
        return total

    @classmethod
    def zeros(cls, shift: Tensor, groups: int = 1) -> Moments:
        """The sums over no row."""
        c = shift.detach().double()
        d, of = len(c), c.new_zeros
        return cls(of(groups), c, of(groups, d), of(groups, d, d), of(groups, d), of(groups))

    def _take(self, g: int, z: Tensor) -> Tensor:
        squares = z.square().sum(-1)
        self.rows[g] += len(z)
        self.first[g] += z.sum(0)
        self.second[g].addmm_(z.mT, z)
        self.third[g] += squares @ z
        self.fourth[g] += squares @ squares
        return squares

    @property
    def width(self) -> int:
        """d, the number of features."""
        return self.shift.shape[-1]

    @property
    def offset(self) -> Tensor:
        """``(*, d)`` mean of z, the mean about the shift; 0 where there is no row."""
        return self.first / self.rows.clamp(min=1)[..., None]

    @property
    def mean(self) -> Tensor:
        """``(*, d)`` mean of the rows x."""
        return self.shift + self.offset

    @property
    def scatter(self) -> Tensor:
        """``(*, d, d)`` Σ (x - x̄)(x - x̄)ᵀ."""
        return self.second - self.first[..., :, None] * self.offset[..., None, :]

    @property
    def covariance(self) -> Tensor:
        """``(*, d, d)`` the scatter over n - 1; NaN for fewer than two rows."""
        degrees = torch.where(self.rows > 1, self.rows - 1, torch.nan)
        return self.scatter / degrees[..., None, None]

    @property
    def gram(self) -> Tensor:
        """``(*, d, d)`` Σ x xᵀ about the origin, the scatter plus the mean's share."""
        mean = self.mean
        return self.scatter + self.rows[..., None, None] * mean[..., :, None] * mean[..., None, :]

    @property
    def fourth_central(self) -> Tensor:
        r"""``(*,)`` Σ ‖x - x̄‖⁴, expanded in the sums about the shift."""
        m = self.offset
        norm = m.square().sum(-1)
        along = torch.einsum("...i,...ij,...j->...", m, self.second, m)
        trace = self.second.diagonal(dim1=-2, dim2=-1).sum(-1)
        linear = (m * (self.third + norm[..., None] * self.first)).sum(-1)
        return self.fourth + 4 * along + self.rows * norm.square() + 2 * norm * trace - 4 * linear


@dataclass(frozen=True)
class PairMoments(Sums):
    """Sums over the aligned rows of two matrices; ``a`` is the reference and ``b`` the tuned run."""

    a: Moments
    """The sums over the rows of the reference."""
    b: Moments
    """The sums over the rows of the tuned run."""
    cross: Tensor
    """``(*, d_a, d_b)`` Σ z_a z_bᵀ."""
    a_weighted: Tensor
    """``(*, d_a)`` Σ ‖z_b‖² z_a."""
    b_weighted: Tensor
    """``(*, d_b)`` Σ ‖z_a‖² z_b."""
    norms: Tensor
    """``(*,)`` Σ ‖z_a‖² ‖z_b‖²."""

    @classmethod
    def of(
        cls,
        x_a: Tensor,
        x_b: Tensor,
        *,
        shift_a: Tensor,
        shift_b: Tensor,
        group: Tensor | None = None,
        groups: int = 1,
    ) -> PairMoments:
        """The sums over the rows of two matrices, row i of one beside row i of the other.

        Args:
            x_a: ``(n, d_a)`` features of the reference.
            x_b: ``(n, d_b)`` features of the tuned run.
            shift_a: ``(d_a,)`` what to take from every row of the reference.
            shift_b: ``(d_b,)`` what to take from every row of the tuned run.
            group: ``(n,)`` int64 group of each row in 0…G-1; without it all rows are in group 0.
            groups: G, the length of the leading dimension of the result.

        Raises:
            NonFinite: if a row is NaN or infinite.
            UsageError: if the shapes disagree.
        """
        return cls.stream([(x_a, x_b, group)], shift_a=shift_a, shift_b=shift_b, groups=groups)

    @classmethod
    def stream(
        cls,
        chunks: Iterable[tuple[Tensor, Tensor, Tensor | None]],
        *,
        shift_a: Tensor,
        shift_b: Tensor,
        groups: int = 1,
    ) -> PairMoments:
        """The same as :meth:`of` over ``(x_a, x_b, group)`` chunks, holding one chunk and one set of sums."""
        a, b = Moments.zeros(shift_a, groups), Moments.zeros(shift_b, groups)
        of, d_a, d_b = a.first.new_zeros, a.width, b.width
        total = cls(a, b, of(groups, d_a, d_b), of(groups, d_a), of(groups, d_b), of(groups))
        for x_a, x_b, group in chunks:
            if len(x_a) != len(x_b):
                raise UsageError(f"paired rows must align; one matrix has {len(x_a)} rows, the other {len(x_b)}")
            for g, index in _blocks(x_a, group, groups):
                total._take(g, _shifted(x_a, index, a.shift), _shifted(x_b, index, b.shift))
            _refuse_non_finite(a.fourth, x_a)
            _refuse_non_finite(b.fourth, x_b)
        return total

    def _take(self, g: int, z_a: Tensor, z_b: Tensor) -> None:
        squares_a, squares_b = self.a._take(g, z_a), self.b._take(g, z_b)
        self.cross[g].addmm_(z_a.mT, z_b)
        self.a_weighted[g] += squares_b @ z_a
        self.b_weighted[g] += squares_a @ z_b
        self.norms[g] += squares_a @ squares_b

    @property
    def rows(self) -> Tensor:
        """``(*,)`` how many rows were summed, as float64."""
        return self.a.rows

    @property
    def cross_scatter(self) -> Tensor:
        """``(*, d_a, d_b)`` Σ (x_a - x̄_a)(x_b - x̄_b)ᵀ."""
        return self.cross - self.a.first[..., :, None] * self.b.offset[..., None, :]

    @property
    def swapped(self) -> PairMoments:
        """The same sums with the two matrices in each other's place."""
        return PairMoments(self.b, self.a, self.cross.mT, self.b_weighted, self.a_weighted, self.norms)


def _blocks(x: Tensor, group: Tensor | None, groups: int) -> Iterator[tuple[int, slice | Tensor]]:
    """The rows of each group in turn, as (group, index) pairs of at most ``_BLOCK`` numbers each."""
    if x.ndim != 2:
        raise UsageError(f"rows are an (n, d) matrix; got shape {tuple(x.shape)}")
    step = max(1, _BLOCK // max(1, x.shape[1]))
    if group is None:
        yield from ((0, slice(i, i + step)) for i in range(0, len(x), step))
        return
    if group.shape != (len(x),):
        raise UsageError(f"there are {len(x)} rows, and groups of shape {tuple(group.shape)} for them")
    order = torch.argsort(group, stable=True)
    present, counts = torch.unique(group, return_counts=True)
    numbers = present.tolist()
    if numbers and not 0 <= numbers[0] <= numbers[-1] < groups:
        raise UsageError(f"groups are numbered 0 to {groups - 1}; got {numbers[0]} to {numbers[-1]}")
    for g, index in zip(numbers, order.split(counts.tolist()), strict=True):
        yield from ((g, part.to(x.device)) for part in index.split(step))


def _shifted(x: Tensor, index: slice | Tensor, shift: Tensor) -> Tensor:
    if x.shape[1] != len(shift):
        raise UsageError(f"rows have {x.shape[1]} features, and the shift {len(shift)}")
    return x[index].detach().to(shift.device, torch.float64) - shift


def _refuse_non_finite(sums: Tensor, x: Tensor) -> None:
    if not torch.isfinite(sums).all():
        bad = (~torch.isfinite(x)).any(-1).nonzero().flatten().tolist()
        where = f"row {bad[0]} of {len(x)} ({len(bad)} in all)" if bad else "their fourth powers"
        raise NonFinite(f"features must be finite; NaN or infinite in {where}")
