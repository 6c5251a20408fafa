r"""Sums of powers of rows that add and subtract, from which means, scatters and unbiased ranks follow.

A row :math:`x` enters as :math:`z = x - c` with a fixed shift :math:`c` near the mean (the mean of a first chunk, say),
which keeps the sums free of cancellation. As the shift is fixed, the sums of disjoint sets of rows add, and those of a
subset can be taken away again: a delete-a-group jackknife over G groups is ``total - groups``. Every sum is float64,
whatever the dtype of the features, and none grows with the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.linalg.sums import Sums, refuse_non_finite, row_blocks, shifted


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
            for g, index in row_blocks(x, group, groups):
                total._take(g, shifted(x, index, total.shift))
            refuse_non_finite(total.fourth, x)
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
    def trace(self) -> Tensor:
        """``(*,)`` Σ ‖x - x̄‖², the trace of the scatter; exactly 0 where what is left is the rounding of equal rows."""
        about_shift = self.second.diagonal(dim1=-2, dim2=-1).sum(-1)
        trace = about_shift - (self.first * self.offset).sum(-1)
        unit = torch.finfo(torch.float64).eps
        rounding = unit * self.width * about_shift + unit**2 * self.rows * self.shift.square().sum(-1)
        return torch.where(trace > rounding, trace, 0.0)

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
            for g, index in row_blocks(x_a, group, groups):
                total._take(g, shifted(x_a, index, a.shift), shifted(x_b, index, b.shift))
            refuse_non_finite(a.fourth, x_a)
            refuse_non_finite(b.fourth, x_b)
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
