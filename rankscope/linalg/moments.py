r"""Sums of powers of rows that add and subtract, from which means, scatters and unbiased ranks follow.

A row :math:`x` enters as :math:`z = x - c` with a fixed shift :math:`c` near the mean (the mean of a first chunk, say),
which avoids cancellation in the sums. Because the shift is fixed, the sums of disjoint sets of rows add, and those of a
subset can be subtracted again: a delete-a-group jackknife over G groups is ``total - groups``. Every sum is float64,
whatever the dtype of the features, and its size does not grow with the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.linalg.forms import add_products, dot, quadratic, trace
from rankscope.linalg.principal import Principal, principal
from rankscope.linalg.streamed import RowMatrix
from rankscope.linalg.sums import Sums, refuse_non_finite, row_blocks, shifted


@dataclass(frozen=True)
class Moments(Sums):
    """Sums over the rows of one matrix, with leading batch dimensions ``*`` (one entry per group, say)."""

    rows: Tensor
    """``(*,)`` number of rows summed, as float64."""
    shift: Tensor
    """``(d,)`` the shift c, subtracted from every row."""
    first: Tensor
    """``(*, d)`` Σ z."""
    second: Tensor
    """``(*, d, d)`` Σ z zᵀ."""
    third: Tensor
    """``(*, d)`` Σ ‖z‖² z."""
    fourth: Tensor
    """``(*,)`` Σ ‖z‖⁴."""

    @classmethod
    def of(cls, x: RowMatrix, *, shift: Tensor, group: Tensor | None = None, groups: int = 1) -> Moments:
        """The sums over the rows of ``x``, one batch entry per group.

        Args:
            x: ``(n, d)`` features of any floating dtype.
            shift: ``(d,)`` vector to subtract from every row.
            group: ``(n,)`` int64 group of each row in 0…G-1; without it all rows are in group 0.
            groups: G, the length of the leading dimension of the result.

        Raises:
            NonFinite: if a row is NaN or infinite.
            UsageError: if the shapes disagree.
        """
        total = cls.zeros(shift, groups)
        for g, index in row_blocks(x, group, groups, total.shift.device):
            total[g].take(shifted(x, index, total.shift))
        refuse_non_finite(total.fourth, x)
        return total

    @classmethod
    def zeros(cls, shift: Tensor, groups: int = 1) -> Moments:
        """The sums over no rows."""
        c = shift.detach().double()
        d, of = len(c), c.new_zeros
        return cls(of(groups), c, of(groups, d), of(groups, d, d), of(groups, d), of(groups))

    def take(self, z: Tensor, product: Tensor | None = None) -> Tensor:
        """Add ``(n, d)`` rows about the shift, in place, to sums without leading dimensions.

        Args:
            z: the rows.
            product: ``(d, d)`` zᵀz, if it is known.

        Returns:
            ``(n,)`` their squared lengths.
        """
        squares = z.square().sum(-1)
        self.rows.add_(len(z))
        self.first.add_(z.sum(0))
        self.third.add_(squares @ z)
        self.fourth.add_(squares @ squares)
        if product is None:
            add_products(self.second, z)
        else:
            self.second.add_(product)
        return squares

    @property
    def width(self) -> int:
        """d, the number of features."""
        return self.shift.shape[-1]

    @property
    def offset(self) -> Tensor:
        """``(*, d)`` mean of z, which is the mean about the shift; 0 without rows."""
        return self.first / self.rows.clamp(min=1)[..., None]

    @property
    def mean(self) -> Tensor:
        """``(*, d)`` mean of the rows x, shift included."""
        return self.shift + self.offset

    @property
    def scatter(self) -> Tensor:
        """``(*, d, d)`` Σ (x - x̄)(x - x̄)ᵀ; kept once it was made, unless it is of many groups."""
        if (kept := self.__dict__.get("_scatter")) is not None:
            return kept
        # Σ (z - m)(z - m)ᵀ = Σ z zᵀ - n m mᵀ, where n m = Σ z
        made = self.second - self.first[..., :, None] * self.offset[..., None, :]
        if made.ndim == 2:
            self.__dict__["_scatter"] = made
        return made

    @property
    def variation(self) -> Tensor:
        """``(*,)`` total variation Σ ‖x - x̄‖², positive; NaN where float64 sums cannot tell it from that of constant rows.

        A sum of n terms is uncertain by up to n ε of its size, so a scatter below ``n ε`` times the second moment about the
        shift is not resolved. Quantities that divide by it are then undefined.
        """
        total = trace(self.scatter)
        resolved = self.rows * torch.finfo(total.dtype).eps * trace(self.second)
        return total.where(total > resolved, torch.nan)

    @property
    def trace(self) -> Tensor:
        """``(*,)`` Σ ‖x - x̄‖², the trace of the scatter; exactly 0 where only the rounding of equal rows is left."""
        about_shift = trace(self.second)
        about_mean = about_shift - dot(self.first, self.offset)
        # Equal rows leave ε of the sums about the shift, and ε of the shift itself in every row, squared
        eps = torch.finfo(torch.float64).eps
        rounding = eps * self.width * about_shift + eps**2 * self.rows * self.shift.square().sum(-1)
        return torch.where(about_mean > rounding, about_mean, 0.0)

    @property
    def covariance(self) -> Tensor:
        """``(*, d, d)`` sample covariance, the scatter over n - 1; NaN for fewer than two rows."""
        degrees = torch.where(self.rows > 1, self.rows - 1, torch.nan)
        return self.scatter / degrees[..., None, None]

    @property
    def gram(self) -> Tensor:
        """``(*, d, d)`` Σ x xᵀ about the origin: the scatter plus n x̄ x̄ᵀ."""
        mean = self.mean
        return self.scatter + self.rows[..., None, None] * mean[..., :, None] * mean[..., None, :]

    @cached_property
    def principal(self) -> Principal:
        """The eigendecomposition of the scatter, solved once and shared by all who ask."""
        return self._solved("principal", self.scatter)

    @cached_property
    def principal_about_origin(self) -> Principal:
        """The eigendecomposition of :attr:`gram`."""
        return self._solved("principal_about_origin", self.gram)

    def _solved(self, name: str, matrix: Tensor) -> Principal:
        if self.origin is None:
            return principal(matrix)
        # In a graph of derivatives they are leaves of their own: what moves them is a few products, and no matrix
        return Principal(*(part.detach().requires_grad_() for part in getattr(self.origin, name)))

    @property
    def fourth_central(self) -> Tensor:
        """``(*,)`` Σ ‖x - x̄‖⁴."""
        return squared_traces_about(
            self.offset,
            traces_squared=self.fourth,
            sized_traces=trace(self.second),
            sizes_squared=self.rows,
            traced_firsts=self.third,
            sized_firsts=self.first,
            outer=self.second,
        )


def squared_traces_about(
    m: Tensor,
    *,
    traces_squared: Tensor,
    sized_traces: Tensor,
    sizes_squared: Tensor,
    traced_firsts: Tensor,
    sized_firsts: Tensor,
    outer: Tensor,
) -> Tensor:
    r"""Sum over samples of the squared trace of their scatter about a mean.

    .. math:: \sum_c \Bigl(\sum_{i \in c} \lVert z_i - m \rVert^2\Bigr)^2

    A sample has n rows z with sum s and t = Σ ‖z‖². With every row its own sample this is the sum of fourth powers.

    Args:
        m: ``(*, d)`` the mean, about the same shift as the sums.
        traces_squared: ``(*,)`` Σ t².
        sized_traces: ``(*,)`` Σ n t.
        sizes_squared: ``(*,)`` Σ n².
        traced_firsts: ``(*, d)`` Σ t s.
        sized_firsts: ``(*, d)`` Σ n s.
        outer: ``(*, d, d)`` Σ s sᵀ.

    Returns:
        ``(*,)`` sums, float64.
    """
    # A sample has Σ ‖z - m‖² = t - 2 m·s + n ‖m‖², whose square is
    # t² + 4 (m·s)² + n² ‖m‖⁴ + 2 n t ‖m‖² - 4 m·s (t + n ‖m‖²)
    norm = m.square().sum(-1)
    even = 4 * quadratic(m, outer) + norm.square() * sizes_squared + 2 * norm * sized_traces
    return traces_squared + even - 4 * dot(m, traced_firsts + norm[..., None] * sized_firsts)


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
    def itself(cls, moments: Moments) -> PairMoments:
        """A run paired with itself, row by row; nothing is copied.

        A comparison that reads folds returns its split-half ceiling for the pairs of ``fit.a`` and of ``evaluate.a`` with
        themselves: the value of a run that did not change at all, at this number of rows.
        """
        m = moments
        return cls(a=m, b=m, cross=m.second, a_weighted=m.third, b_weighted=m.third, norms=m.fourth)

    @classmethod
    def unpaired(cls, a: Moments, b: Moments) -> PairMoments:
        """Two sets of moments about one shift whose rows are not paired, for comparisons that do not need pairs.

        For two halves of one run such a comparison returns its split-half ceiling. The sums over pairs of rows are NaN.
        """
        cross = a.second.new_full((*a.second.shape[:-1], b.second.shape[-1]), torch.nan)
        nothing = torch.full_like(a.first, torch.nan), torch.full_like(b.first, torch.nan)
        return cls(a=a, b=b, cross=cross, a_weighted=nothing[0], b_weighted=nothing[1], norms=cross[..., 0, 0])

    @classmethod
    def of(
        cls,
        x_a: RowMatrix,
        x_b: RowMatrix,
        *,
        shift_a: Tensor,
        shift_b: Tensor,
        group: Tensor | None = None,
        groups: int = 1,
    ) -> PairMoments:
        """The sums over the rows of two matrices, in which row i of one is paired with row i of the other.

        Args:
            x_a: ``(n, d_a)`` features of the reference.
            x_b: ``(n, d_b)`` features of the tuned run.
            shift_a: ``(d_a,)`` vector to subtract from every row of the reference.
            shift_b: ``(d_b,)`` vector to subtract from every row of the tuned run.
            group: ``(n,)`` int64 group of each row in 0…G-1; without it all rows are in group 0.
            groups: G, the length of the leading dimension of the result.

        Raises:
            NonFinite: if a row is NaN or infinite.
            UsageError: if the shapes disagree.
        """
        if len(x_a) != len(x_b):
            raise UsageError(
                f"paired rows must correspond one to one; one matrix has {len(x_a)} rows, the other {len(x_b)}"
            )
        a, b = (Moments.of(x, shift=shift, group=group, groups=groups) for x, shift in ((x_a, shift_a), (x_b, shift_b)))
        return cls.between(a, b, x_a, x_b, group=group)

    @classmethod
    def between(
        cls, a: Moments, b: Moments, x_a: RowMatrix, x_b: RowMatrix, *, group: Tensor | None = None
    ) -> PairMoments:
        """The sums over pairs of rows, beside those over the rows of each side, which are there already.

        Args:
            a: the sums over the rows of the reference, one batch entry per group.
            b: those of the tuned run.
            x_a: ``(n, d_a)`` features of the reference.
            x_b: ``(n, d_b)`` features of the tuned run.
            group: ``(n,)`` int64 group of each row, as in the sums of the sides.
        """
        total = cls.empty(a, b)
        for g, index in row_blocks(x_a, group, len(a.rows), a.shift.device):
            total[g].take(shifted(x_a, index, a.shift), shifted(x_b, index, b.shift))
        return total

    @classmethod
    def empty(cls, a: Moments, b: Moments) -> PairMoments:
        """The sums over no pairs yet, beside the sums over the rows of each side."""
        of, lead = a.first.new_zeros, a.rows.shape
        return cls(a, b, of(*lead, a.width, b.width), of(*lead, a.width), of(*lead, b.width), of(lead))

    def take(self, z_a: Tensor, z_b: Tensor) -> None:
        """Add pairs of ``(n, d_a)`` and ``(n, d_b)`` rows about the shifts, in place, to sums without leading dimensions."""
        squares_a, squares_b = z_a.square().sum(-1), z_b.square().sum(-1)
        self.cross.addmm_(z_a.mT, z_b)
        self.a_weighted.add_(squares_b @ z_a)
        self.b_weighted.add_(squares_a @ z_b)
        self.norms.add_(squares_a @ squares_b)

    @property
    def cross_scatter(self) -> Tensor:
        """``(*, d_a, d_b)`` Σ (x_a - x̄_a)(x_b - x̄_b)ᵀ."""
        return self.cross - self.a.first[..., :, None] * self.b.offset[..., None, :]
