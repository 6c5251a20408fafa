r"""Sums over samples of several rows each, with which products of two rows of one sample can be left out exactly.

Tokens of one text are not independent, so a rank that multiplies rows should multiply rows of *different* samples. With
:math:`G_c = \sum_{i \in c} (x_i - \bar x)(x_i - \bar x)^\top` over the rows of sample c, that takes
:math:`\sum_c (\operatorname{tr} G_c)^2` and :math:`\sum_c \lVert G_c \rVert_F^2`. Both are polynomials of degree four in
the mean, which is known only at the end (and differs in every jackknife replicate). The sums here are the coefficients
of these polynomials about the fixed shift, so that they too add, subtract and centre exactly, at the price of two more
``(d, d)`` matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.linalg.moments import Moments
from rankscope.linalg.sums import Sums


@dataclass(frozen=True)
class ClusterMoments(Sums):
    """Sums over the samples c of one matrix, where sample c has n_c rows z with sum s_c, Σzzᵀ = M_c and t_c = tr M_c."""

    moments: Moments
    """The sums over all rows."""
    samples: Tensor
    """``(*,)`` how many samples there are."""
    sizes_squared: Tensor
    """``(*,)`` Σ n_c²."""
    traces_squared: Tensor
    """``(*,)`` Σ t_c²."""
    norms_squared: Tensor
    """``(*,)`` Σ ‖M_c‖_F²."""
    sized_traces: Tensor
    """``(*,)`` Σ n_c t_c."""
    sized_firsts: Tensor
    """``(*, d)`` Σ n_c s_c."""
    traced_firsts: Tensor
    """``(*, d)`` Σ t_c s_c."""
    turned_firsts: Tensor
    """``(*, d)`` Σ M_c s_c."""
    outer: Tensor
    """``(*, d, d)`` Σ s_c s_cᵀ."""
    sized_seconds: Tensor
    """``(*, d, d)`` Σ n_c M_c."""

    @classmethod
    def of(
        cls, x: Tensor, sample: Tensor, *, shift: Tensor, group: Tensor | None = None, groups: int = 1
    ) -> ClusterMoments:
        """The sums over the samples of ``x``; all rows of a sample must come in one call.

        Args:
            x: ``(n, d)`` features of any floating dtype.
            sample: ``(n,)`` int64 sample of each row.
            shift: ``(d,)`` what to take from every row.
            group: ``(n,)`` int64 group of each row in 0…G-1; all rows of a sample are in one group.
            groups: G, the length of the leading dimension of the result.

        Raises:
            NonFinite: if a row is NaN or infinite.
            UsageError: if the shapes disagree, or a sample lies in two groups.
        """
        moments = Moments.of(x, shift=shift, group=group, groups=groups)
        group = torch.zeros(len(x), dtype=torch.int64) if group is None else group.cpu()
        parts = [_sums(x, sample.cpu(), group == g, moments.shift) for g in range(groups)]
        distinct = len(torch.unique(torch.stack([sample.cpu(), group]), dim=1).mT)
        if distinct != len(torch.unique(sample)):
            raise UsageError("a sample lies in two groups; the rows of a sample must stay together")
        return cls(moments, *(torch.stack(values) for values in zip(*parts, strict=True)))

    @property
    def central_traces_squared(self) -> Tensor:
        """``(*,)`` Σ (tr G_c)², about the mean."""
        m = self.moments.offset
        norm = m.square().sum(-1)
        along = _quadratic(m, self.outer)
        linear = (m * (self.traced_firsts + norm[..., None] * self.sized_firsts)).sum(-1)
        return (
            self.traces_squared
            + 4 * along
            + norm.square() * self.sizes_squared
            + 2 * norm * self.sized_traces
            - 4 * linear
        )

    @property
    def central_norms_squared(self) -> Tensor:
        """``(*,)`` Σ ‖G_c‖_F², about the mean."""
        m = self.moments.offset
        norm = m.square().sum(-1)
        trace = self.outer.diagonal(dim1=-2, dim2=-1).sum(-1)
        even = 2 * norm * trace + 2 * _quadratic(m, self.outer) + 2 * _quadratic(m, self.sized_seconds)
        linear = (m * (self.turned_firsts + norm[..., None] * self.sized_firsts)).sum(-1)
        return self.norms_squared + even + norm.square() * self.sizes_squared - 4 * linear


def _quadratic(m: Tensor, a: Tensor) -> Tensor:
    return torch.einsum("...i,...ij,...j->...", m, a, m)


def _sums(x: Tensor, sample: Tensor, chosen: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
    """The fields of :class:`ClusterMoments` after the first, over the chosen rows."""
    names, place, counts = torch.unique(sample[chosen], return_inverse=True, return_counts=True)
    z = x[chosen.to(x.device)].detach().to(shift.device, torch.float64) - shift
    place, sizes = place.to(z.device), counts.to(z)
    first = z.new_zeros(len(names), z.shape[1]).index_add_(0, place, z)
    traces = z.new_zeros(len(names)).index_add_(0, place, z.square().sum(1))
    return (
        sizes.new_tensor(len(names)),
        sizes @ sizes,
        traces @ traces,
        _squared_norms(z, place.cpu(), counts),
        sizes @ traces,
        sizes @ first,
        traces @ first,
        (z * first[place]).sum(1) @ z,
        first.mT @ first,
        (z * sizes[place, None]).mT @ z,
    )


def _squared_norms(z: Tensor, place: Tensor, counts: Tensor) -> Tensor:
    """Σ ‖M_c‖_F², the samples of equal size together, through the smaller of the two Gram matrices."""
    order = torch.argsort(place, stable=True)
    ends = counts.cumsum(0)
    total = z.new_zeros(())
    for size in torch.unique(counts).tolist():
        ends_here = ends[counts == size]
        index = order[(ends_here[:, None] - size + torch.arange(size)).flatten()]
        rows = z[index.to(z.device)].unflatten(0, (len(ends_here), size))
        gram = rows @ rows.mT if size < z.shape[1] else rows.mT @ rows
        total = total + gram.square().sum()
    return total
