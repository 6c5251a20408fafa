r"""Linear centred kernel alignment, biased and debiased, from moments.

Both are ratios of Hilbert–Schmidt independence criteria, :math:`h(X, Y) / \sqrt{h(X, X)\, h(Y, Y)}`. With the plain
criterion :math:`\|X_c^\top Y_c\|_F^2` independent features score :math:`\sqrt{pq/((n+p)(n+q))}`, close to one for few
rows. The U-statistic of Song et al. uses only products of different rows. Written in sums over rows it requires no ``n
× n`` matrix, merges, and can leave out a group by subtraction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.comparisons.across_samples import cross_sample_cka
from rankscope.comparisons.requirements import require_pairs
from rankscope.definition import Comparison
from rankscope.linalg.forms import dot, squared_norm, trace
from rankscope.linalg.moments import PairMoments


def hsic(pair: PairMoments) -> Tensor:
    r"""Unbiased Hilbert–Schmidt independence criterion of the linear kernels (:func:`unbiased_hsic`).

    It does not change when a vector is added to all rows, and may be negative.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values, float64, in squared units of both features.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    require_pairs("debiased CKA", pair)
    # The rows of a centred linear kernel sum to zero, so without its diagonal row i sums to -‖x_i‖². Hence 1ᵀK̃1 = -tr S_a,
    # 1ᵀK̃L̃1 = Σ ‖x_i‖²‖y_i‖², and tr K̃L̃ is ‖X_cᵀY_c‖² without that same diagonal part.
    norms = centred_norms(pair)
    totals = trace(pair.a.scatter) * trace(pair.b.scatter)
    return unbiased_hsic(pair.a.rows, squared_norm(pair.cross_scatter) - norms, totals, norms)


def unbiased_hsic(n: Tensor | int, inner: Tensor, totals: Tensor, rows: Tensor) -> Tensor:
    r"""Unbiased Hilbert–Schmidt independence criterion :math:`\mathrm{HSIC}_1` from sums over two kernel matrices.

    .. math:: \frac{1}{n(n-3)}\Bigl[\operatorname{tr}\tilde K\tilde L
        + \frac{1^\top\tilde K 1\; 1^\top\tilde L 1}{(n-1)(n-2)} - \frac{2}{n-2} 1^\top\tilde K\tilde L 1\Bigr]

    where the tilde sets a diagonal to zero.

    Song, Smola, Gretton, Bedo & Borgwardt, "Feature selection via dependence maximization", JMLR 13, 2012, equation 4.

    Args:
        n: ``(*,)`` number of rows, at least 4.
        inner: ``(*,)`` tr K̃L̃.
        totals: ``(*,)`` 1ᵀK̃1 · 1ᵀL̃1.
        rows: ``(*,)`` 1ᵀK̃L̃1.

    Returns:
        ``(*,)`` values, float64.
    """
    return (inner + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))


def centred_norms(pair: PairMoments) -> Tensor:
    r"""Sum over rows of :math:`\|x_i-\bar x\|^2\,\|y_i-\bar y\|^2`.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` sums, float64.
    """
    n, a, b = pair.a.rows.double(), pair.a, pair.b
    m, v = a.first / n[..., None], b.first / n[..., None]
    mm, vv = dot(m, m), dot(v, v)
    # (‖x‖² - 2 m·x + ‖m‖²)(‖y‖² - 2 v·y + ‖v‖²) summed over rows. As Σx = n m and Σy = n v, the terms linear in one side
    # and constant in the other, and the constant, add up to (-2 - 2 + 1) n ‖m‖²‖v‖².
    mixed = (m[..., None, :] @ pair.cross @ v[..., None])[..., 0, 0]
    linear = dot(v, pair.b_weighted) + dot(m, pair.a_weighted)
    return pair.norms - 2 * linear + vv * trace(a.second) + mm * trace(b.second) + 4 * mixed - 3 * n * mm * vv


def cka(pair: PairMoments) -> Tensor:
    r"""Debiased linear CKA, :math:`\mathrm{HSIC}_1(X,Y)/\sqrt{\mathrm{HSIC}_1(X,X)\,\mathrm{HSIC}_1(Y,Y)}`.

    It is near 0 for independent features at any number of rows, and 1 for features that agree up to rotation, scale and
    translation. It lies between -1 and 1, because HSIC₁ is an inner product of U-centred kernels (Székely & Rizzo 2014),
    and may be slightly negative. NaN if one side does not vary or its own criterion is not positive.

    It takes rows as independent; those of one sample are not, for which
    :func:`rankscope.comparisons.across_samples.cross_sample_cka` leaves out their pairs.

    Kornblith, Norouzi, Lee & Hinton, "Similarity of neural network representations revisited", ICML 2019, equation 4,
    with the estimator of Song et al. 2012; Murphy, Zylberberg & Fyshe, arXiv 2405.01012.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    own = [hsic(PairMoments.itself(side)).where(side.variation > 0, torch.nan) for side in (pair.a, pair.b)]
    return alignment(hsic(pair), *own)


def cka_biased(pair: PairMoments) -> Tensor:
    r"""Linear CKA as first published, :math:`\|X_c^\top Y_c\|_F^2/(\|X_c^\top X_c\|_F\,\|Y_c^\top Y_c\|_F)`.

    It lies between 0 and 1 and does not change under rotation, scaling and translation of either side. NaN if one side
    does not vary.

    Kornblith, Norouzi, Lee & Hinton, ICML 2019, equation 5.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 2 rows.
    """
    require_pairs("biased CKA", pair, rows=2)
    own = [squared_norm(side.scatter).where(side.variation > 0, torch.nan) for side in (pair.a, pair.b)]
    return alignment(squared_norm(pair.cross_scatter), *own)


def alignment(between: Tensor, own_a: Tensor, own_b: Tensor) -> Tensor:
    r"""Normalised criterion :math:`h(X, Y) / \sqrt{h(X, X)\, h(Y, Y)}`: ``(*,)``; NaN if one side's own is not positive."""
    root_a, root_b = (own.where(own > 0, torch.nan).sqrt() for own in (own_a, own_b))
    return between / (root_a * root_b)


COMPARISONS = (
    Comparison(
        name="cka",
        function=cka,
        across=cross_sample_cka,
        formula="HSIC1(X, Y) / sqrt(HSIC1(X, X) HSIC1(Y, Y)), linear kernels, pairs of rows of one sample left out",
        citation="Kornblith et al., ICML 2019, eq. 4; estimator of Song et al., JMLR 13, 2012, eq. 4",
        low="-1 (about 0 for unrelated features)",
        high="1",
        least=-1.0,
        most=1.0,
        bias="none in each criterion, O(1/n) in the ratio; dominated by the leading components: read it with recoverability",
        noise="0, with a standard deviation of order 1/n",
    ),
    Comparison(
        name="cka-biased",
        function=cka_biased,
        formula="|Xc' Yc|_F^2 / (|Xc' Xc|_F |Yc' Yc|_F)",
        citation="Kornblith et al., ICML 2019, eq. 5",
        high="1",
        most=1.0,
        enough=4,
        bias="upwards with d/n; cka is the same quantity without that bias",
        noise="sqrt(p q / ((n + p)(n + q))) for p and q isotropic features: d/(n + d)",
    ),
)
