r"""Drift: how the features moved, row by row, :math:`\Delta = X^1 - X^0`.

Both runs are assumed to share a basis, as fine-tuned copies of one base do. The mean of :math:`\Delta` is a shift that
no centred measure detects; its covariance has directions and a rank of its own.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.comparisons.directions import at_direction
from rankscope.comparisons.requirements import require_pairs
from rankscope.comparisons.subspace import leading_subspace
from rankscope.definition import Comparison, width_of
from rankscope.linalg.forms import column_forms, trace
from rankscope.linalg.moments import PairMoments


class _Drift(NamedTuple):
    """Moments of Δ; quantities below the resolution of float64 sums are exactly zero."""

    mean: Tensor
    """``(*, d)`` mean of Δ."""
    covariance: Tensor
    """``(*, d, d)`` covariance of Δ, with n in the denominator."""
    shifted: Tensor
    """``(*,)`` squared norm of the mean."""
    spread: Tensor
    """``(*,)`` trace of the covariance."""

    @property
    def total(self) -> Tensor:
        """``(*,)`` E‖Δ‖²."""
        return self.shifted + self.spread


def _drift(pair: PairMoments) -> _Drift:
    """The moments of Δ = X¹ - X⁰, from those of both sides and of their products."""
    require_pairs("drift", pair, same_width=True)
    n, cross, eps = pair.a.rows, pair.cross_scatter, torch.finfo(pair.cross.dtype).eps
    # cov Δ = (S_aa + S_bb - S_ab - S_ba) / n, and the mean of Δ is that of b minus that of a, shifts included
    covariance = (pair.a.scatter + pair.b.scatter - cross - cross.mT) / n[..., None, None]
    mean = (pair.b.offset - pair.a.offset) + (pair.b.shift - pair.a.shift)
    # Rounding: sums of n products are uncertain by n ε of their size, a mean by n ε of a typical row and ε of the shift
    size = (trace(pair.a.second) + trace(pair.b.second)) / n
    far = pair.a.shift.square().sum() + pair.b.shift.square().sum()
    shifted, spread = mean.square().sum(-1), trace(covariance)
    shifted = shifted.where(shifted > (n * eps).square() * size + eps**2 * far, 0)
    return _Drift(mean, covariance, shifted, spread.where(spread > n * eps * size, 0))


def _share(part: Tensor, total: Tensor) -> Tensor:
    """``part / total``, 0 if the total is 0."""
    return part.where(total > 0, 0) / total.where(total > 0, 1)


def drift(pair: PairMoments) -> Tensor:
    r"""Relative drift :math:`\mathbf{E}\|\Delta\|^2 / \operatorname{tr} S_0`, including the shift of the mean.

    It is zero or more, and exactly 0 if the difference is below the resolution of float64 sums. It does not change when
    both sides are rotated, scaled or translated alike. NaN if the base does not vary.

    Kumar et al., "Fine-tuning can distort pretrained features", ICLR 2022 (feature distortion).

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values in units of the base's variance, float64.

    Raises:
        NotComparable: with fewer than 4 rows, or runs of different width.
    """
    return _drift(pair).total / (pair.a.variation / (pair.a.rows - 1))


def drift_mean_share(pair: PairMoments) -> Tensor:
    r"""Share of the drift that is a shift of the mean, :math:`\|\bar\Delta\|^2/\mathbf{E}\|\Delta\|^2`.

    It lies between 0 and 1, and is 0 without drift.

    Args and errors as :func:`drift`.

    Returns:
        ``(*,)`` values without unit, float64.
    """
    moved = _drift(pair)
    return _share(moved.shifted, moved.total)


def drift_per_component(pair: PairMoments) -> Tensor:
    r"""Drift along each principal direction of the base, :math:`\mathbf{E}(v_i^\top\Delta)^2/\lambda_i`.

    Args and errors as :func:`drift`.

    Returns:
        ``(*, d)`` values in units of the component's variance, the leading one first; infinite if the base has no
        variance there and the tuned run moved.
    """
    mean, covariance, *_ = _drift(pair)
    values, vectors = torch.linalg.eigh(pair.a.covariance)
    second = covariance + mean[..., :, None] * mean[..., None, :]  # E ΔΔᵀ
    squares = column_forms(vectors, second, vectors).clamp(min=0)
    return (squares / values.clamp(min=0)).flip(-1)


def drift_inside(pair: PairMoments, *, k: int | None = None) -> Tensor:
    r"""Share of the drift inside the base's leading subspace, :math:`\mathbf{E}\|V_k^\top\Delta\|^2/\mathbf{E}\|\Delta\|^2`.

    It lies between 0 and 1, is ``k/d`` for a drift without preferred direction, and 0 without drift.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.
        k: dimensions; :func:`~rankscope.comparisons.subspace.subspace_size` of the width by default.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than k + 1 rows, or runs of different width.
        UsageError: if k is not between 1 and d.
    """
    moved = _drift(pair)
    basis = leading_subspace(pair.a, k)
    spread = trace(basis.mT @ moved.covariance @ basis).where(moved.spread > 0, 0)
    shifted = (moved.mean[..., None, :] @ basis).square().sum((-2, -1)).where(moved.shifted > 0, 0)
    return _share(spread + shifted, moved.total)


def drift_rank(pair: PairMoments) -> Tensor:
    r"""Effective rank of the drift, :math:`\exp H` of the normalised eigenvalues of the covariance of :math:`\Delta`.

    It lies between 1 and d, and is 0 if nothing moved except the mean.

    Args and errors as :func:`drift`.

    Returns:
        ``(*,)`` numbers of dimensions, float64.
    """
    moved = _drift(pair)
    values = torch.linalg.eigvalsh(moved.covariance).clamp(min=0)
    shares = values / values.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp().where(moved.spread > 0, 0)


def drift_shares(pair: PairMoments) -> Tensor:
    r"""Share of the drift about its mean along each of its own principal directions, :math:`\lambda_i / \sum_j \lambda_j`.

    The :math:`\lambda_i` are the eigenvalues of the covariance of :math:`\Delta`. What the mean has of the whole is
    :func:`drift_mean_share`; were it counted here, a large one would hide that the rest has a preferred direction. The shares
    sum to 1, and all are 0 if nothing moved except the mean.

    Args and errors as :func:`drift`.

    Returns:
        ``(*, d)`` values without unit, the largest first, float64.
    """
    moved = _drift(pair)
    values = torch.linalg.eigvalsh(moved.covariance).flip(-1).clamp(min=0)
    return _share(values, moved.spread[..., None])


_SOURCE = "Kumar et al., ICLR 2022, arXiv 2202.10054 (feature distortion)"
_in_shared_basis = partial(Comparison, same_width=True)


def of_direction(direction: int) -> Comparison:
    """The drift along one principal direction of the base as a named number of two runs: ``drift-1``."""
    return _in_shared_basis(
        linear=False,
        name=f"drift-{direction}",
        directed=True,
        centred=None,
        function=at_direction(drift_per_component, direction),
        formula=f"E (v' D)^2 / v' S0 v, v the base's principal direction {direction}, D = X1 - X0 row by row",
        citation=_SOURCE,
        high="unbounded",
        bias="negligible for leading directions; any direction can be named: drift-2",
        noise="1 + (v' S1 v + (v' (m1 - m0))^2) / v' S0 v",
        unit="variances of the direction",
    )


def of_own_direction(direction: int) -> Comparison:
    """The share along one of the drift's own principal directions as a named number of two runs: ``drift-share-1``."""
    return _in_shared_basis(
        name=f"drift-share-{direction}",
        function=at_direction(drift_shares, direction, of="the drift"),
        formula=f"l / tr cov D, l the eigenvalue {direction} of cov D, D = X1 - X0 row by row",
        citation="Jolliffe, Principal Component Analysis, 2002, section 6.1.1, on the drift",
        high="1",
        most=1.0,
        bias="negligible where the direction stands out; where it does not, upwards with d/n, as the share of noise of the "
        "same shape shows; any direction can be named: drift-share-2",
        noise="the share of S0 + S1; for a drift without preferred direction near (1 + sqrt(d/n))^2 / d in the first",
        unit="share of the drift about its mean",
    )


COMPARISONS = (
    _in_shared_basis(
        name="drift",
        directed=True,
        centred=None,
        function=drift,
        formula="E|D|^2 / tr S0, D = X1 - X0 row by row",
        citation=_SOURCE,
        high="unbounded",
        bias="none in E|D|^2",
        noise="1 + tr S1 / tr S0 + |m1 - m0|^2 / tr S0",
        unit="variances of the base",
    ),
    _in_shared_basis(
        name="drift-mean-share",
        centred=None,
        function=drift_mean_share,
        formula="|mean D|^2 / E|D|^2, D = X1 - X0 row by row",
        citation=_SOURCE,
        high="1",
        most=1.0,
        bias="upwards by 1/n",
        noise="1/n for equal means",
    ),
    _in_shared_basis(
        name="drift-inside",
        directed=True,
        centred=None,
        function=drift_inside,
        takes=("k",),
        formula="E|Vk' D|^2 / E|D|^2, Vk the base's k leading directions, k = min(32, d/8)",
        citation=_SOURCE,
        high="1",
        most=1.0,
        bias="upwards if the drift is noise of the rows that determine the basis",
        noise="the mean of both runs' shares of variance inside Vk; k/d without preferred direction",
    ),
    _in_shared_basis(
        name="drift-rank",
        function=drift_rank,
        formula="exp(-sum p ln p), p the normalised eigenvalues of cov D, D = X1 - X0 row by row",
        citation="Giraldo, Rao & Principe, arXiv 1211.2459, on the covariance of the drift",
        high="d",
        least=1.0,
        most=width_of,
        of_nothing=0.0,
        bias="downwards with d/n",
        noise="the effective rank of S0 + S1",
        unit="dimensions",
    ),
    of_direction(1),
    of_own_direction(1),
)
