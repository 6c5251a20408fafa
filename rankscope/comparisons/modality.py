r"""The gap between two modalities: how far apart the rows of two kinds lie in one space, a row of each kind a sample.

Image and text embeddings of one model lie in two clouds that hardly overlap. With :math:`x_i` and :math:`y_i` the rows of
sample i in the two kinds, and :math:`D_i = y_i - x_i`, the squared distance of the means of n samples is too large,

.. math:: \mathbf{E}\,\|\bar D\|^2 = \|\mu_y - \mu_x\|^2 + \operatorname{tr}\operatorname{Cov}(D)/n ,

and every quantity here takes that part away: products are summed over different samples only. Where kinds mean nothing, and
are exchanged within each sample by a coin, :math:`\mathbf{E}\|\bar D\|^2 = \sum_i\|D_i\|^2/n^2` exactly, and what is taken
away is exactly this on average. So the distance of exchanged kinds is 0 up to chance, whatever n.

Several rows of one sample and kind are not independent, and are averaged first.

Liang, Zhang, Kwon, Yeung & Zou, "Mind the gap: understanding the modality gap in multi-modal contrastive representation
learning", NeurIPS 2022, arXiv 2203.02053.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from rankscope.comparisons.requirements import require_pairs, require_rows, require_same_width
from rankscope.definition import Comparison, Extent
from rankscope.linalg.forms import dot, trace
from rankscope.linalg.moments import PairMoments
from rankscope.linalg.rows import sample_means
from rankscope.linalg.streamed import RowMatrix

LEAST = 4
"""The fewest samples, as for every comparison of moments."""


class _Clouds(NamedTuple):
    """The means of both kinds, and what is subtracted from products of them."""

    a: Tensor
    """``(*, d)`` mean of the first kind."""
    b: Tensor
    """``(*, d)`` mean of the second."""
    n: Tensor
    """``(*,)`` number of samples."""
    spread_a: Tensor
    """``(*,)`` tr Cov x, with n - 1 in the denominator."""
    spread_b: Tensor
    """``(*,)`` tr Cov y."""
    joint: Tensor
    """``(*,)`` tr Cov(x, y)."""

    @classmethod
    def of(cls, pair: PairMoments) -> _Clouds:
        """From the moments of one row a sample."""
        require_pairs("the gap between modalities", pair, rows=LEAST, same_width=True)
        n, a, b = pair.a.rows, pair.a, pair.b
        return cls(a.mean, b.mean, n, a.trace / (n - 1), b.trace / (n - 1), trace(pair.cross_scatter) / (n - 1))

    @classmethod
    def of_means(cls, x: RowMatrix, y: RowMatrix, sample: Tensor, kept: Tensor) -> _Clouds:
        """From rows of which several may be of one sample, by the ``(*, S)`` weights of the samples."""
        require_same_width(x.shape[1], y.shape[1], "the gap between modalities")
        require_rows((kept > 0).sum(-1), LEAST, "the gap between modalities (counted in samples)")
        a, b = (sample_means(rows, sample).to(kept.device) for rows in (x, y))
        weight = kept.double()
        n, mean_a, mean_b = weight.sum(-1), a.mean(0), b.mean(0)
        u, v = a - mean_a, b - mean_b  # about fixed points, so that nothing cancels

        def summed(p: Tensor, q: Tensor) -> Tensor:
            # Σ w (p - p̄)·(q - q̄) = Σ w p·q - n p̄·q̄
            return weight @ dot(p, q) - dot(weight @ p, weight @ q) / n

        means = (mean_a + weight @ u / n[..., None], mean_b + weight @ v / n[..., None])
        return cls(*means, n, *(summed(p, q) / (n - 1) for p, q in ((u, u), (v, v), (u, v))))

    @property
    def apart(self) -> Tensor:
        """``(*,)`` ‖μ_y - μ_x‖², unbiased."""
        # tr Cov(D) = tr Cov x + tr Cov y - 2 tr Cov(x, y)
        return (self.b - self.a).square().sum(-1) - (self.spread_a + self.spread_b - 2 * self.joint) / self.n

    @property
    def energy(self) -> Tensor:
        """``(*,)`` mean squared length of the rows of both kinds, about the origin."""
        # Σ‖x‖²/n = ‖x̄‖² + tr Cov x · (n - 1)/n
        inner = (self.spread_a + self.spread_b) * (1 - 1 / self.n)
        return (self.a.square().sum(-1) + self.b.square().sum(-1) + inner) / 2


def _gap(c: _Clouds) -> Tensor:
    square = c.apart / c.energy
    return square.sign() * square.abs().sqrt()


def _cosine(c: _Clouds) -> Tensor:
    between = dot(c.a, c.b) - c.joint / c.n
    own = [mean.square().sum(-1) - spread / c.n for mean, spread in ((c.a, c.spread_a), (c.b, c.spread_b))]
    return between / (own[0].sqrt() * own[1].sqrt())  # NaN where a mean is not told from 0


def _share(c: _Clouds) -> Tensor:
    # Two equal parts whose means are ±δ/2 from the middle have the variance ‖δ‖²/4 between them
    between, within = c.apart / 4, (c.spread_a + c.spread_b) / 2
    return between / (between + within)


def modality_gap(pair: PairMoments) -> Tensor:
    r"""Distance of the means of two kinds of rows over the root mean square length of all, :math:`\|\mu_y - \mu_x\| / \sqrt{\mathbf{E}\|z\|^2}`.

    The squared distance is the unbiased one; where that is negative, as it may be by chance for equal means, so is its root.
    :math:`\mathbf{E}\|z\|^2` is over the rows of both kinds, about the origin. For rows of length one this is the gap of Liang
    et al., who leave the bias in. It is at most 2, and at least :math:`-2/\sqrt{n-1}`. It does not change when both sides are
    rotated and scaled alike. NaN if all rows are zero.

    Liang et al., NeurIPS 2022, section 2.

    Args:
        pair: moments of a row of each kind for every sample, leading dimensions ``*``.

    Returns:
        ``(*,)`` values in root mean square lengths of a row, float64.

    Raises:
        NotComparable: with fewer than 4 samples, or kinds of different width.
    """
    return _gap(_Clouds.of(pair))


def modality_cosine(pair: PairMoments) -> Tensor:
    r"""Cosine of the means of two kinds of rows, :math:`\mu_x^\top\mu_y / (\|\mu_x\|\,\|\mu_y\|)`, its parts unbiased.

    It is 1 where both kinds lie in one direction from the origin. It may lie outside -1…1 by chance, where a mean is little
    longer than its error, and is NaN where a mean cannot be told from 0.

    Liang et al., NeurIPS 2022, section 2 (cones); the correction as in :mod:`rankscope.comparisons.modality`.

    Args and errors as :func:`modality_gap`.

    Returns:
        ``(*,)`` values without unit, float64.
    """
    return _cosine(_Clouds.of(pair))


def modality_share(pair: PairMoments) -> Tensor:
    r"""Share of the variance of the rows of two kinds that the kind explains.

    .. math:: \frac{B}{B + W}, \qquad B = \tfrac14\|\mu_y - \mu_x\|^2, \quad W = \tfrac12\operatorname{tr}(\operatorname{Cov} x +
        \operatorname{Cov} y)

    with both parts unbiased. It is at most 1, where all rows of a kind are equal, averages 0 where the means are, and is at
    least :math:`-1/(n-1)`. It does not change when both sides are rotated, scaled and translated alike. NaN if no row differs.

    Fisher, "Statistical methods for research workers", 1925 (intraclass correlation of two groups), over all features.

    Args and errors as :func:`modality_gap`.

    Returns:
        ``(*,)`` values without unit, float64.
    """
    return _share(_Clouds.of(pair))


def _across(number: Callable[[_Clouds], Tensor]) -> Callable[..., Tensor]:
    return lambda pair, x, y, sample, kept: number(_Clouds.of_means(x, y, sample, kept))


def _least_share(size: Extent) -> float:
    # tr Cov(D) is at most 2 tr(Cov x + Cov y), so B is at least -W/n
    return -1 / (size.samples - 1) if size.samples > 1 else -math.inf


def _least_gap(size: Extent) -> float:
    # tr Cov(D)/n is at most 2 tr(Cov x + Cov y)/n, and the mean squared length at least tr(Cov x + Cov y)(n - 1)/2n
    return -2 / math.sqrt(size.samples - 1) if size.samples > 1 else -math.inf


_of_kinds = partial(
    Comparison,
    same_width=True,
    null="labels",
    bias="none in |mean D|^2, from which tr Cov(D)/n is taken (sum_i |D_i|^2 / n^2 where kinds are exchanged), D = y - x",
)

COMPARISONS = (
    _of_kinds(
        name="modality-gap",
        centred=False,
        function=modality_gap,
        across=_across(_gap),
        scale="square",
        formula="|my - mx| / sqrt(mean |z|^2), mx and my the means of both kinds over samples, z the rows of both, |my - mx|^2 "
        "unbiased (and -|my - mx| where it is negative)",
        citation="Liang et al., Mind the gap, NeurIPS 2022, arXiv 2203.02053, section 2, without its bias",
        low="-2/sqrt(n - 1) (negative by chance)",
        high="2",
        least=_least_gap,
        most=2.0,
        noise="0 where kinds are exchanged within samples, give or take a root of order 1/sqrt(n)",
        unit="root mean square lengths of a row",
    ),
    _of_kinds(
        name="modality-cosine",
        centred=False,
        function=modality_cosine,
        across=_across(_cosine),
        formula="mx' my / (|mx| |my|), mx and my the means of both kinds over samples, each product over different samples",
        citation="Liang et al., Mind the gap, NeurIPS 2022, arXiv 2203.02053, section 2",
        low="-1",
        high="1",
        least=-1.0,
        most=1.0,
        strays=True,
        noise="1 where kinds are exchanged within samples",
    ),
    _of_kinds(
        name="modality-share",
        centred=None,
        function=modality_share,
        across=_across(_share),
        formula="B/(B + W), B = |my - mx|^2 / 4 unbiased, W = tr(Cov x + Cov y) / 2",
        citation="Fisher, Statistical methods for research workers, 1925 (intraclass correlation), over all features",
        low="-1/(n - 1) (slightly negative by chance)",
        high="1",
        least=_least_share,
        most=1.0,
        noise="0 where kinds are exchanged within samples",
        unit="share of variance",
    ),
)
