"""Kernel alignment with a Gaussian kernel: agreement of neighbourhoods rather than of leading components."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_aligned, require_rows
from rankscope.definition import Comparison
from rankscope.errors import UsageError


def gaussian_kernel(x: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    r"""Gaussian kernel matrix :math:`\exp(-\|x_i-x_j\|^2/(2\sigma^2))`, :math:`\sigma` in medians of the distance.

    Args:
        x: ``(*, n, d)`` features.
        bandwidth: :math:`\sigma` as a multiple of the median distance between two rows.

    Returns:
        ``(*, n, n)`` float64 kernel; all ones where more than half of the pairs of rows coincide.
    """
    x = x.double()
    x = x - x.mean(-2, keepdim=True)
    norms = x.square().sum(-1)
    squared = (norms[..., :, None] + norms[..., None, :] - 2 * x @ x.mT).clamp(min=0)
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    median = squared[..., i, j].median(-1).values[..., None, None]
    return torch.where(median > 0, (-squared / (2 * bandwidth**2 * median)).exp(), 1)


def kernel_hsic(k: Tensor, m: Tensor) -> Tensor:
    r"""Unbiased Hilbert–Schmidt independence criterion of two kernel matrices.

    .. math:: \frac{1}{n(n-3)}\Bigl[\operatorname{tr}\tilde K\tilde L
        + \frac{1^\top\tilde K 1\; 1^\top\tilde L 1}{(n-1)(n-2)} - \frac{2}{n-2} 1^\top\tilde K\tilde L 1\Bigr]

    where the tilde sets a diagonal to zero.

    Song et al., JMLR 13, 2012, equation 4.

    Args:
        k: ``(*, n, n)`` symmetric kernel of the reference.
        m: ``(*, n, n)`` symmetric kernel of the tuned run.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    n = k.shape[-1]
    require_rows(torch.tensor(n), 4, "kernel CKA")
    k, m = (x - torch.diag_embed(x.diagonal(dim1=-2, dim2=-1)) for x in (k.double(), m.double()))
    sums_k, sums_m = k.sum(-1), m.sum(-1)
    totals = sums_k.sum(-1) * sums_m.sum(-1) / ((n - 1) * (n - 2))
    return ((k * m).sum((-2, -1)) + totals - 2 / (n - 2) * (sums_k * sums_m).sum(-1)) / (n * (n - 3))


def kernel_cka(x: Tensor, y: Tensor, sample: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    """Debiased CKA with Gaussian kernels.

    About 0 for independent features, 1 for features that agree up to rotation, scale and translation; with a small
    bandwidth it sees near neighbours only. NaN where the distances of one side do not vary.

    Kornblith et al., "Similarity of neural network representations revisited", ICML 2019, section 3.

    Args:
        x: ``(*, n, d_a)`` features of the reference.
        y: ``(*, n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row.
        bandwidth: width of the kernel as a multiple of the median distance of two rows.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: if the numbers of rows differ, or there are fewer than 4.
        UsageError: if the bandwidth is not positive.
    """
    require_aligned(x, y, sample, "kernel CKA")
    require_rows(torch.tensor(len(sample)), 4, "kernel CKA")
    if not bandwidth > 0:
        raise UsageError(f"the bandwidth is a positive multiple of the median distance; got {bandwidth}")
    k, m = (gaussian_kernel(side, bandwidth=bandwidth) for side in (x, y))
    own = kernel_hsic(k, k), kernel_hsic(m, m)
    norm = own[0].where(own[0] > 0, torch.nan).sqrt() * own[1].where(own[1] > 0, torch.nan).sqrt()
    return kernel_hsic(k, m) / norm


COMPARISON = Comparison(
    name="kernel-cka",
    function=kernel_cka,
    reads="rows",
    formula="HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L)), Gaussian kernels as wide as the median distance",
    citation="Kornblith et al., ICML 2019, section 3; estimator of Song et al., JMLR 13, 2012, eq. 4",
    low="about 0 (may be slightly negative)",
    high="1",
    bias="none in each criterion for a fixed kernel; the median moves with the rows by O(1/sqrt(n))",
    noise="0, with a standard deviation of order 1/n",
)
