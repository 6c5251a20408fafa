"""Number of leading directions that hold a share of the energy."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rankscope.definition import rank_definition
from rankscope.errors import UsageError
from rankscope.measures.hill import weights


def first_reaching(w: Tensor, share: float) -> Tensor:
    """Number of the largest weights that sum to at least a share of the total.

    A cumulative sum of r numbers has a relative error of up to r·ε, so a share missed by less than that counts as reached:
    ten equal weights reach 0.9 with nine.

    Args:
        w: ``(*, r)`` non-negative weights, in any order.
        share: the share to reach, above 0 and up to 1.

    Returns:
        ``(*,)`` int64 numbers of weights; 0 if the total is 0.

    Raises:
        UsageError: if the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"a share must be above 0 and up to 1; got {share}")
    w = w.double().sort(-1, descending=True).values
    r = w.shape[-1]
    if not r:
        return torch.zeros(w.shape[:-1], dtype=torch.int64, device=w.device)
    sums = w.cumsum(-1)
    rounding = r * torch.finfo(torch.float64).eps
    short = sums < (share - rounding) * sums[..., -1:]
    return torch.where(sums[..., -1] > 0, short.sum(-1) + 1, 0)


def crossing(w: Tensor, share: float) -> Tensor:
    """Position at which the cumulative sum, interpolated linearly, reaches a share: what :func:`first_reaching` rounds up.

    Args:
        w: ``(*, r)`` non-negative weights, in any order.
        share: the share to reach, above 0 and up to 1.

    Returns:
        ``(*,)`` float64, at most the whole number k of :func:`first_reaching` and above k - 1.
    """
    k = first_reaching(w, share)
    if not w.shape[-1]:
        return k.double()
    w = w.double().sort(-1, descending=True).values
    sums = w.cumsum(-1)
    at = (k - 1).clamp(min=0)[..., None]
    last = w.gather(-1, at).squeeze(-1)
    over = sums.gather(-1, at).squeeze(-1) - share * sums[..., -1]
    # The last of the k weights overshoots the share by this part of itself
    return torch.where(last > 0, k - over / last, k.double())


def energy_rank(s: Tensor, share: float = 0.9) -> Tensor:
    r"""Energy rank: the smallest number of leading directions that hold a share of the energy.

    .. math:: \min \Bigl\{ k : \sum_{i \le k} s_i^2 \ge t \sum_i s_i^2 \Bigr\}

    It is an integer between 1 and ``r``, so its resolution is 1. It does not change when the matrix is scaled or
    rotated. A zero matrix gives 0.

    Jolliffe, "Principal Component Analysis", 2nd edition 2002, section 6.1.1.

    Args:
        s: ``(*, r)`` non-negative singular values, in any order.
        share: t, above 0 and up to 1.

    Returns:
        ``(*,)`` ranks, whole numbers as float64.

    Raises:
        UsageError: if the share is not in (0, 1].
    """
    return torch.where(s.isnan().any(-1), torch.nan, first_reaching(weights(s, base="lambda"), share).double())


def energy_crossing(s: Tensor, share: float = 0.9) -> Tensor:
    """The continuous quantity that :func:`energy_rank` rounds up to a whole number: ``(*,)`` float64."""
    return crossing(weights(s, base="lambda"), share)


DEFINITIONS = tuple(
    rank_definition(
        name=f"energy-{percent}",
        function=partial(energy_rank, share=percent / 100),
        step=1.0,
        smooth=partial(energy_crossing, share=percent / 100),
        formula=f"least k with sum_(i<=k) sigma^2 >= {percent / 100:g} sum sigma^2",
        citation="Jolliffe, Principal Component Analysis, 2002, section 6.1.1",
        bias="not monotone in the number of rows, and largest when n is near d; moves in whole steps",
    )
    for percent in (90, 95, 99)
)
