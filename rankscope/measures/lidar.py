"""LiDAR: the effective rank of the differences between objects, given several views of each."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import DataError
from rankscope.linalg.batch import each_matrix
from rankscope.linalg.rows import centred, sample_means
from rankscope.measures.rankme import EPSILON, flat

DELTA = 1e-4
"""δ, which the authors add to the within-object scatter to make it invertible; here it is a share of its mean variance, so
that LiDAR does not depend on the unit of the features."""


@each_matrix
def lidar(x: Tensor, sample: Tensor, *, delta: float = DELTA, subtract_noise: bool = False) -> Tensor:
    r"""LiDAR: the effective rank of the between-object scatter in units of the within-object scatter.

    .. math:: \exp\Bigl(-\sum_i p_i \ln p_i\Bigr), \quad p_i = \lambda_i / \lVert \lambda \rVert_1 + \epsilon, \quad
              \lambda = \operatorname{eig}\bigl(\Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2}\bigr)

    Σ_b is the covariance of the objects' means, Σ_w the mean scatter within an object plus δI tr(Σ_w)/d; ε is that of
    RankMe. It lies between 1 and d, and apart from δ it does not change under any invertible linear map. With q views,
    noise adds Σ_w/q to Σ_b, which raises the number in every uninformative direction; ``subtract_noise`` removes it. The
    paper uses q of 10 to 50 and more objects than dimensions. Objects with equal means give 0.

    Thilak et al., "LiDAR: sensing linear probing performance in joint embedding SSL architectures", ICLR 2024 (arXiv
    2312.04000), equations 1 to 4.

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` object of each row; its rows are its views.
        delta: δ, above 0, as a share of the mean variance within objects.
        subtract_noise: subtract Σ_w/q from Σ_b, and count negative eigenvalues as 0.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if there are fewer than two objects, every object has a single view, or the rounding of the
            scatter within objects exceeds δ.
    """
    _, place, counts = torch.unique(sample.to(x.device), return_inverse=True, return_counts=True)
    if len(counts) < 2 or int(counts.max()) < 2:
        raise DataError(
            f"LiDAR needs 2 objects and 2 views; {len(counts)} objects have up to {int(counts.max())} views: collect tokens"
        )
    z = centred(x)
    means = sample_means(z, sample)
    inside = z - means[place]
    noise = inside.mT @ inside / (len(z) - len(counts))
    between = torch.cov(means.mT).reshape(noise.shape)
    if subtract_noise:
        between = between - noise * (1 / counts).mean()
    if not between.any():
        return between.new_zeros(())
    ridge = delta * noise.diagonal().mean() * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    # With Σ_w = LLᵀ, L⁻¹ Σ_b L⁻ᵀ has the eigenvalues of Σ_w^{-1/2} Σ_b Σ_w^{-1/2} and needs no matrix root
    factor, failed = torch.linalg.cholesky_ex(noise + ridge)
    if failed:
        raise DataError(
            f"LiDAR divides by the scatter within objects, which float64 cannot tell from a singular one, with delta = {delta:g} "
            "of its mean too: their views are equal, or a few rows of massive length are all of it"
        )
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    values = torch.linalg.eigvalsh(torch.linalg.solve_triangular(factor, half.mT, upper=False)).clamp(min=0)
    total = values.sum()
    return torch.special.entr(values / total + EPSILON).sum().exp() if total > 0 else total


DEFINITION = Definition(
    name="lidar",
    centred=None,
    function=lidar,
    reads="rows",
    scale="log",
    formula="exp(-sum p ln p), p = lambda / sum lambda + 1e-7, lambda = eig(Sw^-1/2 Sb Sw^-1/2), Sw with 1e-4 tr(Sw)/d I, "
    "objects as samples",
    citation="Thilak et al., LiDAR, ICLR 2024 (arXiv 2312.04000), equations 1 to 4",
    low="1",
    high="d",
    least=flat(1),
    most=lambda size: flat(size.width),
    of_nothing=0.0,
    bias="q views add Sw / q to Sb, which raises it; needs more objects than dimensions",
    needs_tokens=True,
)
