r"""Sums over rows about another shift, without the rows, and symmetric matrices as one triangle.

With :math:`z' = z - \delta` every sum of powers of :math:`z'` is a polynomial in :math:`\delta` whose coefficients are the
sums of powers of :math:`z`, up to the same degree. So sums that were taken about different shifts, each near the rows that it
was taken of, can be brought to one and added. Little cancels as long as :math:`\delta` is small beside the spread of the rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.forms import dot, quadratic, trace
from rankscope.linalg.moments import Moments, PairMoments, squared_traces_about


def moments_about(sums: Moments, shift: Tensor) -> Moments:
    """The sums over the same rows about another ``(d,)`` shift."""
    move = shift - sums.shift
    norm, about_shift = dot(move, move), trace(sums.second)
    # ‖z'‖² = t - 2 δ·z + ‖δ‖² with t = ‖z‖², times z' = z - δ
    third = sums.third - 2 * sums.second @ move + norm * sums.first
    third = third - (about_shift - 2 * dot(sums.first, move) + norm * sums.rows)[..., None] * move
    fourth = squared_traces_about(
        move,
        traces_squared=sums.fourth,
        sized_traces=about_shift,
        sizes_squared=sums.rows,
        traced_firsts=sums.third,
        sized_firsts=sums.first,
        outer=sums.second,
    )
    first = sums.first - sums.rows[..., None] * move
    second = _product_about(sums.second, sums.first, sums.first, sums.rows, move, move)
    return Moments(sums.rows, shift, first, second, third, fourth)


def pair_about(pair: PairMoments, a: Moments, b: Moments) -> PairMoments:
    """The sums over the same pairs of rows about other shifts.

    Args:
        pair: the sums over pairs; of its sides the shift, ``rows`` and ``first`` are read.
        a: the sums over the rows of the one side about the shift that is wanted.
        b: those of the other.
    """
    move_a, move_b = a.shift - pair.a.shift, b.shift - pair.b.shift
    first_a, first_b, n = pair.a.first, pair.b.first, pair.a.rows
    norm_a, norm_b = dot(move_a, move_a), dot(move_b, move_b)
    # tr Σ z'z'ᵀ = t - 2 δ·Σz + n ‖δ‖², and back
    about_a = trace(a.second) + 2 * dot(first_a, move_a) - n * norm_a
    about_b = trace(b.second) + 2 * dot(first_b, move_b) - n * norm_b
    # Σ ‖z_b'‖² z_a' with ‖z_b'‖² = t_b - 2 δ_b·z_b + ‖δ_b‖², and the same with the sides exchanged
    a_weighted = pair.a_weighted - 2 * pair.cross @ move_b + norm_b * first_a
    a_weighted = a_weighted - (about_b - 2 * dot(first_b, move_b) + norm_b * n)[..., None] * move_a
    b_weighted = pair.b_weighted - 2 * pair.cross.mT @ move_a + norm_a * first_b
    b_weighted = b_weighted - (about_a - 2 * dot(first_a, move_a) + norm_a * n)[..., None] * move_b
    # (t_a - 2 δ_a·z_a + ‖δ_a‖²)(t_b - 2 δ_b·z_b + ‖δ_b‖²), summed
    even = norm_b * about_a + norm_a * about_b + n * norm_a * norm_b + 4 * dot(pair.cross @ move_b, move_a)
    odd = dot(move_a, pair.a_weighted) + dot(move_b, pair.b_weighted)
    odd = odd + norm_b * dot(move_a, first_a) + norm_a * dot(move_b, first_b)
    cross = _product_about(pair.cross, first_a, first_b, n, move_a, move_b)
    return PairMoments(a, b, cross, a_weighted, b_weighted, pair.norms + even - 2 * odd)


def clusters_about(sums: ClusterMoments, shift: Tensor) -> ClusterMoments:
    """The sums over the same samples about another ``(d,)`` shift."""
    move = shift - sums.moments.shift
    norm = dot(move, move)
    sizes, firsts, traces, outer = sums.sizes_squared, sums.sized_firsts, sums.sized_traces, sums.outer
    along = dot(firsts, move)
    # A sample has n rows, s' = s - n δ, t' = t - 2 δ·s + n ‖δ‖² and M' = M - s δᵀ - δ sᵀ + n δδᵀ
    level = (traces - 2 * along + norm * sizes)[..., None]
    traced = sums.traced_firsts - 2 * outer @ move + norm * firsts - level * move
    turned = sums.turned_firsts - (sums.sized_seconds + outer) @ move + norm * firsts
    turned = turned - (trace(outer) - 2 * along + norm * sizes)[..., None] * move
    # ‖M'‖² as in ClusterMoments.central_norms_squared, about δ in the place of the mean
    even = 2 * norm * trace(outer) + 2 * quadratic(move, outer) + 2 * quadratic(move, sums.sized_seconds)
    odd = dot(move, sums.turned_firsts + norm * firsts)
    return ClusterMoments(
        moments_about(sums.moments, shift),
        sums.samples,
        sizes,
        squared_traces_about(
            move,
            traces_squared=sums.traces_squared,
            sized_traces=traces,
            sizes_squared=sizes,
            traced_firsts=sums.traced_firsts,
            sized_firsts=firsts,
            outer=outer,
        ),
        sums.norms_squared + even + norm.square() * sizes - 4 * odd,
        traces - 2 * along + norm * sizes,
        firsts - sizes[..., None] * move,
        traced,
        turned,
        _product_about(outer, firsts, firsts, sizes, move, move),
        _product_about(sums.sized_seconds, firsts, firsts, sizes, move, move),
    )


def _product_about(
    product: Tensor, left: Tensor, right: Tensor, count: Tensor, move_l: Tensor, move_r: Tensor
) -> Tensor:
    """Σ w (x - δ)(y - ε)ᵀ = Σ w x yᵀ - (Σ w x) εᵀ - δ (Σ w y)ᵀ + (Σ w) δ εᵀ."""
    outer = left[..., :, None] * move_r + move_l[:, None] * (right - count[..., None] * move_r)[..., None, :]
    return product - outer


def one_a_sample(sums: Moments) -> ClusterMoments:
    """The sums over samples of one row each, which are those over the rows."""
    m, n = sums, sums.rows
    by_trace = trace(m.second)
    return ClusterMoments(m, n, n, m.fourth, m.fourth, by_trace, m.first, m.third, m.third, m.second, m.second)


def triangle(matrix: Tensor) -> Tensor:
    """The upper triangle of a ``(d, d)`` symmetric matrix, row by row: ``(d (d + 1) / 2,)``, on the CPU."""
    rows = matrix.cpu().numpy()  # whose slices cost a tenth of those of tensors
    return torch.from_numpy(np.concatenate([row[i:] for i, row in enumerate(rows)]))


def symmetric(packed: Tensor, width: int) -> Tensor:
    """The ``(d, d)`` symmetric matrix of a :func:`triangle`."""
    matrix, numbers, start = np.zeros((width, width)), packed.numpy(), 0
    for i, row in enumerate(matrix):
        row[i:] = numbers[start : start + width - i]
        start += width - i
    upper = torch.from_numpy(matrix)
    both = upper.mT.contiguous().add_(upper)
    both.diagonal().div_(2)
    return both
