"""Kernel alignment with a Gaussian kernel: agreement of neighbourhoods rather than of leading components."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rankscope.comparisons.across_samples import SAMPLES, cross_sample_inner
from rankscope.comparisons.cka import alignment, unbiased_hsic
from rankscope.comparisons.requirements import require_aligned, require_rows
from rankscope.definition import Comparison
from rankscope.errors import UsageError
from rankscope.linalg.rows import each_pair, squared_distances


def gaussian_kernel(x: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    r"""Gaussian kernel matrix :math:`\exp(-\|x_i-x_j\|^2/(2\sigma^2))`, :math:`\sigma` relative to the median distance.

    Args:
        x: ``(*, n, d)`` features.
        bandwidth: :math:`\sigma` as a multiple of the median distance between rows.

    Returns:
        ``(*, n, n)`` float64 kernel; all ones if more than half of the pairs of rows coincide.
    """
    squared = squared_distances(x)
    median = each_pair(squared).median(-1).values[..., None, None]
    return torch.where(median > 0, (-squared / (2 * bandwidth**2 * median)).exp(), 1)


def kernel_hsic(k: Tensor, m: Tensor) -> Tensor:
    """Unbiased Hilbert–Schmidt independence criterion of two kernel matrices.

    From sums over both without their diagonals; see :func:`rankscope.comparisons.cka.unbiased_hsic`.

    Args:
        k: ``(*, n, n)`` symmetric kernel of the reference.
        m: ``(*, n, n)`` symmetric kernel of the tuned run.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    n = k.shape[-1]
    require_rows(n, 4, "kernel CKA")
    k, m = (x - torch.diag_embed(x.diagonal(dim1=-2, dim2=-1)) for x in (k.double(), m.double()))
    sums_k, sums_m = k.sum(-1), m.sum(-1)
    return unbiased_hsic(n, (k * m).sum((-2, -1)), sums_k.sum(-1) * sums_m.sum(-1), (sums_k * sums_m).sum(-1))


def kernel_cka(x: Tensor, y: Tensor, sample: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    """Debiased CKA with Gaussian kernels.

    Pairs of rows of one sample are left out. It is about 0 for independent features and 1 for features that agree up to
    rotation, scale and translation. A small bandwidth restricts it to near neighbours. NaN if the distances of one side do
    not vary.

    Kornblith et al., "Similarity of neural network representations revisited", ICML 2019, section 3.

    Args:
        x: ``(*, n, d_a)`` features of the reference.
        y: ``(*, n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row.
        bandwidth: width of the kernel as a multiple of the median distance between rows.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: if the numbers of rows differ, or there are fewer than 4, or of several a sample fewer
            than 4 samples.
        UsageError: if the bandwidth is not positive.
    """
    require_aligned(x, y, sample, "kernel CKA")
    if not bandwidth > 0:
        raise UsageError(f"the bandwidth is a positive multiple of the median distance; got {bandwidth}")
    k, m = (gaussian_kernel(side, bandwidth=bandwidth) for side in (x, y))
    one_each = len(torch.unique(sample)) == len(sample)
    hsic = kernel_hsic if one_each else partial(_across, place=torch.unique(sample, return_inverse=True)[1])
    return alignment(hsic(k, m), hsic(k, k), hsic(m, m))


def _across(k: Tensor, m: Tensor, *, place: Tensor) -> Tensor:
    """``(*,)`` the criterion of two ``(*, n, n)`` kernels, up to a factor, from pairs of rows of different samples."""
    place = place.to(k.device)
    sizes = torch.bincount(place).to(k)
    require_rows(len(sizes), SAMPLES, "kernel CKA (counted in samples)")
    k, m = (x.where(place[:, None] != place, 0) for x in (k, m))
    sums_k, sums_m = k.sum(-1), m.sum(-1)
    rows, total_k, total_m = (
        x.new_zeros((*x.shape[:-1], len(sizes))).index_add_(-1, place, x) for x in (sums_k * sums_m, sums_k, sums_m)
    )
    return cross_sample_inner((k * m).sum((-2, -1)), rows, total_k, total_m, sizes)


COMPARISON = Comparison(
    name="kernel-cka",
    centred=None,
    function=kernel_cka,
    reads="rows",
    formula="HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L)), Gaussian kernels as wide as the median distance, "
    "pairs of rows of one sample left out",
    citation="Kornblith et al., ICML 2019, section 3; estimator of Song et al., JMLR 13, 2012, eq. 4",
    low="-1 (about 0 for unrelated features)",
    high="1",
    least=-1.0,
    most=1.0,
    bias="none in each criterion for a fixed kernel; the median varies with the rows by O(1/sqrt(n))",
    noise="0, with a standard deviation of order 1/n",
)
