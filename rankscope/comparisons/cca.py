r"""Canonical correlations and their summaries: mean CCA with its exact null, SVCCA and PWCCA, from moments.

The canonical correlations :math:`\rho_i` of two feature sets are the singular values of :math:`S_{aa}^{-1/2} S_{ab}
S_{bb}^{-1/2}`. They do not change under *any* invertible map of either side, and so are large by chance alone: for
independent features :math:`\mathbf{E}\sum_i\rho_i^2 = pq/(n-1)` exactly, and with ``n - 1 ≤ d`` every correlation is 1.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_pairs
from rankscope.definition import Comparison, Extent
from rankscope.errors import NotComparable
from rankscope.linalg.moments import Moments, PairMoments

SVCCA_ENERGY = 0.99
"""Share of the variance that SVCCA keeps on each side (Raghu et al. 2017, section 2.1)."""


class Canonical(NamedTuple):
    """Canonical correlations, with the quantities that their summaries need."""

    correlations: Tensor
    """``(*, min(d_a, d_b))`` correlations in [0, 1], descending; 0 beyond the smaller rank."""
    weights: Tensor
    """``(*, min(d_a, d_b))`` share of the reference's features in each canonical variate, Σ_j |⟨h_i, x_j⟩|."""
    rank_a: Tensor
    """``(*,)`` number of dimensions of the reference that were used."""
    rank_b: Tensor
    """``(*,)`` number of dimensions of the tuned run that were used."""

    @property
    def pairs(self) -> Tensor:
        """``(*,)`` number of pairs of canonical variates, min(p, q), float64."""
        return torch.minimum(self.rank_a, self.rank_b).double()

    @property
    def mean(self) -> Tensor:
        """``(*,)`` mean canonical correlation."""
        return self.correlations.sum(-1) / self.pairs


def canonical(pair: PairMoments, *, energy: float | None = None) -> Canonical:
    """Canonical correlations of two runs.

    Directions whose variance float64 moments cannot distinguish from zero, below ``d ε λ₁``, are left out. With
    ``energy``, so are the trailing components of each side beyond that share of its variance.

    Hotelling, "Relations between two sets of variates", Biometrika 28, 1936; Björck & Golub 1973.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.
        energy: share of the variance to keep on each side, or None for all.

    Returns:
        The correlations, without unit, with the weights of PWCCA and the numbers of dimensions used.

    Raises:
        NotComparable: if there are fewer than 4 rows, or no more rows than dimensions: all correlations are then 1.
    """
    require_pairs("canonical correlation", pair)
    white_a, rank_a = _whitener(pair.a, energy)
    white_b, rank_b = _whitener(pair.b, energy)
    spare = pair.a.rows - 1 - torch.maximum(rank_a, rank_b)
    if (spare <= 0).any():
        raise NotComparable(
            f"canonical correlations of {int(pair.a.rows.min())} rows with {int(torch.maximum(rank_a, rank_b).max())} "
            "dimensions are all 1, whatever the features: take at least ten rows per dimension"
        )
    # With whiteners W Wᵀ = S⁻¹ on each side, the correlations are the singular values of W_aᵀ S_ab W_b
    u, rho, _ = torch.linalg.svd(white_a.mT @ pair.cross_scatter @ white_b, full_matrices=False)
    # α_i = Σ_j |⟨h_i, x_j⟩| with the variates h = X W_a u, so that ⟨h_i, x_j⟩ = (uᵀ W_aᵀ S_aa)_ij
    weights = (u.mT @ white_a.mT @ pair.a.scatter).abs().sum(-1)
    live = torch.arange(rho.shape[-1], device=rho.device) < torch.minimum(rank_a, rank_b)[..., None]
    return Canonical((rho.clamp(max=1) * live), weights * live, rank_a, rank_b)


def _whitener(moments: Moments, energy: float | None) -> tuple[Tensor, Tensor]:
    """``(*, d, d)`` columns v_i/√λ_i, zero for directions left out, and the ``(*,)`` number of the others."""
    values, vectors = torch.linalg.eigh(moments.scatter)
    values, vectors = values.flip(-1).clamp(min=0), vectors.flip(-1)
    keep = (moments.variation[..., None] > 0) & (
        values > values.shape[-1] * torch.finfo(values.dtype).eps * values[..., :1]
    )
    if energy is not None:
        before = values.cumsum(-1) - values
        keep &= before < energy * values.sum(-1, keepdim=True)
    scale = torch.where(keep, values, torch.inf).rsqrt()
    return vectors * scale[..., None, :], keep.sum(-1)


def cca(pair: PairMoments) -> Tensor:
    r"""Mean squared canonical correlation, :math:`\sum_i\rho_i^2 / \min(p, q)` (:math:`R^2_{CCA}`).

    It lies between 0 and 1 and does not change under invertible maps of either side. NaN if one side does not vary.

    Kornblith et al., ICML 2019, table 1.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 4 rows, or no more rows than dimensions.
    """
    found = canonical(pair)
    return found.correlations.square().sum(-1) / found.pairs


def cca_mean(pair: PairMoments) -> Tensor:
    r"""Mean canonical correlation, :math:`\sum_i\rho_i / \min(p, q)`.

    Args, range and errors as :func:`cca`.
    """
    return canonical(pair).mean


def cca_angle(pair: PairMoments) -> Tensor:
    r"""Angle between shapes up to any invertible map, the arc cosine of :func:`cca_mean`; a metric.

    It lies between 0 and π/2 radians. Values below about 1e-8 are rounding.

    Williams, Kunz, Kornblith & Linderman, "Generalized shape metrics on neural representations", NeurIPS 2021.

    Args and errors as :func:`cca`.
    """
    return cca_mean(pair).acos()


def cca_null(pair: PairMoments) -> Tensor:
    r"""Expected value of :func:`cca` for independent features, exactly :math:`\max(p, q)/(n - 1)`.

    Args, range and errors as :func:`cca`.
    """
    found = canonical(pair)
    return torch.maximum(found.rank_a, found.rank_b) / (pair.a.rows - 1).double()


def cca_adjusted(pair: PairMoments) -> Tensor:
    r"""Mean squared canonical correlation corrected for chance, :math:`(\overline{\rho^2} - \nu)/(1 - \nu)`.

    The null :math:`\nu` is :func:`cca_null`. It averages 0 for independent features and is 1 for features that are
    invertible maps of one another; it may be negative.

    Args and errors as :func:`cca`.
    """
    null = cca_null(pair)
    return (cca(pair) - null) / (1 - null)


def svcca(pair: PairMoments, *, energy: float = SVCCA_ENERGY) -> Tensor:
    r"""SVCCA: the mean canonical correlation of the leading components of each side.

    Each side is first reduced to the components that hold ``energy`` of its variance. It lies between 0 and 1, does not
    change under rotation, scaling and translation of either side, and jumps when a component crosses the cut.

    Raghu, Gilmer, Yosinski & Sohl-Dickstein, "SVCCA", NeurIPS 2017, section 2.1.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.
        energy: share of the variance to keep on each side.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 4 rows, or no more rows than kept components.
    """
    return canonical(pair, energy=energy).mean


def pwcca(pair: PairMoments) -> Tensor:
    r"""Projection-weighted CCA: canonical correlations weighted by how much of the reference they account for.

    .. math:: \sum_i \alpha_i\rho_i / \sum_i\alpha_i, \qquad \alpha_i = \sum_j |\langle h_i, x_j\rangle|

    where :math:`h_i` are the canonical variates and :math:`x_j` the features of the reference. It lies between 0 and 1.
    It is not symmetric, as the reference determines the weights, which are sums along its own axes: an invertible map
    of the tuned run changes nothing, a rotation of the reference does.

    Morcos, Raghu & Bengio, "Insights on representational similarity in neural networks with canonical correlation",
    NeurIPS 2018, equation 3.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than 4 rows, or no more rows than dimensions.
    """
    found = canonical(pair)
    return (found.weights * found.correlations).sum(-1) / found.weights.sum(-1)


def _least_adjusted(size: Extent) -> float:
    """The adjusted value where no direction correlates, -ν/(1 - ν) with the largest ν that n rows allow."""
    spare = size.rows - 1 - size.width
    return -size.width / spare if spare > 0 else -math.inf


_canonical = partial(Comparison, enough=10)

COMPARISONS = (
    _canonical(
        name="cca",
        function=cca,
        formula="sum_i rho_i^2 / min(p, q), rho = singular values of Saa^(-1/2) Sab Sbb^(-1/2)",
        citation="Hotelling 1936; Kornblith et al., ICML 2019, table 1 (R2_CCA)",
        bias="upwards by about d/(n - 1), which cca-adjusted removes; needs n of at least 10 d",
        noise="max(p, q)/(n - 1), exactly",
        high="1",
        most=1.0,
    ),
    _canonical(
        name="cca-adjusted",
        function=cca_adjusted,
        formula="(m - v)/(1 - v), m = mean squared canonical correlation, v = max(p, q)/(n - 1)",
        citation="Hotelling 1936, with the exact mean under independence",
        low="-d/(n - 1 - d) (slightly negative by chance)",
        high="1",
        least=_least_adjusted,
        most=1.0,
        bias="none under independence; slightly upwards for values between 0 and 1",
        noise="0",
    ),
    _canonical(
        name="cca-mean",
        function=cca_mean,
        formula="sum_i rho_i / min(p, q), rho the canonical correlations",
        citation="Hotelling 1936; Raghu et al., NeurIPS 2017, without its truncation",
        bias="upwards by chance, about sqrt(d/(n - 1)); needs n of at least 10 d",
        noise="at most sqrt(max(p, q)/(n - 1)), the root of cca",
        high="1",
        most=1.0,
    ),
    _canonical(
        name="cca-angle",
        function=cca_angle,
        formula="arccos(sum_i rho_i / min(p, q)), rho the canonical correlations",
        citation="Williams et al., NeurIPS 2021",
        bias="downwards by chance; needs n of at least 10 d",
        noise="at least arccos sqrt(max(p, q)/(n - 1))",
        high="pi/2",
        most=math.pi / 2,
        unit="radians",
    ),
    _canonical(
        name="svcca",
        linear=False,
        function=svcca,
        formula="mean canonical correlation of the components that hold 99 % of the variance of each side",
        citation="Raghu et al., NeurIPS 2017, section 2.1",
        bias="upwards by chance, about sqrt(k/(n - 1)) for k components kept; jumps when a component crosses the cut",
        noise="about sqrt(k/(n - 1))",
        high="1",
        most=1.0,
    ),
    _canonical(
        name="pwcca",
        directed=True,
        function=pwcca,
        formula="sum_i a_i rho_i / sum_i a_i, a_i = sum_j |<h_i, x_j>| over the reference's features x_j",
        citation="Morcos et al., NeurIPS 2018, eq. 3",
        bias="upwards by chance, about sqrt(d/(n - 1)); needs n of at least 10 d",
        noise="about sqrt(d/(n - 1)), more if the reference is anisotropic",
        high="1",
        most=1.0,
    ),
)
