r"""Distances between two clouds as Gaussians in one basis: Bures, Fréchet, and the affine-invariant distance.

The rows need not align; the number of rows should be equal, as each covariance is biased by its own. Neither is
unchanged when only one side is rotated, by design: a rotated base is a different cloud.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_rows, require_same_width
from rankscope.comparisons.rounding import rounding_scatter
from rankscope.comparisons.variation import trace, variation
from rankscope.definition import Comparison
from rankscope.linalg.moments import PairMoments


def bures(pair: PairMoments) -> Tensor:
    r"""Bures distance of the covariances, squared.

    .. math:: \operatorname{tr} S_0 + \operatorname{tr} S_1 - 2\operatorname{tr}(S_0^{1/2} S_1 S_0^{1/2})^{1/2}

    Zero or more; scales with the square of the features; unchanged when both sides are rotated alike.

    Bures 1969; Bhatia, Jain & Lim, "On the Bures–Wasserstein distance", Expo. Math. 37, 2019.

    Args:
        pair: moments of two runs, leading dimensions ``*``.

    Returns:
        ``(*,)`` squared distances in squared units of the features, float64.

    Raises:
        NotComparable: with fewer than 4 rows, or runs of different width.
    """
    require_rows(torch.minimum(pair.a.rows, pair.b.rows), 4, "the Bures distance")
    require_same_width(pair.a.width, pair.b.width, "the Bures distance")
    fidelity = torch.linalg.svdvals(_root(pair.a.covariance) @ _root(pair.b.covariance)).sum(-1)
    return (trace(pair.a.covariance) + trace(pair.b.covariance) - 2 * fidelity).clamp(min=0)


def frechet(pair: PairMoments) -> Tensor:
    r"""Fréchet distance of the clouds as Gaussians, squared: :func:`bures` plus :math:`\|\bar x_1 - \bar x_0\|^2`.

    Dowson & Landau, J. Multivariate Anal. 12, 1982; Heusel et al., NeurIPS 2017 (FID).

    Args, range and errors as :func:`bures`.
    """
    return bures(pair) + (pair.b.mean - pair.a.mean).square().sum(-1)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ (values.clamp(min=0).sqrt()[..., None] * vectors.mT)


def generalised_eigenvalues(
    pair: PairMoments, *, dtype: torch.dtype = torch.float32, width: int | None = None
) -> Tensor:
    r"""Amplification of each direction, the eigenvalues of :math:`(S_1 + \epsilon I, S_0 + \epsilon I)`.

    They are 1 where nothing changed, above 1 along amplified and below along suppressed directions; unchanged when one
    invertible map is applied to both sides, down to the ridge.

    Args:
        pair: moments of two runs, leading dimensions ``*``.
        dtype: the dtype that the features were stored in; :math:`\epsilon` is the variance that its rounding puts into
            every direction of the base, so that directions below it in both runs count as unchanged.
        width: d, where the moments are of fewer coordinates that hold all rows; in the others nothing changes.

    Returns:
        ``(*, d)`` ratios of variances, descending; NaN where the base does not vary.

    Raises:
        NotComparable: with fewer than 4 rows, or runs of different width.
    """
    require_rows(torch.minimum(pair.a.rows, pair.b.rows), 4, "generalised eigenvalues")
    require_same_width(pair.a.width, pair.b.width, "generalised eigenvalues")
    values, vectors = torch.linalg.eigh(pair.a.covariance)
    defined = variation(pair.a) > 0
    floor = (rounding_scatter(pair.a, dtype, width=width) / (pair.a.rows - 1)).where(defined, 1)[..., None]
    white = vectors / (values.clamp(min=0) + floor).sqrt()[..., None, :]
    ridged = pair.b.covariance + floor[..., None] * torch.eye(pair.a.width, dtype=values.dtype, device=values.device)
    least = floor / (values[..., -1:].clamp(min=0) + floor)  # what no ratio is below; rounding can be
    found = torch.maximum(torch.linalg.eigvalsh(white.mT @ ridged @ white).flip(-1), least)
    return found.where(defined[..., None], torch.nan)


def affine_distance(pair: PairMoments, *, dtype: torch.dtype = torch.float32, width: int | None = None) -> Tensor:
    r"""Affine-invariant distance of the covariances, :math:`(\sum_i\ln^2\gamma_i)^{1/2}`.

    With :math:`\gamma_i` the :func:`generalised_eigenvalues`. Zero or more; NaN where the base does not vary.

    Pennec, Fillard & Ayache, "A Riemannian framework for tensor computing", IJCV 66, 2006.

    Args and errors as :func:`generalised_eigenvalues`.

    Returns:
        ``(*,)`` distances in natural logarithms, float64.
    """
    return generalised_eigenvalues(pair, dtype=dtype, width=width).log().square().sum(-1).sqrt()


COMPARISONS = (
    Comparison(
        name="bures",
        function=bures,
        aligned=False,
        formula="tr S0 + tr S1 - 2 tr (S0^(1/2) S1 S0^(1/2))^(1/2)",
        citation="Bures 1969; Bhatia, Jain & Lim, Expo. Math. 37, 2019",
        high="unbounded",
        enough=4,
        bias="upwards with d/n; at equal n it is shared",
        noise="two independent sets of the same covariance: about tr S d/(4 n) each side",
        unit="squared features",
        same_width=True,
    ),
    Comparison(
        name="frechet",
        function=frechet,
        aligned=False,
        formula="|m1 - m0|^2 + tr S0 + tr S1 - 2 tr (S0^(1/2) S1 S0^(1/2))^(1/2)",
        citation="Dowson & Landau, J. Multivariate Anal. 12, 1982; Heusel et al., NeurIPS 2017",
        high="unbounded",
        enough=4,
        bias="upwards with d/n; at equal n it is shared",
        noise="as bures, plus (tr S0 + tr S1)/n",
        unit="squared features",
        same_width=True,
    ),
    Comparison(
        name="affine-distance",
        function=affine_distance,
        aligned=False,
        takes=("dtype", "width"),
        formula="sqrt(sum_i ln^2 g_i), g_i the eigenvalues of (S1 + e I, S0 + e I), e the rounding noise of the stored dtype",
        citation="Pennec, Fillard & Ayache, IJCV 66, 2006",
        high="unbounded",
        enough=10,
        bias="upwards with d/n and strongly so at n below 10 d",
        noise="of order sqrt(2/n) d for independent sets of the same covariance",
        unit="nats",
        same_width=True,
    ),
)
