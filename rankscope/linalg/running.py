"""Sums over the rows of one group of samples that grow in place, batch by batch, one product of matrices a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.linalg.clusters import ClusterMoments, of_samples, scalars_and_vectors, squared_norms
from rankscope.linalg.forms import add_products
from rankscope.linalg.moments import Moments
from rankscope.linalg.sums import lifted


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
        """The sums so far."""
        return self._rows if self._samples is None else self._samples

    @property
    def rows(self) -> Moments:
        """Those over rows."""
        return self._rows

    def add(self, x: Tensor, sample: Tensor) -> Tensor:
        """Add rows; all rows of a sample must come in one call.

        Args:
            x: ``(n, d)`` features of any floating dtype.
            sample: ``(n,)`` int64 sample of each row.

        Returns:
            ``(n, d)`` the rows about the shift, float64.
        """
        z = lifted(x, self._rows.shift.device) - self._rows.shift
        if self._samples is None:
            self._rows.take(z)
        else:
            product = torch.zeros_like(self._samples.outer)
            add_products(product, z)
            self._rows.take(z, product)
            self._add_samples(self._samples, z, sample, product)
        return z

    @staticmethod
    def _add_samples(sums: ClusterMoments, z: Tensor, sample: Tensor, product: Tensor) -> None:
        place, sizes, first, traces = of_samples(z, sample)
        small = scalars_and_vectors(z, place, sizes, first, traces, squared_norms(z, place).sum())
        fields = ("samples", "sizes_squared", "traces_squared", "norms_squared", "sized_traces", "sized_firsts",
                  "traced_firsts", "turned_firsts")  # fmt: skip
        for name, more in zip(fields, small, strict=True):
            getattr(sums, name).add_(more)
        add_products(sums.outer, first)
        # Σ n zzᵀ = L Σ zzᵀ + Σ (n - L) zzᵀ with L the commonest n: mostly the second product is of few rows, or of none
        length = sizes[place].mode().values
        rest = (sizes[place] != length).nonzero().squeeze(1)
        sums.sized_seconds.addcmul_(product, length)
        add_products(sums.sized_seconds, z[rest] * (sizes[place[rest], None] - length), z[rest])
