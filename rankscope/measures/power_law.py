r"""Power laws of the spectrum: the exponent α of λᵢ ∝ i^{-α}, with the window of ranks it was fitted on.

The window is part of the result: one matrix gives 1.05 on ranks 4 to 100 and 1.14 on ranks 11 to 100. A fit over all
ranks is meaningless when n is near d.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import UsageError

Weighting = Literal["equal", "rank"]
"""Weights of a fit: ``equal``, or ``rank`` for weights 1/i, with which every octave of ranks counts the same."""


class PowerLaw(NamedTuple):
    """A fitted power law."""

    exponent: Tensor
    """``(*,)`` α; NaN if fewer than two values in the window are above zero."""
    r_squared: Tensor
    """``(*,)`` the weighted share of the variance of ln λ that the line explains."""
    first: int
    """The first rank of the window, counted from 1."""
    last: int
    """The last rank of the window, or of the spectrum if it is shorter."""


def fit_power_law(s: Tensor, *, first: int = 11, last: int = 100, weighting: Weighting = "equal") -> PowerLaw:
    r"""Least squares of :math:`\ln \lambda_i = c - \alpha \ln i` over a window of ranks, :math:`\lambda_i = s_i^2`.

    A spectrum i^{-α} gives exactly α in any window. α does not change when the matrix is scaled or rotated; below 1 the
    tail is heavy, above 1 smooth. Values of zero are left out.

    Ranks 11 to 100 with equal weights are the fit of Stringer et al., Nature 571 (2019). Ranks 4 to 100 with weights
    1/i are α-ReQ as its authors' code fits it, their paper stating no window: Agrawal, Mondal, Ghosh & Richards,
    "α-ReQ: assessing representation quality in self-supervised learning by measuring eigenspectrum decay", NeurIPS
    2022.

    Args:
        s: ``(*, r)`` singular values, descending.
        first: first rank of the window, counted from 1.
        last: last rank of the window, unless the spectrum is shorter. Keep it below min(n, d)/5 and above the dtype floor.
        weighting: weights of the ranks (:data:`Weighting`).

    Returns:
        The exponent, with R² and the window used.

    Raises:
        UsageError: if the window is empty or starts before 1.
    """
    if not 1 <= first < last:
        raise UsageError(f"a window of ranks must start at 1 or later and end after its start; got {first} to {last}")
    s = s.double()[..., first - 1 : last]
    rank = torch.arange(first, first + s.shape[-1], dtype=torch.float64, device=s.device)
    w = (s > 0).double() / (rank if weighting == "rank" else 1)
    w = w / w.sum(-1, keepdim=True)
    # Weighted least squares of y = ln λ = 2 ln σ on x = ln i: slope = cov(x, y) / var(x), R² = cov² / (var x · var y)
    y = 2 * torch.where(s > 0, s, 1).log()
    dx = rank.log() - (w * rank.log()).sum(-1, keepdim=True)
    dy = y - (w * y).sum(-1, keepdim=True)
    xx, xy, yy = ((w * a * b).sum(-1) for a, b in ((dx, dx), (dx, dy), (dy, dy)))
    enough = (s > 0).sum(-1) > 1
    slope = torch.where(enough, -xy / xx, torch.nan)
    share = torch.where(enough, torch.where(yy > 0, xy.square() / (xx * yy), 1.0), torch.nan)
    return PowerLaw(slope, share, first, first + s.shape[-1] - 1)


_BIAS = (
    "full-range fits rise strongly near n = d; a window up to rank 100 is within 5 % for alpha >= 1 and n >= d / 2; "
    "ranks beyond min(n, d) / 5 bend the line: if two windows disagree, there is no power law"
)


def _fitted(name: str, first: int, last: int, weighting: Weighting, citation: str) -> tuple[Definition, ...]:
    """The exponent over a window of ranks, and the share of variance that its line explains."""
    fit = partial(fit_power_law, first=first, last=last, weighting=weighting)
    weights = {"equal": "equal weights", "rank": "weights 1 / i"}[weighting]
    window = f"ln lambda_i on ln i, ranks {first} to {last} (or to the last), {weights}"
    fitted = partial(Definition, resolved=True, citation=citation)
    return (
        fitted(
            name=name,
            function=lambda s: fit(s).exponent,
            formula=f"-slope of {window}",
            high="infinity",
            bias=_BIAS,
            unit="exponent",
        ),
        fitted(
            name=f"{name}-r2",
            function=lambda s: fit(s).r_squared,
            formula=f"R2 of the line through {window}",
            high="1",
            most=1.0,
            bias="high for any smooth decay: a line in a narrow window does not prove a power law",
            unit="share of variance",
        ),
    )


DEFINITIONS = (
    *_fitted("alpha-req", 4, 100, "rank", "Agrawal et al., alpha-ReQ, NeurIPS 2022 (authors' code for the window)"),
    *_fitted("power-law-11-100", 11, 100, "equal", "Stringer et al., Nature 571 (2019)"),
)
