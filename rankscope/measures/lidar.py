"""LiDAR: the effective rank of what tells objects apart, given several views of each."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import DataError
from rankscope.linalg.batch import each_matrix

DELTA = 1e-4
"""δ, what the authors add to the within-object scatter so that it can be inverted."""
EPSILON = 1e-7
"""ε, what they add to every share inside the logarithm, as RankMe does."""


@each_matrix
def lidar(x: Tensor, sample: Tensor, *, delta: float = DELTA, subtract_noise: bool = False) -> Tensor:
    r"""LiDAR: the effective rank of the between-object scatter in units of the within-object scatter.

    .. math:: \exp\Bigl(-\sum_i p_i \ln p_i\Bigr), \quad p_i = \lambda_i / \lVert \lambda \rVert_1 + \epsilon, \quad
              \lambda = \operatorname{eig}\bigl(\Sigma_w^{-1/2} \Sigma_b \Sigma_w^{-1/2}\bigr)

    Σ_b is the covariance of the objects' means, Σ_w the mean scatter within an object plus δI. Between 1 and d; up to δ it
    does not change under any invertible linear map. With q views the noise adds Σ_w/q to Σ_b, which lifts the number in
    every direction that tells nothing; ``subtract_noise`` takes it away. The paper has q of 10 to 50 and more objects
    than dimensions. Objects with equal means give 0.

    Thilak et al., "LiDAR: sensing linear probing performance in joint embedding SSL architectures", ICLR 2024 (arXiv
    2312.04000), equations 1 to 4.

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` object of each row; its rows are its views.
        delta: δ, above 0 (its unit is that of the features squared).
        subtract_noise: take Σ_w/q from Σ_b, and count negative eigenvalues as 0.

    Returns:
        ``(*,)`` values, float64.

    Raises:
        DataError: if there are fewer than two objects, or every object has a single view.
    """
    _, place, counts = torch.unique(sample.to(x.device), return_inverse=True, return_counts=True)
    if len(counts) < 2 or int(counts.max()) < 2:
        raise DataError(
            f"LiDAR needs 2 objects and 2 views; {len(counts)} objects have up to {int(counts.max())} views"
        )
    z = x.double() - x.double().mean(0)
    means = z.new_zeros(len(counts), z.shape[1]).index_add_(0, place, z) / counts[:, None]
    inside = z - means[place]
    noise = inside.mT @ inside / (len(z) - len(counts))
    between = torch.cov(means.mT).reshape(noise.shape)
    if subtract_noise:
        between = between - noise * (1 / counts).mean()
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky(noise + delta * eye)
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    values = torch.linalg.eigvalsh(torch.linalg.solve_triangular(factor, half.mT, upper=False)).clamp(min=0)
    total = values.sum()
    return torch.special.entr(values / total + EPSILON).sum().exp() if total > 0 else total


DEFINITION = Definition(
    name="lidar",
    function=lidar,
    reads="rows",
    scale="log",
    formula="exp(-sum p ln p), p = lambda / sum lambda + 1e-7, lambda = eig(Sw^-1/2 Sb Sw^-1/2), Sw with 1e-4 I",
    citation="Thilak et al., LiDAR, ICLR 2024 (arXiv 2312.04000), equations 1 to 4",
    low="1",
    high="d",
    bias="q views add Sw / q to Sb, which lifts it; needs more objects than dimensions",
    needs_tokens=True,
)
