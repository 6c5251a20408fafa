"""Rules of thumb for an elbow in a spectrum. All are fragile: use them as annotations on a plot, not as findings."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rankscope.definition import Definition, rank_of


def spectral_gap(s: Tensor) -> Tensor:
    r"""Rank after which the spectrum drops by the largest factor, :math:`\arg\max_i \lambda_i / \lambda_{i+1}`.

    It lies between 1 and r - 1, and is 0 if fewer than two values are above zero. A drop to zero has no ratio and does
    not count.

    Args:
        s: ``(*, r)`` singular values, descending.

    Returns:
        ``(*,)`` ranks, whole numbers as float64.
    """
    s = s.double()
    if s.shape[-1] < 2:
        return s.new_zeros(s.shape[:-1])
    # The squares that make λ of σ do not move the maximum
    ratio = torch.where(s[..., 1:] > 0, s[..., :-1] / s[..., 1:], 0)
    return torch.where(ratio.amax(-1) > 0, ratio.argmax(-1) + 1, 0).double()


def broken_stick(s: Tensor) -> Tensor:
    r"""Number of leading eigenvalues that exceed the pieces of a stick broken at random, up to the first that does not.

    .. math:: \lambda_i / \sum_j \lambda_j > \frac{1}{r} \sum_{j \ge i} \frac{1}{j}

    It lies between 0 and r.

    Frontier, J. Exp. Mar. Biol. Ecol. 25 (1976).

    Args:
        s: ``(*, r)`` singular values, descending.

    Returns:
        ``(*,)`` ranks, whole numbers as float64.
    """
    energy = s.double().square()
    r = energy.shape[-1]
    # Expected length of the i-th longest of r pieces: Σ_{j ≥ i} 1/j, over r
    pieces = (1 / torch.arange(1, r + 1, dtype=torch.float64, device=s.device)).flip(0).cumsum(0).flip(0) / max(r, 1)
    above = energy > pieces * energy.sum(-1, keepdim=True)
    return above.long().cumprod(-1).sum(-1).double()


def kaiser(s: Tensor) -> Tensor:
    """Number of eigenvalues above their mean.

    It lies between 0 and r - 1.

    Guttman 1954; Kaiser 1960.

    Args:
        s: ``(*, r)`` non-negative singular values, in any order.

    Returns:
        ``(*,)`` ranks, whole numbers as float64.
    """
    energy = s.double().square()
    return (energy > energy.sum(-1, keepdim=True) / max(energy.shape[-1], 1)).sum(-1).double()


_BIAS = "fragile; an annotation, not a finding"

_rule_of_thumb = partial(Definition, bias=_BIAS)

DEFINITIONS = (
    _rule_of_thumb(
        name="spectral-gap",
        function=spectral_gap,
        formula="argmax_i lambda_i / lambda_(i+1)",
        citation="folklore; Davis & Kahan 1970 on why a gap matters",
        low="1",
        high="r - 1",
        least=1.0,
        most=rank_of,
        of_nothing=0.0,
    ),
    _rule_of_thumb(
        name="broken-stick",
        function=broken_stick,
        formula="leading lambda_i / sum lambda > (1/r) sum_(j>=i) 1/j",
        citation="Frontier 1976",
        high="r",
        most=rank_of,
    ),
    _rule_of_thumb(
        name="kaiser",
        function=kaiser,
        formula="#{lambda_i > mean lambda}",
        citation="Guttman 1954; Kaiser 1960",
        high="r - 1",
        most=rank_of,
    ),
)
