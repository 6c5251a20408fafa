r"""Distances between two clouds as Gaussians in one basis: Bures, Fréchet, and the affine-invariant distance.

The rows need not correspond, but their number should be equal, since it biases each covariance. All of them change when
only one side is rotated, by design: a rotated base is a different cloud.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_pairs
from rankscope.comparisons.rounding import rounding_scatter
from rankscope.definition import Comparison
from rankscope.linalg.forms import trace
from rankscope.linalg.moments import PairMoments


def bures(pair: PairMoments) -> Tensor:
    r"""Squared Bures distance of the covariances.

    .. math:: \operatorname{tr} S_0 + \operatorname{tr} S_1 - 2\operatorname{tr}(S_0^{1/2} S_1 S_0^{1/2})^{1/2}

    It is zero or more, scales with the square of the features, and does not change when both sides are rotated alike.

    Bures 1969; Bhatia, Jain & Lim, "On the Bures–Wasserstein distance", Expo. Math. 37, 2019.

    Args:
        pair: moments of two runs, leading dimensions ``*``.

    Returns:
        ``(*,)`` squared distances in squared units of the features, float64.

    Raises:
        NotComparable: with fewer than 4 rows, or runs of different width.
    """
    require_pairs("the Bures distance", pair, same_width=True)
    # tr (S₀^½ S₁ S₀^½)^½ is the nuclear norm of S₀^½ S₁^½, whose singular values are computed without another root
    fidelity = torch.linalg.svdvals(_root(pair.a.covariance) @ _root(pair.b.covariance)).sum(-1)
    return (trace(pair.a.covariance) + trace(pair.b.covariance) - 2 * fidelity).clamp(min=0)


def frechet(pair: PairMoments) -> Tensor:
    r"""Squared Fréchet distance of the clouds as Gaussians: :func:`bures` plus :math:`\|\bar x_1 - \bar x_0\|^2`.

    Dowson & Landau, J. Multivariate Anal. 12, 1982; Heusel et al., NeurIPS 2017 (FID).

    Args, range and errors as :func:`bures`.
    """
    return bures(pair) + (pair.b.mean - pair.a.mean).square().sum(-1)


def _root(covariance: Tensor) -> Tensor:
    """Symmetric square root of ``(*, d, d)`` covariances."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ (values.clamp(min=0).sqrt()[..., None] * vectors.mT)


def generalised_eigenvalues(
    pair: PairMoments, *, dtype: torch.dtype = torch.float32, width: int | None = None
) -> Tensor:
    r"""Amplification of each direction, the eigenvalues of :math:`(S_1 + \epsilon I, S_0 + \epsilon I)`.

    They are 1 where nothing changed, above 1 along amplified and below 1 along suppressed directions. Apart from the
    ridge, they do not change when one invertible map is applied to both sides.

    Args:
        pair: moments of two runs, leading dimensions ``*``.
        dtype: the dtype in which the features were stored; :math:`\epsilon` is the variance that its rounding adds to every
            direction of the base, so directions below it in both runs count as unchanged.
        width: d, if the moments are over fewer coordinates in which all rows lie; the other coordinates do not change.

    Returns:
        ``(*, d)`` ratios of variances, descending; NaN if the base does not vary.

    Raises:
        NotComparable: with fewer than 4 rows, or runs of different width.
    """
    require_pairs("generalised eigenvalues", pair, same_width=True)
    values, vectors = torch.linalg.eigh(pair.a.covariance)
    defined = pair.a.variation > 0
    floor = (rounding_scatter(pair.a, dtype, width=width) / (pair.a.rows - 1)).where(defined, 1)[..., None]
    # With W Wᵀ = (S₀ + εI)⁻¹ the generalised eigenvalues are those of Wᵀ (S₁ + εI) W
    white = vectors / (values.clamp(min=0) + floor).sqrt()[..., None, :]
    ridged = pair.b.covariance + floor[..., None] * torch.eye(pair.a.width, dtype=values.dtype, device=values.device)
    least = floor / (
        values[..., -1:].clamp(min=0) + floor
    )  # ε/(λ₁ + ε), a lower bound of every ratio that rounding could undercut
    found = torch.maximum(torch.linalg.eigvalsh(white.mT @ ridged @ white).flip(-1), least)
    return found.where(defined[..., None], torch.nan)


def affine_distance(pair: PairMoments, *, dtype: torch.dtype = torch.float32, width: int | None = None) -> Tensor:
    r"""Affine-invariant distance of the covariances, :math:`(\sum_i\ln^2\gamma_i)^{1/2}`.

    The :math:`\gamma_i` are the :func:`generalised_eigenvalues`. It is zero or more; NaN if the base does not vary.

    Pennec, Fillard & Ayache, "A Riemannian framework for tensor computing", IJCV 66, 2006.

    Args and errors as :func:`generalised_eigenvalues`.

    Returns:
        ``(*,)`` distances in natural logarithms, float64.
    """
    return generalised_eigenvalues(pair, dtype=dtype, width=width).log().square().sum(-1).sqrt()


_of_clouds = partial(Comparison, aligned=False, high="unbounded", same_width=True)

COMPARISONS = (
    _of_clouds(
        name="bures",
        function=bures,
        formula="tr S0 + tr S1 - 2 tr (S0^(1/2) S1 S0^(1/2))^(1/2)",
        citation="Bures 1969; Bhatia, Jain & Lim, Expo. Math. 37, 2019",
        enough=4,
        bias="upwards with d/n; at equal n both runs share it",
        noise="for two independent sets of the same covariance, about tr S d/(4 n) from each side",
        unit="squared features",
        degree=2,
    ),
    _of_clouds(
        name="frechet",
        centred=None,
        function=frechet,
        formula="|m1 - m0|^2 + tr S0 + tr S1 - 2 tr (S0^(1/2) S1 S0^(1/2))^(1/2)",
        citation="Dowson & Landau, J. Multivariate Anal. 12, 1982; Heusel et al., NeurIPS 2017",
        enough=4,
        bias="upwards with d/n; at equal n both runs share it",
        noise="that of bures, plus (tr S0 + tr S1)/n",
        unit="squared features",
        degree=2,
    ),
    _of_clouds(
        name="affine-distance",
        function=affine_distance,
        takes=("dtype", "width"),
        formula="sqrt(sum_i ln^2 g_i), g_i the eigenvalues of (S1 + e I, S0 + e I), e the rounding noise of the stored dtype",
        citation="Pennec, Fillard & Ayache, IJCV 66, 2006",
        enough=10,
        bias="upwards with d/n, strongly for n below 10 d",
        noise="of order sqrt(2/n) d for independent sets of the same covariance",
        unit="nats",
    ),
)
