"""Sums over the rows of one group of samples that grow in place, batch by batch, one product of matrices a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.linalg.clusters import ClusterMoments, scalars_and_vectors, squared_norms
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.sums import lifted

STRIPES = 4
"""Stripes of rows in which a symmetric product is formed, each from the diagonal on: 5/8 of the multiplications."""


def add_products(upper: Tensor, x: Tensor, y: Tensor) -> None:
    """Add the symmetric ``xᵀy`` of two ``(n, d)`` matrices to the upper triangle of ``(d, d)`` sums; below it are parts of it."""
    step = -(-len(upper) // STRIPES)
    for i in range(0, len(upper), step):
        upper[i : i + step, i:].addmm_(x[:, i : i + step].mT, y[:, i:])


@dataclass(frozen=True)
class Lifted:
    """The rows of a batch about the shift, as sums over them and over pairs of them read them."""

    z: Tensor
    """``(n, d)`` rows minus the shift, float64."""
    squares: Tensor
    """``(n,)`` ‖z‖²."""


class RunningSums:
    """The sums over rows, and where samples have several also those over samples, as they grow.

    Args:
        shift: ``(d,)`` vector to subtract from every row; the sums are where it is.
        several: whether a sample may have several rows.
    """

    def __init__(self, shift: Tensor, *, several: bool) -> None:
        self._rows = Moments.zeros(shift)[0]
        d, of = len(shift), self._rows.first.new_zeros
        shapes = [*[()] * 5, *[(d,)] * 3, *[(d, d)] * 2]
        self._samples = ClusterMoments(self._rows, *map(of, shapes)) if several else None

    @property
    def sums(self) -> Moments | ClusterMoments:
        """The sums so far; of symmetric matrices the upper triangle."""
        return self._rows if self._samples is None else self._samples

    def add(self, x: Tensor, sample: Tensor) -> Lifted:
        """Add rows; all rows of a sample must come in one call.

        Args:
            x: ``(n, d)`` features of any floating dtype.
            sample: ``(n,)`` int64 sample of each row.
        """
        m = self._rows
        z = lifted(x, m.shift.device) - m.shift
        squares = z.square().sum(-1)
        m.rows.add_(len(z))
        m.first.add_(z.sum(0))
        m.third.add_(squares @ z)
        m.fourth.add_(squares @ squares)
        if self._samples is None:
            add_products(m.second, z, z)
        else:
            self._add_samples(self._samples, z, squares, sample)
        return Lifted(z, squares)

    @staticmethod
    def _add_samples(sums: ClusterMoments, z: Tensor, squares: Tensor, sample: Tensor) -> None:
        names, place, counts = torch.unique(sample.cpu(), return_inverse=True, return_counts=True)
        place, sizes = place.to(z.device), counts.to(z)
        first = z.new_zeros(len(names), z.shape[1]).index_add_(0, place, z)
        traces = z.new_zeros(len(names)).index_add_(0, place, squares)
        small = scalars_and_vectors(z, place, sizes, first, traces, squared_norms(z, place).sum())
        fields = ("samples", "sizes_squared", "traces_squared", "norms_squared", "sized_traces", "sized_firsts",
                  "traced_firsts", "turned_firsts")  # fmt: skip
        for name, more in zip(fields, small, strict=True):
            getattr(sums, name).add_(more)
        add_products(sums.outer, first, first)
        # Σ n zzᵀ = L Σ zzᵀ + Σ (n - L) zzᵀ with L the commonest n: mostly the second product is of few rows, or of none
        length = sizes[place].mode().values
        rest = (sizes[place] != length).nonzero().squeeze(1)
        product = torch.zeros_like(sums.outer)
        add_products(product, z, z)
        sums.moments.second.add_(product)
        sums.sized_seconds.addcmul_(product, length)
        add_products(sums.sized_seconds, z[rest] * (sizes[place[rest], None] - length), z[rest])


class RunningPair:
    """The sums over pairs of rows of two runs, as they grow, beside the sums of each side.

    Args:
        a: the sums of one run.
        b: those of the other.
    """

    def __init__(self, a: RunningSums, b: RunningSums) -> None:
        left, right = a._rows, b._rows
        of = left.first.new_zeros
        self.pair = PairMoments(
            left, right, of(left.width, right.width), of(left.width), of(right.width), of(())
        )  # fmt: skip
        """The sums so far."""

    def add(self, a: Lifted, b: Lifted) -> None:
        """Add pairs of rows: what :meth:`RunningSums.add` gave for the rows of each side."""
        p = self.pair
        p.cross.addmm_(a.z.mT, b.z)
        p.a_weighted.add_(b.squares @ a.z)
        p.b_weighted.add_(a.squares @ b.z)
        p.norms.add_(a.squares @ b.squares)
