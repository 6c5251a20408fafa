"""The power-law tail of a weight matrix's eigenvalues, by maximum likelihood."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition
from rankscope.errors import DataError

LEAST = 50
"""Minimum number of eigenvalues for a fit; with fewer, the standard error exceeds any difference of interest."""


class ParetoTail(NamedTuple):
    """A power-law tail ρ(λ) ∝ λ^{-α} for λ ≥ x_min."""

    alpha: float
    """α, above 1."""
    x_min: float
    """Where the tail starts: the eigenvalue with the smallest distance."""
    members: int
    """m, the number of eigenvalues in the tail, x_min included."""
    distance: float
    """The Kolmogorov–Smirnov distance between the tail and the fit, which x_min minimises."""
    error: float
    """The standard error (α - 1)/√m, given x_min."""


def weight_alpha(s: Tensor) -> ParetoTail:
    r"""Exponent of the power-law tail of the eigenvalues :math:`\lambda = s^2` of a weight matrix.

    .. math:: \hat\alpha = 1 + m \Bigl/ \sum_{\lambda_i \ge x_{\min}} \ln(\lambda_i / x_{\min})

    where x_min is the eigenvalue (the largest excepted) that minimises the Kolmogorov–Smirnov distance to the fit. A
    spectrum λᵢ ∝ i^{-a} has α = 1 + 1/a. α is above 1 and does not change when the matrix is scaled or rotated.

    Martin & Mahoney, JMLR 22 (2021), arXiv 1810.01075; estimator of Clauset, Shalizi & Newman, SIAM Review 51 (2009).

    Args:
        s: ``(r,)`` singular values of the weights; zeros are left out.

    Returns:
        The exponent, with the tail it was fitted to and its standard error.

    Raises:
        DataError: if fewer than 50 values are above zero, as for the update of a small LoRA, or all are equal.
    """
    values = s.double()[s > 0].square().sort().values.cpu()
    n = len(values)
    if n < LEAST:
        raise DataError(f"a power-law tail needs at least {LEAST} eigenvalues above zero; the matrix has {n}")
    logs = values.log()
    beyond = logs.flip(0).cumsum(0).flip(0)
    best: ParetoTail | None = None
    for i in range(n - 1):
        m = n - i
        # Σ ln(λ_j / x_min) over the tail from the i-th eigenvalue on, which is x_min
        excess = float(beyond[i] - m * logs[i])
        if excess <= 0:
            continue
        alpha = 1 + m / excess
        # Fitted distribution function, 1 - (λ / x_min)^{1 - α}, against the empirical one, 0, 1/m, …
        fitted = -torch.expm1((1 - alpha) * (logs[i:] - logs[i]))
        distance = float((fitted - torch.arange(m, dtype=torch.float64) / m).abs().max())
        if best is None or distance < best.distance:
            best = ParetoTail(alpha, float(values[i]), m, distance, (alpha - 1) / math.sqrt(m))
    if best is None:
        raise DataError(f"all {n} eigenvalues are equal, so they have no tail")
    return best


DEFINITION = WeightDefinition(
    name="weight-alpha",
    formula="1 + m / sum_i ln(lambda_i / x_min) over the m eigenvalues lambda = sigma^2 from x_min on, x_min of least "
    "Kolmogorov-Smirnov distance",
    citation="Martin & Mahoney, JMLR 22 (2021), arXiv 1810.01075; Clauset, Shalizi & Newman, SIAM Review 51 (2009)",
    low="1",
    high="infinity",
    bias="its standard error (alpha - 1) / sqrt m is reported with it; refused below 50 eigenvalues",
    noise="not a power law: x_min near the edge of the noise, and a large alpha",
    unit="exponent",
)
