r"""Power laws of the spectrum: the exponent α of λᵢ ∝ i^{-α}, with the window of ranks it was fitted on.

The window is part of the result: one matrix gives 1.05 on ranks 4 to 100 and 1.14 on 11 to 100. A fit over all ranks is
destroyed where n is near d.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import UsageError


class PowerLaw(NamedTuple):
    """A fitted power law."""

    exponent: Tensor
    """``(*,)`` α; NaN where fewer than two values of the window are above zero."""
    r_squared: Tensor
    """``(*,)`` the weighted share of the variance of ln λ that the line explains."""
    first: int
    """The first rank of the window, counted from 1."""
    last: int
    """The last rank of the window that the spectrum has."""


def fit_power_law(
    s: Tensor, *, first: int = 11, last: int = 100, weighting: Literal["equal", "rank"] = "equal"
) -> PowerLaw:
    r"""Least squares of :math:`\ln \lambda_i = c - \alpha \ln i` over a window of ranks, :math:`\lambda_i = s_i^2`.

    A spectrum i^{-α} gives exactly α in any window. α does not change when the matrix is scaled or turned. Values of zero
    are left out.

    Args:
        s: ``(*, r)`` singular values, descending.
        first: first rank of the window, counted from 1.
        last: last rank of the window; a shorter spectrum ends it. Keep it below min(n, d)/5 and above the dtype floor.
        weighting: ``equal``, or ``rank`` for weights 1/i, which count each octave of ranks alike.

    Raises:
        UsageError: if the window is empty or starts before 1.
    """
    if not 1 <= first < last:
        raise UsageError(f"a window of ranks starts at 1 or later and ends after it starts; got {first} to {last}")
    s = s.double()[..., first - 1 : last]
    rank = torch.arange(first, first + s.shape[-1], dtype=torch.float64, device=s.device)
    w = (s > 0).double() / (rank if weighting == "rank" else 1)
    w = w / w.sum(-1, keepdim=True)
    y = 2 * torch.where(s > 0, s, 1).log()
    dx = rank.log() - (w * rank.log()).sum(-1, keepdim=True)
    dy = y - (w * y).sum(-1, keepdim=True)
    xx, xy, yy = ((w * a * b).sum(-1) for a, b in ((dx, dx), (dx, dy), (dy, dy)))
    enough = (s > 0).sum(-1) > 1
    slope = torch.where(enough, -xy / xx, torch.nan)
    explained = torch.where(enough, torch.where(yy > 0, xy.square() / (xx * yy), 1.0), torch.nan)
    return PowerLaw(slope, explained, first, first + s.shape[-1] - 1)


def alpha_req(s: Tensor, *, first: int = 4, last: int = 100) -> Tensor:
    """α-ReQ: the exponent of the decay of the covariance's eigenvalues, as its authors' code fits it.

    Least squares of ln λ on ln i over ranks 4 to 100 with weights 1/i (the paper gives no window). Above 0; below 1 is a
    heavy tail, above 1 a smooth one. NaN for a spectrum with fewer than two values above zero in the window.

    Agrawal, Mondal, Ghosh & Richards, "α-ReQ: assessing representation quality in self-supervised learning by measuring
    eigenspectrum decay", NeurIPS 2022, with the regression of Stringer et al., Nature 571 (2019).

    Args:
        s: ``(*, r)`` singular values of the centred features, descending.
        first: first rank of the window.
        last: last rank of the window.

    Returns:
        ``(*,)`` exponents, float64.

    Raises:
        UsageError: if the window is empty.
    """
    return fit_power_law(s, first=first, last=last, weighting="rank").exponent


def _exponent(s: Tensor, *, first: int, last: int) -> Tensor:
    return fit_power_law(s, first=first, last=last).exponent


_BIAS = "full-range fits rise strongly near n = d; a window up to rank 100 is within 5 % for alpha >= 1 and n >= d / 2"

DEFINITIONS = (
    Definition(
        name="alpha-req",
        function=alpha_req,
        reads="spectrum",
        resolved=True,
        formula="-slope of ln lambda_i on ln i, ranks 4 to 100, weights 1 / i",
        citation="Agrawal et al., alpha-ReQ, NeurIPS 2022 (authors' code for the window)",
        low="0",
        high="infinity",
        bias=_BIAS,
        unit="exponent",
    ),
    Definition(
        name="power-law-11-100",
        function=partial(_exponent, first=11, last=100),
        reads="spectrum",
        resolved=True,
        formula="-slope of ln lambda_i on ln i, ranks 11 to 100, equal weights",
        citation="Stringer et al., Nature 571 (2019)",
        low="0",
        high="infinity",
        bias=_BIAS,
        unit="exponent",
    ),
)
