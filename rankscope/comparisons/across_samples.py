r"""Kernel alignment from pairs of rows of different samples only, for token rows, which are not independent.

Rows of one sample are alike in any two networks that read it. The U-statistic of independent rows counts them as
agreement: unrelated runs whose token rows share 0.6 of their variance with their sample score 0.09 instead of 0.

Let :math:`K_{ij}` be defined for rows of different samples only. Subtracting the additive part :math:`u_i + u_j` that
leaves each row with sum zero makes :math:`\tilde K`; with one row a sample this is U-centring (Székely & Rizzo, 2014,
definition 2). Where a run is unrelated to the other, the expectation of its kernel between different samples is one
constant, which centring removes, so that :math:`\langle \tilde K, \tilde L \rangle` has expectation 0 whatever rows of a
sample share. As an inner product it keeps alignment between -1 and 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rankscope.comparisons.requirements import require_rows
from rankscope.linalg.forms import dot, squared_norm
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.rows import samples_by_size
from rankscope.linalg.streamed import RowMatrix
from rankscope.linalg.sums import at_once, lifted

SAMPLES = 4
"""The fewest samples: with one row each, fewer leave nothing once the additive part is removed."""


def cross_sample_inner(inner: Tensor, rows: Tensor, sums_k: Tensor, sums_l: Tensor, sizes: Tensor) -> Tensor:
    r"""Inner product :math:`\langle\tilde K,\tilde L\rangle` of two kernels between rows of different samples.

    With :math:`r_i` the sum of row i of K and :math:`v_i + v_j` the additive part of L it is :math:`\sum_{ij} K_{ij}
    L_{ij} - 2\sum_i r_i v_i`, because :math:`\tilde L` is orthogonal to everything additive.

    Args:
        inner: ``(*,)`` Σ K_ij L_ij over rows i, j of different samples.
        rows: ``(*, S)`` for each sample the sum over its rows of the products of their row sums in K and in L.
        sums_k: ``(*, S)`` for each sample the sum of its row sums in K.
        sums_l: ``(*, S)`` the same in L.
        sizes: ``(*, S)`` number of rows of each sample; 0 for one that is left out, whose sums are not read.

    Returns:
        ``(*,)`` inner products, float64.
    """
    kept, n = sizes > 0, sizes.sum(-1, keepdim=True)
    partners = n - sizes
    # (n - n_c) v_i + Σ_{j outside c} v_j = r_i. Summed over a sample: (n - 2 n_c) V_c = R_c - n_c V with V = Σ V_c
    apart = partners - sizes
    half = kept & (apart == 0)  # one sample has half of all rows, and its equation says V = R_c / n_c alone
    safe = apart.where(apart != 0, 1)
    ratio = (sizes / safe).where(kept, 0).sum(-1, keepdim=True)
    total = (sums_l / safe).where(kept, 0).sum(-1, keepdim=True) / (1 + ratio)
    of_half = (sums_l / sizes.clamp(min=1)).where(half, 0).sum(-1, keepdim=True)
    total = of_half.where(half.any(-1, keepdim=True), total)
    each = ((sums_l - sizes * total) / safe).where(kept & ~half, 0)
    each = (total - each.sum(-1, keepdim=True)).where(half, each)
    products = ((rows + sums_k * (each - total)) / partners.where(kept, 1)).where(kept, 0)
    return inner - 2 * products.sum(-1)


def cross_sample_cka(pair: PairMoments, x: RowMatrix, y: RowMatrix, sample: Tensor, kept: Tensor) -> Tensor:
    r"""Debiased linear CKA from pairs of rows of different samples.

    It is 0 in expectation (of the criterion) for unrelated runs, whatever rows of one sample share, and 1 for features
    that agree up to rotation, scale and translation; it lies between -1 and 1. With one row a sample it equals
    :func:`rankscope.comparisons.cka.cka`. NaN if one side does not vary between samples.

    Kornblith et al., ICML 2019, equation 4, with the centring of this module.

    Args:
        pair: moments of all kept rows, leading dimensions ``*``.
        x: ``(n, d_a)`` features of the reference.
        y: ``(n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row.
        kept: ``(*, S)`` bool, or weights: the samples, in ascending order, whose rows are in ``pair``. By a weight the
            value can be differentiated, with the sums of ``pair`` weighted likewise.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 4 samples.
    """
    require_rows((kept > 0).sum(-1), SAMPLES, "CKA across samples (counted in samples)")
    a, b = _Side.of(pair.a, x), _Side.of(pair.b, y)
    found = _block_sums(a, b, sample, kept.reshape(-1, kept.shape[-1]))
    sizes = found.pop("sizes").reshape(kept.shape) * kept
    sums = {name: value.reshape(kept.shape) for name, value in found.items()}
    totals = {"ab": pair.cross_scatter, "aa": pair.a.scatter, "bb": pair.b.scatter}
    # Every row of a sample has its weight: two in a product of its rows, three in that of two sums of a row's products
    twice = kept * kept
    h = {
        sides: cross_sample_inner(
            squared_norm(totals[sides]) - (sums[f"inner {sides}"] * twice).sum(-1),
            sums[f"rows {sides}"] * kept * twice,
            -sums[f"total {sides[0]}"] * twice,
            -sums[f"total {sides[1]}"] * twice,
            sizes,
        )
        for sides in totals
    }
    own_a, own_b = (
        own.where((side.variation > 0) & (own > 0), torch.nan) for own, side in ((h["aa"], pair.a), (h["bb"], pair.b))
    )
    return h["ab"] / (own_a.sqrt() * own_b.sqrt())


class _Side(NamedTuple):
    """The rows of one run, lifted to float64 a block at a time."""

    x: RowMatrix
    """``(n, d)`` features as they are stored."""
    shift: Tensor
    """``(d,)`` what is subtracted from them."""
    means: Tensor
    """``(B, d)`` the mean of each entry about the shift."""

    @classmethod
    def of(cls, moments: Moments, x: RowMatrix) -> _Side:
        return cls(x, moments.shift, moments.offset.reshape(-1, moments.width))

    def blocks(self, rows: Tensor) -> list[Tensor]:
        """``(m, L, L)`` Gram blocks about the mean of each entry, of ``(m, L)`` rows."""
        return _of_entries(lifted(self.x[rows.to(self.x.device)], self.shift.device) - self.shift, self.means)


def _block_sums(a: _Side, b: _Side, sample: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """Sums over the Gram blocks of the samples, about the mean of each entry: ``(B, S)`` each.

    About its mean a run's rows sum to zero, so that the sum of row i over other samples is minus that over its own: all
    that the criterion needs besides the scatter lies in the blocks of the samples.
    """
    found: dict[str, list[Tensor]] = {}
    order, sizes = [], a.means.new_zeros(kept.shape[-1])
    for members, index in samples_by_size(sample):
        length = index.shape[1]
        sizes[members.to(sizes.device)] = length
        numbers = length * max(length, a.means.shape[1], b.means.shape[1])
        step = max(1, at_once(sizes.device) // numbers)
        for some, rows in zip(members.split(step), index.split(step), strict=True):
            order.append(some)
            # For a gradient the rows are read once more, since its graph would keep every block of them in float64
            sums = checkpoint(_of_samples, a, b, rows, use_reentrant=False, preserve_rng_state=False)
            for name, value in sums.items():
                found.setdefault(name, []).append(value)
    back = torch.argsort(torch.cat(order)).to(sizes.device)  # from the order of their sizes
    sums = {name: torch.cat(values, -1)[..., back] for name, values in found.items()}
    return sums | {"sizes": sizes.expand(kept.shape)}


def _of_samples(a: _Side, b: _Side, rows: Tensor) -> dict[str, Tensor]:
    """``(B, m)`` sums of samples of equal size, whose rows are ``(m, L)``."""
    entries = [_of_blocks(k, m) for k, m in zip(a.blocks(rows), b.blocks(rows), strict=True)]
    return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}


def _of_blocks(k: Tensor, m: Tensor) -> dict[str, Tensor]:
    """``(m,)`` sums over the ``(m, L, L)`` Gram blocks of samples in both runs."""
    sums = {f"total {side}": block.sum((-2, -1)) for side, block in (("a", k), ("b", m))}
    for sides, (left, right) in {"ab": (k, m), "aa": (k, k), "bb": (m, m)}.items():
        sums[f"inner {sides}"] = (left * right).sum((-2, -1))
        sums[f"rows {sides}"] = dot(left.sum(-1), right.sum(-1))
    return sums


def _of_entries(z: Tensor, means: Tensor) -> list[Tensor]:
    """``(m, L, L)`` Gram blocks of ``(m, L, d)`` rows about each of ``(B, d)`` means, from one product of the rows."""
    gram, along = z @ z.mT, z @ means.mT
    # (z_i - c)·(z_j - c) = z_i·z_j - z_i·c - z_j·c + ‖c‖²
    return [gram - along[..., i, None] - along[..., None, :, i] + means[i].square().sum() for i in range(len(means))]
