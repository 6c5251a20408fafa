"""RankMe, exactly as published: on uncentred features, with its ε inside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankscope.definition import rank_definition

EPSILON = 1e-7
"""The constant that the paper adds to every share, inside and outside the logarithm, without renormalising."""


def rankme(s: Tensor) -> Tensor:
    r"""RankMe: the exponential of the entropy of the normalised singular values of uncentred embeddings.

    .. math:: \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad p_i = s_i / \sum_j s_j + 10^{-7}

    The constant is part of the published definition; without it this is the effective rank of Roy and Vetterli. RankMe
    lies between 1 and about ``r``, and does not change when the matrix is scaled. A zero matrix gives 0. Its authors
    use it only to compare runs of one method.

    Garrido, Balestriero, Najman & LeCun, "RankMe", ICML 2023 (arXiv 2210.02885), equation 1.

    Args:
        s: ``(*, r)`` non-negative singular values of the uncentred features, in any order.

    Returns:
        ``(*,)`` ranks, float64.
    """
    s = s.double()
    total = s.sum(-1, keepdim=True)
    p = s / torch.where(total > 0, total, 1) + EPSILON
    return torch.where(total[..., 0] == 0, 0.0, torch.special.entr(p).sum(-1).exp())


def flat(directions: float) -> float:
    """The largest value, of equal singular values: a little above their number, since the shares add up to 1 + r ε."""
    p = 1 / directions + EPSILON
    return math.exp(-directions * p * math.log(p))


DEFINITION = rank_definition(
    name="rankme",
    least=flat(1),
    most=lambda size: flat(size.rank),
    function=rankme,
    formula="exp(-sum p ln p), p = sigma / sum sigma + 1e-7",
    citation="Garrido et al., RankMe, ICML 2023 (arXiv 2210.02885), equation 1",
    bias="falls strongly with few rows, like roy-vetterli; a mean direction lowers it; compare runs of one method only",
    centred=False,
)
