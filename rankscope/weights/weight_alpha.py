"""The power-law tail of a weight matrix's eigenvalues, by maximum likelihood."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition
from rankscope.errors import DataError

LEAST = 50
"""Eigenvalues below which a tail is not fitted: with fewer, the standard error swallows any difference."""


class Tail(NamedTuple):
    """A power-law tail ρ(λ) ∝ λ^{-α} from x_min on."""

    alpha: float
    """α, above 1."""
    x_min: float
    """Where the tail starts: the value with the least distance."""
    members: int
    """m, the eigenvalues in the tail, x_min among them."""
    distance: float
    """The greatest distance between the tail's cumulative distribution and the fitted one."""
    error: float
    """The standard error (α - 1)/√m, at x_min given."""


def weight_alpha(s: Tensor) -> Tail:
    r"""Exponent of the power-law tail of the eigenvalues :math:`\lambda = s^2` of a weight matrix.

    .. math:: \hat\alpha = 1 + m \Bigl/ \sum_{\lambda_i \ge x_{\min}} \ln(\lambda_i / x_{\min})

    with x_min the eigenvalue (the largest excepted) at which the Kolmogorov–Smirnov distance to the fit is least. A
    spectrum λᵢ ∝ i^{-a} has α = 1 + 1/a. It does not change when the matrix is scaled or turned.

    Martin & Mahoney, JMLR 22 (2021), arXiv 1810.01075; estimator of Clauset, Shalizi & Newman, SIAM Review 51 (2009).

    Args:
        s: ``(r,)`` singular values of the weights; zeros are left out.

    Raises:
        DataError: if fewer than 50 values are above zero, as for the update of a small LoRA.
    """
    values = (s.double()[s > 0].square().sort().values).cpu()
    n = len(values)
    if n < LEAST:
        raise DataError(f"a power-law tail needs at least {LEAST} eigenvalues above zero; the matrix has {n}")
    logs = values.log()
    beyond = logs.flip(0).cumsum(0).flip(0)
    best = Tail(math.nan, math.nan, 0, math.inf, math.nan)
    for i in range(n - 1):
        m = n - i
        excess = float(beyond[i] - m * logs[i])
        if excess <= 0:
            continue
        alpha = 1 + m / excess
        fitted = -torch.expm1((1 - alpha) * (logs[i:] - logs[i]))
        distance = float((fitted - torch.arange(m, dtype=torch.float64) / m).abs().max())
        if distance < best.distance:
            best = Tail(alpha, float(values[i]), m, distance, (alpha - 1) / math.sqrt(m))
    if not best.members:
        raise DataError(f"all {n} eigenvalues are equal; they have no tail")
    return best


DEFINITION = WeightDefinition(
    name="weight-alpha",
    formula="1 + m / sum_i ln(lambda_i / x_min) over the m eigenvalues lambda = sigma^2 from x_min on, x_min of least "
    "Kolmogorov-Smirnov distance",
    citation="Martin & Mahoney, JMLR 22 (2021), arXiv 1810.01075; Clauset, Shalizi & Newman, SIAM Review 51 (2009)",
    low="1",
    high="infinity",
    bias="of standard error (alpha - 1) / sqrt m, told beside it; refused below 50 eigenvalues",
    noise="no power law: an x_min near the edge of the noise and a large alpha",
    unit="exponent",
)
