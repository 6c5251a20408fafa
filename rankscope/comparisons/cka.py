r"""Linear centred kernel alignment, biased and debiased, from streaming moments.

Both are ratios of Hilbert–Schmidt independence criteria, :math:`h(X, Y) / \sqrt{h(X, X)\, h(Y, Y)}`. With the plain
criterion :math:`\|X_c^\top Y_c\|_F^2` independent features score :math:`\sqrt{pq/((n+p)(n+q))}`, close to one when there
are few rows. The U-statistic of Song et al. uses only products of different rows; written in sums over rows it needs no
``n × n`` matrix, so it streams, merges and can leave a group out by subtraction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.comparisons.itself import itself
from rankscope.comparisons.requirements import require_rows
from rankscope.comparisons.variation import trace, variation
from rankscope.definition import Comparison
from rankscope.linalg.moments import PairMoments


def hsic(pair: PairMoments) -> Tensor:
    r"""Unbiased Hilbert–Schmidt independence criterion of the linear kernels, :math:`\mathrm{HSIC}_1`.

    .. math:: \frac{1}{n(n-3)}\Bigl[\operatorname{tr}\tilde K\tilde L
        + \frac{1^\top\tilde K 1\; 1^\top\tilde L 1}{(n-1)(n-2)} - \frac{2}{n-2} 1^\top\tilde K\tilde L 1\Bigr]

    where the tilde sets a diagonal to zero. It does not change when a vector is added to all rows, so it is evaluated
    on centred rows, where :math:`1^\top\tilde K 1 = -\sum_i\|x_i\|^2` and
    :math:`1^\top\tilde K\tilde L 1 = \sum_i \|x_i\|^2\|y_i\|^2`. It may be negative.

    Song, Smola, Gretton, Bedo & Borgwardt, "Feature selection via dependence maximization", JMLR 13, 2012, equation 4.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values, float64, in squared units of both features.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    require_rows(pair.a.rows, 4, "debiased CKA")
    n = pair.a.rows.double()
    norms = centred_norms(pair)
    traces = trace(pair.a.scatter) * trace(pair.b.scatter)
    inner = _squared(pair.cross_scatter) - norms + traces / ((n - 1) * (n - 2)) - 2 * norms / (n - 2)
    return inner / (n * (n - 3))


def centred_norms(pair: PairMoments) -> Tensor:
    r"""The sum over rows of :math:`\|x_i-\bar x\|^2\,\|y_i-\bar y\|^2`.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` sums, float64.
    """
    n, a, b = pair.a.rows.double(), pair.a, pair.b
    m, v = a.first / n[..., None], b.first / n[..., None]
    mm, vv = _dot(m, m), _dot(v, v)
    mixed = (m[..., None, :] @ pair.cross @ v[..., None])[..., 0, 0]
    linear = _dot(v, pair.b_weighted) + _dot(m, pair.a_weighted)
    return pair.norms - 2 * linear + vv * trace(a.second) + mm * trace(b.second) + 4 * mixed - 3 * n * mm * vv


def cka(pair: PairMoments) -> Tensor:
    r"""Debiased linear CKA, :math:`\mathrm{HSIC}_1(X,Y)/\sqrt{\mathrm{HSIC}_1(X,X)\,\mathrm{HSIC}_1(Y,Y)}`.

    Near 0 for independent features at any number of rows (it may be slightly negative, or slightly above 1, and is not
    clipped), 1 for features that agree up to rotation, scale and translation. Undefined, NaN, where one side does not
    vary or its own criterion is not positive.

    Kornblith, Norouzi, Lee & Hinton, "Similarity of neural network representations revisited", ICML 2019, equation 4,
    with the estimator of Song et al. 2012; Murphy, Zylberberg & Fyshe, arXiv 2405.01012.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    own = [_positive(hsic(itself(side)), variation(side)) for side in (pair.a, pair.b)]
    return hsic(pair) / (own[0].sqrt() * own[1].sqrt())


def cka_biased(pair: PairMoments) -> Tensor:
    r"""Linear CKA as first published, :math:`\|X_c^\top Y_c\|_F^2/(\|X_c^\top X_c\|_F\,\|Y_c^\top Y_c\|_F)`.

    Between 0 and 1; does not change under rotation, scaling and translation of either side. NaN where one side does
    not vary.

    Kornblith, Norouzi, Lee & Hinton, ICML 2019, equation 5.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 2 rows.
    """
    require_rows(pair.a.rows, 2, "biased CKA")
    own = [_positive(_squared(side.scatter), variation(side)) for side in (pair.a, pair.b)]
    return _squared(pair.cross_scatter) / (own[0].sqrt() * own[1].sqrt())


def _positive(value: Tensor, varied: Tensor) -> Tensor:
    return value.where((value > 0) & (varied > 0), torch.nan)


def _squared(matrix: Tensor) -> Tensor:
    return matrix.square().sum((-2, -1))


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1)


COMPARISONS = (
    Comparison(
        name="cka",
        function=cka,
        formula="HSIC1(X, Y) / sqrt(HSIC1(X, X) HSIC1(Y, Y)), linear kernels, diagonals left out",
        citation="Kornblith et al., ICML 2019, eq. 4; estimator of Song et al., JMLR 13, 2012, eq. 4",
        low="about 0 (may be slightly negative)",
        high="1 (may be exceeded slightly)",
        bias="none in each criterion; the ratio O(1/n). Dominated by the leading components: read with recoverability",
        noise="0, with a standard deviation of order 1/n",
    ),
    Comparison(
        name="cka-biased",
        function=cka_biased,
        formula="|Xc' Yc|_F^2 / (|Xc' Xc|_F |Yc' Yc|_F)",
        citation="Kornblith et al., ICML 2019, eq. 5",
        high="1",
        enough=4,
        bias="upwards with d/n; cka is the same quantity debiased",
        noise="sqrt(p q / ((n + p)(n + q))) for p and q isotropic features: d/(n + d)",
    ),
)
