r"""Drift: where the features went, row by row, :math:`\Delta = X^1 - X^0`.

Both runs are taken to share their basis, as fine-tuned copies of one base do. The mean of :math:`\Delta` is a shift that
no centred measure sees; its covariance has directions and a rank of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.compare.requirements import require_rows, require_same_width
from rankscope.compare.subspace import leading_subspace, subspace_size
from rankscope.compare.variation import trace, variation
from rankscope.definition import Comparison
from rankscope.linalg.moments import PairMoments


def _mean(pair: PairMoments) -> Tensor:
    """``(*, d)`` mean of Δ."""
    require_rows(pair.a.rows, 4, "drift")
    require_same_width(pair.a.width, pair.b.width, "drift")
    return pair.b.mean - pair.a.mean


def _covariance(pair: PairMoments) -> Tensor:
    """``(*, d, d)`` covariance of Δ with n in the denominator."""
    cross = pair.cross_scatter
    return (pair.a.scatter + pair.b.scatter - cross - cross.mT) / pair.a.rows[..., None, None]


def _squared(pair: PairMoments) -> Tensor:
    """``(*,)`` E‖Δ‖², exactly 0 where float64 sums cannot tell it from 0."""
    total = trace(_covariance(pair)) + _mean(pair).square().sum(-1)
    size = (trace(pair.a.second) + trace(pair.b.second)) / pair.a.rows
    return total.where(total > pair.a.rows * torch.finfo(total.dtype).eps * size, 0)


def drift(pair: PairMoments) -> Tensor:
    r"""Relative drift :math:`\mathbf{E}\|\Delta\|^2 / \operatorname{tr} S_0`, the mean's shift included.

    Zero or more; exactly 0 where the difference is below what float64 sums resolve, ``n ε`` of their size. Unchanged
    when both sides are rotated, scaled or moved alike. NaN where the base does not vary.

    Kumar et al., "Fine-tuning can distort pretrained features", ICLR 2022 (feature distortion).

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.

    Returns:
        ``(*,)`` values in units of the base's variance, float64.

    Raises:
        NotComparable: with fewer than 4 rows, or runs of different width.
    """
    return _squared(pair) / (variation(pair.a) / (pair.a.rows - 1))


def drift_mean_share(pair: PairMoments) -> Tensor:
    r"""Share of the drift that is a shift of the mean, :math:`\|\bar\Delta\|^2/\mathbf{E}\|\Delta\|^2`.

    Between 0 and 1; 0 where nothing drifted.

    Args and errors as :func:`drift`.

    Returns:
        ``(*,)`` values without unit, float64.
    """
    total = _squared(pair)
    return _mean(pair).square().sum(-1).where(total > 0, 0) / total.where(total > 0, 1)


def drift_per_component(pair: PairMoments) -> Tensor:
    r"""Drift along each principal direction of the base, :math:`\mathbf{E}(v_i^\top\Delta)^2/\lambda_i`.

    Args and errors as :func:`drift`.

    Returns:
        ``(*, d)`` values in units of the component's variance, the leading one first; infinite where the base has no
        variance and the tuned run moved.
    """
    mean = _mean(pair)
    values, vectors = torch.linalg.eigh(pair.a.covariance)
    moved = _covariance(pair) + mean[..., :, None] * mean[..., None, :]
    along = (vectors * (moved @ vectors)).sum(-2).clamp(min=0)
    return (along / values.clamp(min=0)).flip(-1)


def drift_inside(pair: PairMoments, *, k: int | None = None) -> Tensor:
    r"""Share of the drift inside the base's leading subspace, :math:`\mathbf{E}\|V_k^\top\Delta\|^2/\mathbf{E}\|\Delta\|^2`.

    Between 0 and 1, ``k/d`` for a drift without preferred direction; 0 where nothing drifted.

    Args:
        pair: moments of two runs on the same rows, leading dimensions ``*``.
        k: dimensions; :func:`~rankscope.compare.subspace.subspace_size` of the width by default.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: with fewer than k + 1 rows, or runs of different width.
        UsageError: if k is not between 1 and d.
    """
    mean, total = _mean(pair)[..., None, :], _squared(pair)
    basis = leading_subspace(pair.a, subspace_size(mean.shape[-1]) if k is None else k)
    inside = trace(basis.mT @ _covariance(pair) @ basis) + (mean @ basis).square().sum((-2, -1))
    return inside.where(total > 0, 0) / total.where(total > 0, 1)


def drift_rank(pair: PairMoments) -> Tensor:
    r"""Effective rank of the drift, :math:`\exp H` of the normalised eigenvalues of the covariance of :math:`\Delta`.

    Between 1 and d; 0 where nothing drifted but the mean.

    Args and errors as :func:`drift`.

    Returns:
        ``(*,)`` numbers of dimensions, float64.
    """
    total, shifted = _squared(pair), _mean(pair).square().sum(-1)
    values = torch.linalg.eigvalsh(_covariance(pair)).clamp(min=0)
    spread = values.sum(-1, keepdim=True)
    moved = (total > 0) & (total - shifted > pair.a.rows * torch.finfo(total.dtype).eps * total)
    return torch.special.entr(values / spread).sum(-1).exp().where(moved, 0)


_SOURCE = "Kumar et al., ICLR 2022, arXiv 2202.10054 (feature distortion)"
COMPARISONS = (
    Comparison(
        name="drift",
        function=drift,
        reads="moments",
        formula="E|D|^2 / tr S0, D = X1 - X0 row by row",
        citation=_SOURCE,
        low="0",
        high="unbounded",
        bias="none in E|D|^2",
        noise="1 + tr S1 / tr S0 + |m1 - m0|^2 / tr S0",
        unit="variances of the base",
        same_width=True,
    ),
    Comparison(
        name="drift-mean-share",
        function=drift_mean_share,
        reads="moments",
        formula="|mean D|^2 / E|D|^2, D = X1 - X0 row by row",
        citation=_SOURCE,
        low="0",
        high="1",
        bias="upwards by 1/n",
        noise="1/n for equal means",
        same_width=True,
    ),
    Comparison(
        name="drift-inside",
        function=drift_inside,
        reads="moments",
        formula="E|Vk' D|^2 / E|D|^2, Vk the base's k leading directions, k = min(32, d/8)",
        citation=_SOURCE,
        low="0",
        high="1",
        bias="upwards where the drift is noise of the rows that give the basis",
        noise="the mean of the variances that both runs have inside Vk; k/d without preferred direction",
        same_width=True,
    ),
    Comparison(
        name="drift-rank",
        function=drift_rank,
        reads="moments",
        formula="exp(-sum p ln p), p the normalised eigenvalues of cov D, D = X1 - X0 row by row",
        citation="Giraldo, Rao & Principe, arXiv 1211.2459, on the covariance of the drift",
        low="0",
        high="d",
        bias="downwards with d/n",
        noise="the effective rank of S0 + S1",
        unit="dimensions",
        same_width=True,
    ),
)
