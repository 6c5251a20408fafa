r"""Participation ratios: naive, unbiased in the number of rows, and from products of different samples only.

All three estimate :math:`(\operatorname{tr} \Sigma)^2 / \operatorname{tr} \Sigma^2` of the covariance Σ, the Hill number
of order two, and none needs an eigenvalue.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.errors import DataError
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments
from rankscope.measures.hill import hill


def participation_ratio(s: Tensor) -> Tensor:
    r"""Participation ratio of a spectrum, the naive estimate.

    .. math:: \bigl(\textstyle\sum_i \lambda_i\bigr)^2 / \sum_i \lambda_i^2, \qquad \lambda_i = s_i^2

    It lies between 1, for a matrix of rank one, and ``r``, when all singular values are equal, and does not change
    when the matrix is scaled or turned. A zero matrix gives 0. Few rows pull it down: 1/PR grows by about 1/n; where
    rows are at hand, prefer :func:`unbiased_participation_ratio`.

    Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262 (2017).

    Args:
        s: ``(*, r)`` singular values of the centred features, none negative, in any order.

    Returns:
        ``(*,)`` participation ratios, float64.
    """
    return hill(s, 2, base="lambda")


def unbiased_participation_ratio(moments: Moments) -> Tensor:
    r"""Participation ratio A/B with U-statistics A of :math:`(\operatorname{tr}\Sigma)^2`, B of
    :math:`\operatorname{tr}\Sigma^2`.

    With :math:`t_1 = \operatorname{tr} S`, :math:`t_2 = \operatorname{tr} S^2` of the sample covariance,
    :math:`Q = \sum_i \lVert x_i - \bar x \rVert^4 / (n-1)` and :math:`a = (n-1) / (n(n-2)(n-3))`,

    .. math:: B = a \bigl[(n-1)(n-2) t_2 + t_1^2 - nQ\bigr], \qquad
              A = a \bigl[2 t_2 + (n^2 - 3n + 1) t_1^2 - nQ\bigr].

    A and B are unbiased for any distribution of independent rows with four moments, so the ratio hardly depends on
    n. It can leave the range from 1 to d where n is small, and is not clipped. Rows that are all equal give 0. It does
    not change when the features are scaled, turned or shifted.

    Chun, Canatar, Chung & Lee, ICLR 2026 (arXiv 2509.26560); the statistics are those of Chen, Zhang & Zhong, JASA 105
    (2010) and of Himeno & Yamada, J. Multivariate Anal. 130 (2014).

    Args:
        moments: sums over rows with leading dimensions ``*``.

    Returns:
        ``(*,)`` participation ratios, float64.

    Raises:
        DataError: if an entry has fewer than 4 rows.
    """
    n = moments.rows
    if (n < 4).any():
        raise DataError(f"the unbiased participation ratio needs at least 4 rows; there are {int(n.min())}")
    scatter = moments.scatter
    t1 = moments.trace / (n - 1)
    t2 = scatter.square().sum((-2, -1)) / (n - 1).square()
    nq = n / (n - 1) * moments.fourth_central
    a = 2 * t2 + (n.square() - 3 * n + 1) * t1.square() - nq
    b = (n - 1) * (n - 2) * t2 + t1.square() - nq
    return torch.where(t1 > 0, a / b, 0.0)


def clustered_participation_ratio(moments: ClusterMoments) -> Tensor:
    r"""Participation ratio from products of rows of different samples only.

    .. math:: \frac{(\operatorname{tr} G)^2 - \sum_c (\operatorname{tr} G_c)^2}
                   {\lVert G \rVert_F^2 - \sum_c \lVert G_c \rVert_F^2}, \qquad G = \sum_c G_c,

    with :math:`G_c` the scatter of the rows of sample c about the overall mean. Rows of one sample may depend on each
    other in any way. Centring leaves a bias of the order of one over the number of samples. Rows that are all equal
    give 0.

    The cross-cluster form of :func:`unbiased_participation_ratio` (Chun et al., arXiv 2509.26560), as derived in
    :mod:`rankscope.linalg.clusters`.

    Args:
        moments: sums over samples with leading dimensions ``*``.

    Returns:
        ``(*,)`` participation ratios, float64.

    Raises:
        DataError: if an entry has fewer than 2 samples.
    """
    if (moments.samples < 2).any():
        raise DataError(f"the cross-sample participation ratio needs 2 samples; there are {int(moments.samples.min())}")
    scatter, trace = moments.moments.scatter, moments.moments.trace
    above = trace.square() - moments.central_traces_squared
    below = scatter.square().sum((-2, -1)) - moments.central_norms_squared
    return torch.where(trace > 0, above / below, 0.0)


def naive_participation_ratio(moments: Moments) -> Tensor:
    """:func:`participation_ratio` from moments with leading dimensions ``*``, without an eigenvalue: ``(*,)``."""
    trace = moments.trace
    return torch.where(trace > 0, trace.square() / moments.scatter.square().sum((-2, -1)), 0.0)


DEFINITIONS = (
    Definition(
        name="participation-ratio",
        function=unbiased_participation_ratio,
        reads="moments",
        scale="log",
        formula="A / B, U-statistics of (tr Sigma)^2 and tr Sigma^2",
        citation="Chun et al. 2026 (arXiv 2509.26560); Chen, Zhang & Zhong 2010; Himeno & Yamada 2014",
        low="1 (in expectation)",
        high="d (in expectation)",
        bias="unbiased numerator and denominator for independent rows; tokens of one sample are not independent: "
        "see participation-ratio-clustered",
    ),
    Definition(
        name="participation-ratio-clustered",
        function=clustered_participation_ratio,
        reads="clusters",
        scale="log",
        formula="((tr G)^2 - sum_c (tr G_c)^2) / (|G|^2 - sum_c |G_c|^2), G_c the scatter of sample c",
        citation="cross-cluster form of Chun et al. 2026 (arXiv 2509.26560)",
        low="1 (in expectation)",
        high="d (in expectation)",
        bias="free of the dependence within samples; centring leaves O(1 / samples)",
    ),
    Definition(
        name="participation-ratio-naive",
        function=naive_participation_ratio,
        reads="moments",
        scale="log",
        formula="(tr S)^2 / tr S^2 of the sample covariance",
        citation="Gao et al. 2017 (bioRxiv 214262)",
        low="1",
        high="rank",
        enough=4,
        bias="falls with few rows: 1/E = 1/PR + 1/n",
    ),
)
