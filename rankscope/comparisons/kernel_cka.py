"""Kernel alignment with a Gaussian kernel: agreement of neighbourhoods rather than of leading components."""

from __future__ import annotations

import torch
from torch import Tensor

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

    It is about 0 for independent features and 1 for features that agree up to rotation, scale and translation. A small
    bandwidth restricts it to near neighbours. NaN if the distances of one side do not vary.

    Kornblith et al., "Similarity of neural network representations revisited", ICML 2019, section 3.

    Args:
        x: ``(*, n, d_a)`` features of the reference.
        y: ``(*, n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row.
        bandwidth: width of the kernel as a multiple of the median distance between rows.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: if the numbers of rows differ, or there are fewer than 4.
        UsageError: if the bandwidth is not positive.
    """
    require_aligned(x, y, sample, "kernel CKA")
    if not bandwidth > 0:
        raise UsageError(f"the bandwidth is a positive multiple of the median distance; got {bandwidth}")
    k, m = (gaussian_kernel(side, bandwidth=bandwidth) for side in (x, y))
    return alignment(kernel_hsic(k, m), kernel_hsic(k, k), kernel_hsic(m, m))


COMPARISON = Comparison(
    name="kernel-cka",
    function=kernel_cka,
    reads="rows",
    formula="HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L)), Gaussian kernels as wide as the median distance",
    citation="Kornblith et al., ICML 2019, section 3; estimator of Song et al., JMLR 13, 2012, eq. 4",
    low="about 0 (may be slightly negative)",
    high="1",
    bias="none in each criterion for a fixed kernel; the median varies with the rows by O(1/sqrt(n))",
    noise="0, with a standard deviation of order 1/n",
)
