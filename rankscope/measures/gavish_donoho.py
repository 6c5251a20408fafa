"""The optimal hard threshold for singular values of Gavish and Donoho."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankscope.definition import Definition, rank_of
from rankscope.linalg.moments import Moments
from rankscope.measures.marchenko_pastur import aspect, median, of_each


def known_noise_coefficient(beta: float) -> float:
    r"""λ*(β), the threshold in units of √N s for noise of known standard deviation s: 4/√3 for a square matrix.

    .. math:: \sqrt{2(\beta + 1) + \frac{8 \beta}{\beta + 1 + \sqrt{\beta^2 + 14 \beta + 1}}}
    """
    return math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + math.sqrt(beta**2 + 14 * beta + 1)))


def unknown_noise_coefficient(beta: float) -> float:
    """ω(β) = λ*(β)/√μ_β, the threshold in units of the median singular value: 2.858362 for a square matrix."""
    return known_noise_coefficient(beta) / math.sqrt(median(beta))


def optimal_threshold(s: Tensor, rows: int, columns: int, *, noise: float | None = None) -> Tensor:
    """Singular value below which dropping a direction lowers the mean squared error.

    Args:
        s: ``(*, r)`` singular values, all r of them.
        rows: n.
        columns: d.
        noise: the standard deviation of the noise; if None, it is estimated from the median singular value.

    Returns:
        ``(*,)`` thresholds, in the unit of s, float64.

    Raises:
        UsageError: if there is no row or no column.
    """
    beta = aspect(rows, columns)
    if noise is not None:  # equation 10; otherwise equation 11
        fixed = known_noise_coefficient(beta) * math.sqrt(max(rows, columns)) * noise
        return torch.full(s.shape[:-1], fixed, dtype=torch.float64, device=s.device)
    return unknown_noise_coefficient(beta) * s.double().quantile(0.5, dim=-1)


def gavish_donoho_rank(s: Tensor, rows: int, columns: int, *, noise: float | None = None) -> Tensor:
    r"""Number of singular values above the optimal hard threshold.

    :math:`\#\{\sigma_i > \lambda^*(\beta) \sqrt N s\}` for noise of known standard deviation s, :math:`\#\{\sigma_i >
    \omega(\beta)\, \mathrm{median}(\sigma)\}` otherwise. The threshold is optimal for denoising, which demands more
    than detection, so it counts fewer values than the edge of Marchenko and Pastur. It assumes white noise. The count
    lies between 0 and r, and between 0 and r/2 if the noise is not known.

    Gavish & Donoho, "The optimal hard threshold for singular values is 4/√3", IEEE Trans. Inf. Theory 60 (2014), arXiv
    1305.5870, equations 10 and 11.

    Args:
        s: ``(*, r)`` singular values, all r of them.
        rows: n.
        columns: d.
        noise: the standard deviation of the noise, if known.

    Returns:
        ``(*,)`` counts, whole numbers as float64.

    Raises:
        UsageError: if there is no row or no column.
    """
    return (s.double() > optimal_threshold(s, rows, columns, noise=noise)[..., None]).sum(-1).double()


def gavish_donoho(moments: Moments, *, width: int | None = None) -> Tensor:
    """:func:`gavish_donoho_rank` of the centred features, noise unknown: ``(*,)`` float64. Centring costs one row of n."""
    return of_each(moments, gavish_donoho_rank, width)


DEFINITION = Definition(
    name="gavish-donoho",
    function=gavish_donoho,
    reads="moments",
    takes=("width",),
    formula="#{sigma > omega(beta) median(sigma)}",
    citation="Gavish & Donoho 2014 (arXiv 1305.5870), equations 10 and 11",
    high="r / 2",
    most=rank_of,
    bias="assumes white noise; stricter than detection",
)
