r"""Participation ratios: naive, unbiased in the number of rows, and from products of different samples only.

All three estimate :math:`(\operatorname{tr} \Sigma)^2 / \operatorname{tr} \Sigma^2` of the covariance Σ, the Hill
number of order two. None requires eigenvalues.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition, rank_definition, width_of
from rankscope.errors import DataError
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.forms import squared_norm
from rankscope.linalg.moments import Moments
from rankscope.measures.hill import hill


def participation_ratio(s: Tensor) -> Tensor:
    r"""Participation ratio of a spectrum, the naive estimate.

    .. math:: \bigl(\textstyle\sum_i \lambda_i\bigr)^2 / \sum_i \lambda_i^2, \qquad \lambda_i = s_i^2

    It lies between 1, for a matrix of rank one, and ``r``, when all singular values are equal, and does not change when
    the matrix is scaled or rotated. A zero matrix gives 0. Few rows bias it downwards: 1/PR grows by about 1/n. If the
    rows are available, prefer :func:`unbiased_participation_ratio`.

    Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262 (2017).

    Args:
        s: ``(*, r)`` non-negative singular values of the centred features, in any order.

    Returns:
        ``(*,)`` participation ratios, float64.
    """
    return hill(s, 2, base="lambda")


def unbiased_participation_ratio(moments: Moments) -> Tensor:
    r"""Participation ratio with unbiased numerator and denominator.

    It is A/B, with the U-statistics A of :math:`(\operatorname{tr}\Sigma)^2` and B of
    :math:`\operatorname{tr}\Sigma^2`. With :math:`t_1 = \operatorname{tr} S`, :math:`t_2 = \operatorname{tr} S^2` of
    the sample covariance, :math:`Q = \sum_i \lVert x_i - \bar x \rVert^4 / (n-1)` and :math:`a = (n-1) /
    (n(n-2)(n-3))`,

    .. math:: B = a \bigl[(n-1)(n-2) t_2 + t_1^2 - nQ\bigr], \qquad
              A = a \bigl[2 t_2 + (n^2 - 3n + 1) t_1^2 - nQ\bigr].

    A and B are unbiased for any distribution of independent rows with four moments, so the ratio hardly depends on n.
    With few rows it can fall outside 1…d, and is not clipped. It does not change when the features are scaled, rotated
    or translated. Rows that are all equal give 0.

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
        raise DataError(
            f"the unbiased participation ratio needs at least 4 rows; there are {int(n.min())}: collect more"
        )
    t1 = moments.trace / (n - 1)
    t2 = squared_norm(moments.scatter) / (n - 1).square()
    nq = n / (n - 1) * moments.fourth_central
    # A and B of the docstring without their common factor a, which cancels in the ratio
    a = 2 * t2 + (n.square() - 3 * n + 1) * t1.square() - nq
    b = (n - 1) * (n - 2) * t2 + t1.square() - nq
    return torch.where(t1 > 0, a / b, 0.0)


def clustered_participation_ratio(moments: ClusterMoments) -> Tensor:
    r"""Participation ratio from products of rows of different samples only.

    .. math:: \frac{(\operatorname{tr} G)^2 - \sum_c (\operatorname{tr} G_c)^2}
                   {\lVert G \rVert_F^2 - \sum_c \lVert G_c \rVert_F^2}, \qquad G = \sum_c G_c,

    where :math:`G_c` is the scatter of the rows of sample c about the overall mean. Rows of one sample may depend on
    each other in any way. Centring leaves a bias of the order of one over the number of samples. It does not change
    when the features are scaled, rotated or translated. Rows that are all equal give 0.

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
        fewest = int(moments.samples.min())
        raise DataError(f"the cross-sample participation ratio needs 2 samples; there are {fewest}: collect more")
    scatter, trace = moments.moments.scatter, moments.moments.trace
    above = trace.square() - moments.central_traces_squared
    below = squared_norm(scatter) - moments.central_norms_squared
    return torch.where(trace > 0, above / below, 0.0)


def naive_participation_ratio(moments: Moments) -> Tensor:
    """:func:`participation_ratio` from moments with leading dimensions ``*``, without eigenvalues: ``(*,)`` float64."""
    trace = moments.trace
    return torch.where(trace > 0, trace.square() / squared_norm(moments.scatter), 0.0)


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
        least=1.0,
        most=width_of,
        strays=True,
        of_nothing=0.0,
        bias="unbiased numerator and denominator for independent rows; tokens of one sample are not independent, "
        "for which see participation-ratio-clustered",
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
        least=1.0,
        most=width_of,
        strays=True,
        of_nothing=0.0,
        bias="not affected by dependence within samples; centring leaves O(1 / samples)",
    ),
    rank_definition(
        name="participation-ratio-naive",
        function=naive_participation_ratio,
        reads="moments",
        formula="(tr S)^2 / tr S^2 of the sample covariance",
        citation="Gao et al. 2017 (bioRxiv 214262)",
        enough=4,
        bias="falls with few rows: 1/E = 1/PR + 1/n",
    ),
)
