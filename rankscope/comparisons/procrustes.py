r"""Orthogonal Procrustes: the similarity of two runs up to rotation, and without rotation.

For centred features of unit Frobenius norm, the best rotation achieves the similarity :math:`s = \|X^\top Y\|_*`; every
variant is a function of it. Fine-tuned models share the base's residual basis, so the distance *without* a rotation is
meaningful too, and the gap between the two distances is pure rotation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_pairs
from rankscope.definition import Comparison
from rankscope.linalg.forms import trace
from rankscope.linalg.moments import PairMoments


def procrustes(pair: PairMoments) -> Tensor:
    r"""Procrustes similarity :math:`s = \|X_c^\top Y_c\|_* / (\|X_c\|_F\,\|Y_c\|_F)`.

    It lies between 0 and 1, does not change under rotation, scaling and translation of either side, and is 1 for
    features that agree up to those. NaN if one side does not vary.

    Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31, 1966.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    require_pairs("the Procrustes similarity", pair)
    nuclear = torch.linalg.svdvals(pair.cross_scatter).sum(-1)
    return (nuclear / (pair.a.variation.sqrt() * pair.b.variation.sqrt())).clamp(max=1)


def procrustes_angle(pair: PairMoments) -> Tensor:
    r"""Procrustes angle :math:`\arccos s`, a metric on shapes.

    It lies between 0 and π/2 radians. Values below about 1e-8 are rounding, as the arc cosine keeps half the digits
    near 1.

    Williams, Kunz, Kornblith & Linderman, "Generalized shape metrics on neural representations", NeurIPS 2021.

    Args, invariances and errors as :func:`procrustes`.
    """
    return procrustes(pair).acos()


def procrustes_disparity(pair: PairMoments) -> Tensor:
    r"""Procrustes disparity :math:`1 - s^2`, the share of variance that no rotation and scaling explains.

    It lies between 0 and 1.

    Args, invariances and errors as :func:`procrustes`.
    """
    return 1 - procrustes(pair).square()


def procrustes_held_out(fit: PairMoments, evaluate: PairMoments) -> Tensor:
    r"""Procrustes similarity on rows other than those that determined the rotation.

    The rotation :math:`Q` is fitted on the rows of ``fit``; the value is :math:`\operatorname{tr}(Q^\top X_c^\top
    Y_c)/(\|X_c\|_F\,\|Y_c\|_F)` on those of ``evaluate``. It is about 0 for independent features, for which the
    in-sample value is :math:`(8/3\pi)\sqrt{d/n}`, and may be negative. Directions that the rows of ``fit`` do not span
    are not rotated, and count as not aligned.

    Args:
        fit: moments of the rows that determine the rotation, leading dimensions ``*``.
        evaluate: moments of other samples.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 4 rows on either side.
    """
    require_pairs("the held-out Procrustes similarity", fit, evaluate)
    # Schönemann 1966: with X_cᵀY_c = UΣVᵀ on the rows to fit, Q = UVᵀ; singular values that are rounding have no direction
    u, s, vh = torch.linalg.svd(fit.cross_scatter, full_matrices=False)
    chosen = s > max(fit.cross_scatter.shape[-2:]) * torch.finfo(s.dtype).eps * s[..., :1]
    aligned = (((u * chosen[..., None, :]) @ vh) * evaluate.cross_scatter).sum((-2, -1))
    return aligned / (evaluate.a.variation.sqrt() * evaluate.b.variation.sqrt())


def identity_distance(pair: PairMoments) -> Tensor:
    r"""Distance without alignment, :math:`\|X_c - Y_c\|_F / \|X_c\|_F`, of two runs assumed to share a basis.

    It is zero or more, and changes when only one side is rotated, by design. NaN if the reference does not vary.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values without unit, float64; those below about 1e-8 are rounding.

    Raises:
        NotComparable: with fewer than 4 rows, or runs of different width.
    """
    require_pairs("the identity-aligned distance", pair, same_width=True)
    return _distance(pair, trace(pair.cross_scatter))


def rotation_gap(pair: PairMoments) -> Tensor:
    r"""Part of the identity-aligned distance that is pure rotation.

    .. math:: \frac{\|X_c - Y_c\|_F - \min_Q\|X_c - Y_c Q\|_F}{\|X_c\|_F}

    It lies between zero and the distance itself, which it equals when the tuned run is a rotated base.

    Args and errors as :func:`identity_distance`.
    """
    nuclear = torch.linalg.svdvals(pair.cross_scatter).sum(-1)  # max over Q of tr(Qᵀ Y_cᵀX_c)
    # The best rotation is no worse than none; of equal runs only the rounding of two roots is left
    return (identity_distance(pair) - _distance(pair, nuclear)).clamp(min=0)


def _distance(pair: PairMoments, inner: Tensor) -> Tensor:
    """‖X_c - Y_cQ‖ / ‖X_c‖ from the inner product ⟨X_c, Y_cQ⟩: ``(*,)``."""
    own = pair.a.variation
    return ((own + trace(pair.b.scatter) - 2 * inner).clamp(min=0) / own).sqrt()


_SHAPE = "Williams et al., NeurIPS 2021"
_NOISE = "(8/(3 pi)) sqrt(d/n) for n much larger than d; it saturates towards 1 below"
COMPARISONS = (
    Comparison(
        name="procrustes",
        function=procrustes,
        formula="s = |Xc' Yc|_* / (|Xc|_F |Yc|_F)",
        citation="Schönemann, Psychometrika 31, 1966",
        high="1",
        most=1.0,
        enough=4,
        bias="upwards with sqrt(d/n); procrustes-held-out has none",
        noise=_NOISE,
    ),
    Comparison(
        name="procrustes-angle",
        function=procrustes_angle,
        formula="arccos(s), s the Procrustes similarity",
        citation=_SHAPE,
        high="pi/2",
        most=math.pi / 2,
        enough=4,
        bias="downwards with sqrt(d/n)",
        noise=f"arccos of {_NOISE}",
        unit="radians",
    ),
    Comparison(
        name="procrustes-disparity",
        function=procrustes_disparity,
        formula="1 - s^2, s the Procrustes similarity",
        citation="Gower, Psychometrika 40, 1975",
        high="1",
        most=1.0,
        enough=4,
        bias="downwards with d/n",
        noise="about 1 - 0.72 d/n for n much larger than d",
    ),
    Comparison(
        name="procrustes-held-out",
        function=procrustes_held_out,
        reads="folds",
        formula="tr(Q' Xc' Yc) / (|Xc|_F |Yc|_F), Q the best rotation of other samples",
        citation="Schönemann 1966, cross-fitted",
        low="about 0 (may be slightly negative)",
        high="1",
        least=-1.0,
        most=1.0,
        bias="none upwards; below the population's value as long as the rotation is uncertain (d/n)",
        noise="0",
    ),
    Comparison(
        name="identity-distance",
        directed=True,
        function=identity_distance,
        formula="|Xc - Yc|_F / |Xc|_F",
        citation="Ding, Denain & Steinhardt, arXiv 2108.01661 (Procrustes without the rotation)",
        high="unbounded",
        bias="none to first order",
        noise="sqrt(1 + tr Sb / tr Sa)",
        same_width=True,
    ),
    Comparison(
        name="rotation-gap",
        directed=True,
        function=rotation_gap,
        formula="(|Xc - Yc|_F - min_Q |Xc - Yc Q|_F) / |Xc|_F",
        citation="Schönemann 1966; Williams et al. 2021",
        high="the identity-aligned distance",
        enough=4,
        bias="upwards with sqrt(d/n)",
        noise="sqrt(2) - sqrt(2 - 2 s), s = (8/(3 pi)) sqrt(d/n), for equal variances",
        same_width=True,
    ),
)
