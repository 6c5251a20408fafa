"""Stable rank, and NESum, which is the same number for a centred matrix."""

from __future__ import annotations

import math

from torch import Tensor

from rankscope.definition import rank_definition
from rankscope.measures.hill import hill


def stable_rank(s: Tensor) -> Tensor:
    r"""Stable rank: the total energy over the energy of the leading direction.

    .. math:: \lVert X \rVert_F^2 / \lVert X \rVert_2^2 = \sum_i s_i^2 / \max_i s_i^2

    It lies between 1, for a matrix of rank one, and ``r``, when all singular values are equal, does not exceed the
    participation ratio, and does not change when the matrix is scaled or rotated. A zero matrix gives 0.

    Rudelson & Vershynin, "Sampling from large matrices", J. ACM 54 (2007), arXiv math/0503442. On centred features it
    is the NESum of He & Ozay, ICML 2022, and the "numerical rank" of Tsitsulin et al. 2023 (arXiv 2305.16562).

    Args:
        s: ``(*, r)`` non-negative singular values, in any order.

    Returns:
        ``(*,)`` stable ranks, float64.
    """
    return hill(s, math.inf, base="lambda")


_BIAS = "falls mildly with few rows; negligible if one direction dominates (isotropic: nd / (sqrt n + sqrt d)^2)"

DEFINITIONS = (
    rank_definition(
        name="stable-rank",
        function=stable_rank,
        formula="sum sigma^2 / max sigma^2",
        citation="Rudelson & Vershynin 2007 (arXiv math/0503442)",
        bias=_BIAS,
    ),
    rank_definition(
        name="nesum",
        function=stable_rank,
        formula="sum lambda / lambda_1 of the covariance: the same as stable-rank",
        citation="He & Ozay, ICML 2022",
        bias=_BIAS,
    ),
)
