r"""Sums over samples of several rows each, from which products of two rows of one sample can be excluded exactly.

Tokens of one text are not independent, so a rank that multiplies rows should multiply rows of *different* samples. With
:math:`G_c = \sum_{i \in c} (x_i - \bar x)(x_i - \bar x)^\top` over the rows of sample c, excluding the other products
requires :math:`\sum_c (\operatorname{tr} G_c)^2` and :math:`\sum_c \lVert G_c \rVert_F^2`. Both are polynomials of
degree four in the mean, which is known only at the end and differs between jackknife replicates. The sums here are the
coefficients of these polynomials about a fixed shift, so they too add, subtract and centre exactly, at the price of two
more ``(d, d)`` matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.linalg.forms import dot, quadratic, squared_norm, trace
from rankscope.linalg.moments import Moments, squared_traces_about
from rankscope.linalg.rows import blocks_of_samples, samples_by_size
from rankscope.linalg.streamed import RowMatrix
from rankscope.linalg.sums import Sums, lifted


@dataclass(frozen=True)
class ClusterMoments(Sums):
    """Sums over the samples c of one matrix; sample c has n_c rows z with sum s_c, M_c = Σ z zᵀ and t_c = tr M_c."""

    moments: Moments
    """The sums over all rows."""
    samples: Tensor
    """``(*,)`` number of samples."""
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
        cls, x: RowMatrix, sample: Tensor, *, shift: Tensor, group: Tensor | None = None, groups: int = 1
    ) -> ClusterMoments:
        """The sums over the samples of ``x``; all rows of a sample must come in one call.

        Args:
            x: ``(n, d)`` features of any floating dtype.
            sample: ``(n,)`` int64 sample of each row.
            shift: ``(d,)`` vector to subtract from every row.
            group: ``(n,)`` int64 group of each row in 0…G-1; all rows of a sample belong to one group.
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

    @classmethod
    def about_mean(cls, moments: Moments, x: RowMatrix, sample: Tensor) -> tuple[ClusterMoments, Tensor, Tensor]:
        """The sums over all samples about the mean, where those that are only ever multiplied by its square need no product.

        Args:
            moments: the sums over all rows, without leading dimensions, about the mean of the rows as their shift.
            x: ``(n, d)`` features.
            sample: ``(n,)`` int64 sample of each row.

        Returns:
            The sums, with zeros for :attr:`outer` and :attr:`sized_seconds`; and the ``(S,)`` squared traces and squared norms
            of each sample, in ascending order.
        """
        parts, squares = [], []
        for rows in blocks_of_samples(sample, x.shape[1], moments.shift.device):
            z = lifted(x[rows.to(x.device)], moments.shift.device) - moments.shift
            place, sizes, first, traces = of_samples(z, sample.cpu()[rows])
            norms = squared_norms(z, place)
            parts.append(scalars_and_vectors(z, place, sizes, first, traces, norms.sum()))
            squares.append(torch.stack([traces.square(), norms]))
        nothing = torch.zeros_like(moments.second)
        sums = (*(torch.stack(values).sum(0) for values in zip(*parts, strict=True)), nothing, nothing)
        return cls(moments, *sums), *torch.cat(squares, 1)

    @property
    def central_traces_squared(self) -> Tensor:
        """``(*,)`` Σ (tr G_c)², about the mean."""
        return squared_traces_about(
            self.moments.offset,
            traces_squared=self.traces_squared,
            sized_traces=self.sized_traces,
            sizes_squared=self.sizes_squared,
            traced_firsts=self.traced_firsts,
            sized_firsts=self.sized_firsts,
            outer=self.outer,
        )

    @property
    def central_norms_squared(self) -> Tensor:
        """``(*,)`` Σ ‖G_c‖_F², about the mean."""
        # About the offset m a sample has G = M - B + C with B = m sᵀ + s mᵀ and C = n m mᵀ (its index c left out), so
        # ‖G‖² = ‖M‖² + ‖B‖² + ‖C‖² - 2⟨M, B⟩ + 2⟨M, C⟩ - 2⟨B, C⟩, in which
        # ‖B‖² = 2 ‖m‖²‖s‖² + 2 (m·s)², ‖C‖² = n² ‖m‖⁴, ⟨M, B⟩ = 2 mᵀM s, ⟨M, C⟩ = n mᵀM m, ⟨B, C⟩ = 2 n ‖m‖² m·s.
        # Summed over samples, Σ ‖s‖² is the trace of Σ s sᵀ, and every term is a form in m of a sum kept here.
        m = self.moments.offset
        norm = m.square().sum(-1)
        even = 2 * norm * trace(self.outer) + 2 * quadratic(m, self.outer) + 2 * quadratic(m, self.sized_seconds)
        linear = dot(m, self.turned_firsts + norm[..., None] * self.sized_firsts)
        return self.norms_squared + even + norm.square() * self.sizes_squared - 4 * linear


def _sums(x: RowMatrix, sample: Tensor, chosen: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
    """The fields of :class:`ClusterMoments` after the first, over the chosen rows."""
    found, total = chosen.nonzero().flatten(), tuple[Tensor, ...]()
    for part in [*blocks_of_samples(sample[found], x.shape[1], shift.device)] or [found]:
        rows = found[part]
        z = lifted(x[rows.to(x.device)], shift.device) - shift
        place, sizes, first, traces = of_samples(z, sample[rows])
        sums = scalars_and_vectors(z, place, sizes, first, traces, squared_norms(z, place).sum())
        sums = (*sums, first.mT @ first, (z * sizes[place, None]).mT @ z)
        total = tuple(map(torch.add, total, sums)) if total else sums
    return total


def of_samples(z: Tensor, sample: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The place of the sample of each of ``(n, d)`` rows about the shift, and n_c, s_c and t_c of each sample."""
    names, place, counts = torch.unique(sample.cpu(), return_inverse=True, return_counts=True)
    place = place.to(z.device)
    first = z.new_zeros(len(names), z.shape[1]).index_add_(0, place, z)
    traces = z.new_zeros(len(names)).index_add_(0, place, z.square().sum(1))
    return place, counts.to(z), first, traces


def scalars_and_vectors(
    z: Tensor, place: Tensor, sizes: Tensor, first: Tensor, traces: Tensor, norms: Tensor
) -> tuple[Tensor, ...]:
    """The fields from :attr:`ClusterMoments.samples` to :attr:`ClusterMoments.turned_firsts`."""
    return (
        sizes.new_tensor(len(sizes)),
        sizes @ sizes,
        traces @ traces,
        norms,
        sizes @ traces,
        sizes @ first,
        traces @ first,
        (z * first[place]).sum(1) @ z,  # Σ_c M_c s_c = Σ_i z_i (z_i · s_c(i)), without forming any M_c
    )


def squared_norms(z: Tensor, place: Tensor) -> Tensor:
    """``(S,)`` ‖M_c‖_F² of each sample, those of equal size together."""
    found = z.new_zeros(int(place.max()) + 1 if len(place) else 0)
    for members, index in samples_by_size(place):
        rows = z[index.to(z.device)]
        # ZᵀZ and ZZᵀ have the same norm; the smaller one costs less
        gram = rows @ rows.mT if index.shape[1] < z.shape[1] else rows.mT @ rows
        found[members.to(z.device)] = squared_norm(gram)
    return found
