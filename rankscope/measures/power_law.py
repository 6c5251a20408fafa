r"""Power laws of the spectrum: the exponent α of λᵢ ∝ i^{-α}, with the window of ranks it was fitted on.

The window is part of the result: one matrix gives 1.05 on ranks 4 to 100 and 1.14 on 11 to 100. A fit over all ranks is
destroyed where n is near d.
"""

from __future__ import annotations

from collections.abc import Callable
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
    share = torch.where(enough, torch.where(yy > 0, xy.square() / (xx * yy), 1.0), torch.nan)
    return PowerLaw(slope, share, first, first + s.shape[-1] - 1)


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


def explained(s: Tensor, *, first: int, last: int, weighting: Literal["equal", "rank"]) -> Tensor:
    """The share of the variance of ln λ that the line of :func:`fit_power_law` explains: ``(*,)`` from 0 to 1, float64."""
    return fit_power_law(s, first=first, last=last, weighting=weighting).r_squared


def _exponent(s: Tensor, *, first: int, last: int) -> Tensor:
    return fit_power_law(s, first=first, last=last).exponent


_BIAS = (
    "full-range fits rise strongly near n = d; a window up to rank 100 is within 5 % for alpha >= 1 and n >= d / 2; "
    "ranks beyond min(n, d) / 5 bend the line: where two windows disagree it is none"
)
_AUTHORS = "ranks 4 to 100 (or to the last), weights 1 / i"
_LATER = "ranks 11 to 100 (or to the last), equal weights"


def _slope(name: str, function: Callable[[Tensor], Tensor], window: str, citation: str) -> Definition:
    return Definition(
        name=name,
        function=function,
        resolved=True,
        formula=f"-slope of ln lambda_i on ln i, {window}",
        citation=citation,
        high="infinity",
        bias=_BIAS,
        unit="exponent",
    )


def _share(name: str, function: Callable[[Tensor], Tensor], window: str, citation: str) -> Definition:
    return Definition(
        name=name,
        function=function,
        resolved=True,
        formula=f"R2 of the line through ln lambda_i on ln i, {window}",
        citation=citation,
        high="1",
        bias="high for any smooth decay: a line in a narrow window is no proof of a power law",
        unit="share of variance",
    )


_ALPHA_REQ = "Agrawal et al., alpha-ReQ, NeurIPS 2022 (authors' code for the window)"
_STRINGER = "Stringer et al., Nature 571 (2019)"

DEFINITIONS = (
    _slope("alpha-req", alpha_req, _AUTHORS, _ALPHA_REQ),
    _share("alpha-req-r2", partial(explained, first=4, last=100, weighting="rank"), _AUTHORS, _ALPHA_REQ),
    _slope("power-law-11-100", partial(_exponent, first=11, last=100), _LATER, _STRINGER),
    _share("power-law-11-100-r2", partial(explained, first=11, last=100, weighting="equal"), _LATER, _STRINGER),
)
