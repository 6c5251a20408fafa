"""How many leading directions hold a share of the energy."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import UsageError


def first_reaching(w: Tensor, share: float) -> Tensor:
    """How many of the largest weights sum to at least a share of the total: ``(*,)`` int64, 0 where the total is 0.

    A cumulative sum of r numbers is exact to r·ε relative, so a share that falls short by less counts as reached:
    ten equal weights reach 0.9 with nine.

    Args:
        w: ``(*, r)`` weights, none negative, in any order.
        share: between 0 (exclusive) and 1.

    Raises:
        UsageError: if the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"a share lies above 0 and up to 1; got {share}")
    w = w.double().sort(-1, descending=True).values
    r = w.shape[-1]
    if not r:
        return torch.zeros(w.shape[:-1], dtype=torch.int64, device=w.device)
    sums = w.cumsum(-1)
    rounding = r * torch.finfo(torch.float64).eps
    short = sums < (share - rounding) * sums[..., -1:]
    return torch.where(sums[..., -1] > 0, short.sum(-1) + 1, 0)


def crossing(w: Tensor, share: float) -> Tensor:
    """Where the cumulative sum, linear between its points, reaches a share: what :func:`first_reaching` rounds up.

    Args:
        w: ``(*, r)`` weights, none negative, in any order.
        share: between 0 (exclusive) and 1.

    Returns:
        ``(*,)`` float64, at most the whole number that :func:`first_reaching` gives and above it less one.
    """
    k = first_reaching(w, share)
    if not w.shape[-1]:
        return k.double()
    w = w.double().sort(-1, descending=True).values
    sums = w.cumsum(-1)
    at = (k - 1).clamp(min=0)[..., None]
    last = w.gather(-1, at).squeeze(-1)
    over = sums.gather(-1, at).squeeze(-1) - share * sums[..., -1]
    return torch.where(last > 0, k - over / last, k.double())


def energy_rank(s: Tensor, share: float = 0.9) -> Tensor:
    r"""Energy rank: the least number of leading directions with a share of the energy.

    .. math:: \min \Bigl\{ k : \sum_{i \le k} s_i^2 \ge t \sum_i s_i^2 \Bigr\}

    An integer between 1 and ``r``; its steps of one are its resolution. It does not change when the matrix is scaled
    or turned. A zero matrix gives 0.

    Jolliffe, "Principal Component Analysis", 2nd edition 2002, section 6.1.1.

    Args:
        s: ``(*, r)`` singular values, none negative, in any order.
        share: t, above 0 and up to 1.

    Returns:
        ``(*,)`` ranks, whole numbers as float64.

    Raises:
        UsageError: if the share is not in (0, 1].
    """
    return torch.where(s.isnan().any(-1), torch.nan, first_reaching(_energies(s), share).double())


def energy_crossing(s: Tensor, share: float = 0.9) -> Tensor:
    """What :func:`energy_rank` rounds up to a whole number: ``(*,)`` float64, continuous in the singular values."""
    return crossing(_energies(s), share)


def _energies(s: Tensor) -> Tensor:
    s = s.double()
    largest = s.amax(-1, keepdim=True) if s.shape[-1] else s
    return (s / torch.where(largest > 0, largest, 1)).square()


DEFINITIONS = tuple(
    Definition(
        name=f"energy-{percent}",
        function=partial(energy_rank, share=percent / 100),
        scale="log",
        smooth=partial(energy_crossing, share=percent / 100),
        formula=f"least k with sum_(i<=k) sigma^2 >= {percent / 100:g} sum sigma^2, of the centred features",
        citation="Jolliffe, Principal Component Analysis, 2002, section 6.1.1",
        low="1",
        high="rank",
        bias="not monotone in the number of rows, and worst at n near d; moves in whole steps",
    )
    for percent in (90, 95, 99)
)
