r"""Recoverability: whether the base's principal scores can still be predicted from the tuned features.

Of the four phenomena called rank collapse this is the only one that means *lost information*: an invertible reshaping
leaves it intact, a projection destroys it. Scores :math:`z_i = v_i^\top(x^0 - \bar x^0)` of the base are predicted from
the tuned features by ridge regression fitted on other samples; in-sample, independent features would reach
:math:`R^2 = d/(n-1)`.

The ridge is the rounding noise of the stored features (:mod:`rankscope.comparisons.rounding`): a direction below it
cannot be read, even if the map is invertible in exact arithmetic.

Read it against the value of shuffled samples that ``compare`` prints as ``noise``. With token rows that is often well above 0:
shuffling exchanges whole samples, so the first row of one sample is paired with the first row of another, and both hold what all
first rows have in common. What the position alone recovers is no sign that anything of the text was kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rankscope.comparisons.directions import at_direction
from rankscope.comparisons.requirements import require_aligned, require_pairs
from rankscope.comparisons.rounding import rounding_scatter
from rankscope.definition import Comparison, width_of
from rankscope.errors import UsageError
from rankscope.linalg.forms import column_forms
from rankscope.linalg.moments import PairMoments

READABLE = 0.5
"""A component counts as recoverable when more than this share of its variance is predicted."""


@dataclass(frozen=True)
class Recoverability:
    """How much of the base can be predicted from the tuned features."""

    count: int
    """Number of the base's principal components of which more than half the variance is predicted."""
    weighted: float
    """Share of the base's variance that is predicted: R² of the components weighted by their held-out variance."""
    per_component: Tensor
    """``(d,)`` held-out R² of each principal component of the base, the leading one first; NaN for one without variance."""


def recoverability(
    x: Tensor, y: Tensor, *, sample: Tensor | None = None, folds: int = 2, dtype: torch.dtype | None = None
) -> Recoverability:
    """How much of the base's principal scores can be predicted from the tuned features, cross-fitted.

    Each of ``folds`` sets of samples is predicted by a ridge regression fitted on the others, and R² is averaged over
    the sets. It is at most 1, and changes neither under invertible maps of ``y`` (up to rounding) nor under rotation,
    scaling and translation of ``x``.

    Args:
        x: ``(n, d_a)`` features of the base, a tensor or an array.
        y: ``(n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row, so that no sample is both fitted and predicted; by default every row
            is its own sample.
        folds: number of sets, at least 2.
        dtype: the dtype in which the features were stored, which determines the ridge; by default that of ``y``.

    Returns:
        The number of recoverable components, the share of variance recovered and R² of each component.

    Raises:
        NotComparable: if the numbers of rows differ, or a fold has fewer than 4 rows.
        UsageError: with fewer than 2 folds, or if x or y is not a matrix of a floating dtype.
    """
    x, y = _features(x), _features(y)
    sample = torch.arange(len(x), device=x.device) if sample is None else sample
    require_aligned(x, y, sample, "recoverability")
    if folds < 2:
        raise UsageError(f"cross-fitting needs at least 2 folds; got {folds}")
    place = torch.unique(sample, return_inverse=True)[1] % folds
    parts = PairMoments.of(x, y, shift_a=x.double().mean(0), shift_b=y.double().mean(0), group=place, groups=folds)
    dtype = y.dtype if dtype is None else dtype
    total = parts.sum(0)
    rest = total - parts
    r2 = recovered(rest, parts, dtype=dtype).mean(0)
    share = recovered_share(rest, parts, dtype=dtype).mean()
    return Recoverability(int(readable_count(r2)), float(share), r2)


def _features(x: Any) -> Tensor:
    """A tensor or an array as an ``(n, d)`` tensor of a floating dtype."""
    x = torch.as_tensor(x)
    if x.ndim != 2 or not x.is_floating_point():
        raise UsageError(f"recoverability needs (n, d) features of a floating dtype; got {tuple(x.shape)} of {x.dtype}")
    return x


def recovered(
    fit: PairMoments, evaluate: PairMoments, *, dtype: torch.dtype = torch.float32, width: int | None = None
) -> Tensor:
    r"""Held-out :math:`R^2` of each principal score of the base, predicted from the tuned features.

    .. math:: R_i^2 = 1 - \sum_{\text{evaluate}}(z_i - \hat z_i)^2 \Big/ \sum_{\text{evaluate}}(z_i - \bar z_i)^2

    The directions are those of the base on the rows of both parts; the regression, including its intercept, is fitted
    on ``fit``. R² is at most 1, and negative if the prediction is worse than the mean: about :math:`-d/(n-d)` for
    independent features.

    Args:
        fit: moments of the rows on which the regression is fitted, leading dimensions ``*``.
        evaluate: moments of other samples, about the same shifts.
        dtype: the dtype in which the features were stored; its rounding is the ridge.
        width: the number of tuned features, if the moments are over fewer coordinates in which all rows lie.

    Returns:
        ``(*, d_a)`` values without unit, the leading component first; NaN for a component without variance.

    Raises:
        NotComparable: with fewer than 4 rows in either part.
        UsageError: if the two parts were summed about different shifts.
    """
    weights = _regression(fit, evaluate, dtype, width)
    basis = torch.linalg.eigh((fit.a + evaluate.a).scatter).eigenvectors.flip(-1)
    weights, offset = weights @ basis, (_offset(fit, evaluate, weights) @ basis).squeeze(-2)
    # Σ(z - ẑ)² = Σ(z - z̄)² - 2 vᵀS_ab w + wᵀS_b w + n (mean error)², for a direction v and its coefficients w
    total = column_forms(basis, evaluate.a.scatter, basis)
    cross = column_forms(basis, evaluate.cross_scatter, weights)
    explained = 2 * cross - column_forms(weights, evaluate.b.scatter, weights)
    floor = fit.a.width * torch.finfo(total.dtype).eps * evaluate.a.variation[..., None]
    r2 = (explained - evaluate.a.rows[..., None] * offset.square()) / total
    return r2.where(total > floor, torch.nan)


def _regression(fit: PairMoments, evaluate: PairMoments, dtype: torch.dtype, width: int | None) -> Tensor:
    """``(*, d_b, d_a)`` ridge coefficients (S_b + ρI)⁻¹ S_ba from the tuned features to the base's."""
    require_pairs("recoverability", fit, evaluate)
    ridge = rounding_scatter(fit.b, dtype, width=width)
    ridge = ridge.where(ridge > 0, 1)[..., None, None]
    if bool((fit.b.rows > fit.b.width).all()):
        identity = torch.eye(fit.b.width, dtype=ridge.dtype, device=ridge.device)
        return torch.linalg.solve(fit.b.scatter + ridge * identity, fit.cross_scatter.mT)
    # Fewer rows leave directions that none of them reaches. Of the scatter there only rounding is left, which divided by
    # the ridge would be coefficients: they are 0, which is the limit of an exact ridge.
    values, vectors = torch.linalg.eigh(fit.b.scatter)
    values = values[..., None]
    spent = fit.b.width * torch.finfo(values.dtype).eps * values.abs().amax(-2, keepdim=True)
    shrunk = (1 / (values + ridge)).where(values > spent, 0)
    return vectors @ (shrunk * (vectors.mT @ fit.cross_scatter.mT))


def _offset(fit: PairMoments, evaluate: PairMoments, weights: Tensor) -> Tensor:
    """``(*, 1, d_a)`` mean prediction error on the rows to evaluate, due to the intercept of those to fit."""
    moved_a, moved_b = (evaluate.a.offset - fit.a.offset, evaluate.b.offset - fit.b.offset)
    return moved_a[..., None, :] - moved_b[..., None, :] @ weights


def recovered_share(
    fit: PairMoments, evaluate: PairMoments, *, dtype: torch.dtype = torch.float32, width: int | None = None
) -> Tensor:
    r"""Share of the base's variance that is predicted from the tuned features of other samples.

    .. math:: 1 - \sum\|x^0 - \hat x^0\|^2 \Big/ \sum\|x^0 - \bar x^0\|^2

    It is the mean of :func:`recovered` weighted by held-out variance, and needs no basis. It is at most 1, and negative
    for uninformative features. NaN if the base does not vary.

    Args and errors as :func:`recovered`.

    Returns:
        ``(*,)`` values without unit, float64.
    """
    weights = _regression(fit, evaluate, dtype, width)
    # The same expansion as in :func:`recovered`, summed over all features instead of directions
    explained = (weights * (2 * evaluate.cross_scatter.mT - evaluate.b.scatter @ weights)).sum((-2, -1))
    missed = evaluate.a.rows * _offset(fit, evaluate, weights).square().sum((-2, -1))
    return (explained - missed) / evaluate.a.variation


def readable_count(r2: Tensor) -> Tensor:
    """Number of the base's principal components of which more than half the variance is predicted.

    Args:
        r2: ``(*, d_a)`` the :func:`recovered` of each, averaged over the folds.

    Returns:
        ``(*,)`` whole numbers between 0 and d_a, float64.
    """
    return (r2 > READABLE).sum(-1).double()


_SOURCE = "held-out R2 (Hoerl & Kennard 1970 for the ridge) of the base's principal scores"
_BIAS = "none upwards (cross-fitted); downwards by about (1 - R2) d/(n - d): the base itself gives the ceiling"
_NOISE = (
    "-d/(n - d - 2) with n rows to fit, so 0 or below, if rows share nothing; above 0 for token rows, because those at one position "
    "of all samples share its mean, which can be read whatever the sample"
)
_from_folds = partial(Comparison, reads="folds", directed=True, takes=("dtype", "width"), citation=_SOURCE)


def of_direction(direction: int) -> Comparison:
    """The recoverability of one principal score as a named number of two runs: ``recoverability-1``."""
    return _from_folds(
        linear=False,
        name=f"recoverability-{direction}",
        function=at_direction(recovered, direction),
        formula=f"held-out ridge R2 of the base's principal score {direction}",
        low="unbounded (negative for uninformative features)",
        high="1",
        least=-math.inf,
        most=1.0,
        bias=f"{_BIAS}; any direction can be named: recoverability-2",
        noise=_NOISE,
    )


COMPARISONS = (
    _from_folds(
        name="recoverability",
        function=recovered_share,
        formula="sum_i l_i R2_i / sum_i l_i, R2_i = held-out ridge R2 of the base's i-th principal score, l_i its variance",
        low="unbounded (negative for uninformative features)",
        high="1",
        least=-math.inf,
        most=1.0,
        bias=_BIAS,
        noise=_NOISE,
    ),
    _from_folds(
        name="recoverable-components",
        function=recovered,
        summary=readable_count,
        step=1.0,
        formula="#{i: R2_i > 1/2}, R2_i = held-out ridge R2 of the base's i-th principal score, averaged over the folds",
        high="d",
        most=width_of,
        bias=_BIAS,
        noise="0 if rows share nothing; for token rows, the components that the position alone tells",
        unit="dimensions",
    ),
    of_direction(1),
)
