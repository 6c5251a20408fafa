r"""Subspaces: whether the base's leading directions are still the ones in use.

The leading subspace of a run is spanned by the ``k`` leading eigenvectors of its covariance. Its default size,
``min(32, d // 8)``, is a function of the width alone. A cut at a share of the energy would move by an integer between
jackknife replicates, folds and runs, and no interval would be valid. A cut at a fixed share of the *width* limits the
value expected by chance, ``k/d``, to an eighth, which leaves room above it. And 32 leading directions can be estimated
from a few hundred rows, whereas hundreds of directions cannot.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_pairs, require_same_width, require_subspace
from rankscope.definition import Comparison, Extent
from rankscope.linalg.angles import principal_angles
from rankscope.linalg.forms import squared_norm, trace
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.svd import leading_axes_of

LARGEST_SUBSPACE = 32
"""The default size of a leading subspace never exceeds this number of dimensions."""
CHANCE = 8
"""The default size is at most one dimension in this many, so chance gives at most its reciprocal."""


def subspace_size(width: int) -> int:
    """Default size of a leading subspace of ``width`` features: ``min(32, width // 8)``, at least 1."""
    return max(1, min(LARGEST_SUBSPACE, width // CHANCE))


def leading_subspace(moments: Moments, k: int | None = None) -> Tensor:
    """Orthonormal basis of the ``k`` leading principal directions.

    Args:
        moments: moments of one run, leading dimensions ``*``.
        k: dimensions; :func:`subspace_size` of the width by default.

    Returns:
        ``(*, d, k)`` columns, the leading one first.

    Raises:
        UsageError: if k is not between 1 and d.
        NotComparable: with fewer than k + 1 rows.
    """
    k = subspace_size(moments.width) if k is None else k
    require_subspace(k, moments.width, moments.rows)
    return leading_axes_of(moments, k)


def overlap_between(a: Moments, b: Moments, *, k: int | None = None) -> Tensor:
    r"""Overlap of two leading subspaces; the rows need not correspond.

    .. math:: \|U_k^\top V_k\|_F^2 / k = \tfrac1k\sum_i\cos^2\theta_i

    where :math:`\theta_i` are the principal angles. It lies between 0 and 1, is symmetric, and does not change when
    both sides are rotated alike. On two halves of one run it is the ceiling that a tuned run can reach. NaN if one side
    does not vary.

    Björck & Golub, "Numerical methods for computing angles between linear subspaces", Math. Comp. 27, 1973.

    Args:
        a: moments of the reference, leading dimensions ``*``.
        b: moments of the tuned run.
        k: dimensions; :func:`subspace_size` of the width by default.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: for runs of different width, or with fewer than k + 1 rows.
        UsageError: if k is not between 1 and d.
    """
    require_same_width(a.width, b.width, "the overlap of leading subspaces")
    u, v = leading_subspace(a, k), leading_subspace(b, k)
    return _if_both_vary(squared_norm(u.mT @ v) / u.shape[-1], a, b)


def _if_both_vary(values: Tensor, a: Moments, b: Moments) -> Tensor:
    """``(*,)`` values, NaN if one side does not vary and so has no leading subspace."""
    return values.where((a.variation > 0) & (b.variation > 0), torch.nan)


def overlap(pair: PairMoments, *, k: int | None = None) -> Tensor:
    """Overlap of the leading subspaces of two runs: :func:`overlap_between` of its sides."""
    return overlap_between(pair.a, pair.b, k=k)


def subspace_distance(pair: PairMoments, *, k: int | None = None) -> Tensor:
    r"""Arc length between the leading subspaces of two runs, :math:`(\sum_i\theta_i^2)^{1/2}`.

    It is the geodesic distance on the Grassmann manifold, lies between 0 and :math:`\tfrac\pi2\sqrt k`, and is accurate
    for small angles too. It does not change when both sides are rotated alike.

    Edelman, Arias & Smith, "The geometry of algorithms with orthogonality constraints", SIMAX 20, 1998, table 4.2.

    Args:
        pair: moments of two runs, leading dimensions ``*``.
        k: dimensions; :func:`subspace_size` of the width by default.

    Returns:
        ``(*,)`` lengths in radians, float64; NaN if one side does not vary.

    Raises:
        NotComparable: for runs of different width, or with fewer than k + 1 rows.
        UsageError: if k is not between 1 and d.
    """
    require_same_width(pair.a.width, pair.b.width, "the angles between leading subspaces")
    angles = principal_angles(leading_subspace(pair.a, k), leading_subspace(pair.b, k))
    return _if_both_vary(angles.square().sum(-1).sqrt(), pair.a, pair.b)


def variance_captured(fit: PairMoments, evaluate: PairMoments, *, k: int | None = None) -> Tensor:
    r"""Share of the tuned run's variance inside the base's leading subspace, cross-fitted.

    .. math:: EV_k = \operatorname{tr}(V_k^\top S_1 V_k) / \operatorname{tr} S_1

    where :math:`V_k` comes from the base on the rows of ``fit`` and :math:`S_1` from the tuned run on those of
    ``evaluate``. In-sample, the base would look better than it is by construction: a basis captures more of the rows
    that determined it. The share lies between 0 and 1, and a random rotation gives ``k/d``. The ceiling is the value of
    the base's own held-out rows, ``(PairMoments.itself(fit.a), PairMoments.itself(evaluate.a))``. NaN if a side does not vary.

    Args:
        fit: moments of the rows that determine the basis, leading dimensions ``*``.
        evaluate: moments of other samples.
        k: dimensions; :func:`subspace_size` of the width by default.

    Returns:
        ``(*,)`` values without unit, float64.

    Raises:
        NotComparable: for runs of different width, with fewer than k + 1 rows to fit or 4 to evaluate.
        UsageError: if k is not between 1 and d.
    """
    require_pairs("variance captured", evaluate, same_width=True)
    basis = leading_subspace(fit.a, k)
    inside = trace(basis.mT @ evaluate.b.scatter @ basis) / evaluate.b.variation
    return inside.where(fit.a.variation > 0, torch.nan)


def _many_directions(size: Extent) -> bool:
    """Whether the leading subspace has so many directions that a near-tie at its edge is a small part of it.

    Of few, one that swaps places with the next is much, and no derivative tells how much.
    """
    return subspace_size(size.width) == LARGEST_SUBSPACE


_of_subspaces = partial(Comparison, takes=("k",), same_width=True)

COMPARISONS = (
    _of_subspaces(
        name="overlap",
        function=overlap,
        aligned=False,
        linear=_many_directions,
        formula="|Uk' Vk|_F^2 / k, Uk and Vk the k leading principal directions, k = min(32, d/8)",
        citation="Björck & Golub, Math. Comp. 27, 1973; LoRA's phi, Hu et al., arXiv 2106.09685, section 7.2",
        high="1",
        most=1.0,
        bias="downwards: two halves of one run do not reach 1, and their value is the ceiling",
        noise="k/d",
    ),
    _of_subspaces(
        name="subspace-distance",
        function=subspace_distance,
        aligned=False,
        linear=_many_directions,
        formula="sqrt(sum_i t_i^2), t_i the principal angles between the k leading directions, k = min(32, d/8)",
        citation="Edelman, Arias & Smith, SIMAX 20, 1998, table 4.2",
        high="(pi/2) sqrt(k)",
        most=lambda size: math.pi / 2 * math.sqrt(size.width),
        bias="upwards: two halves of one run do not reach 0, and their value is the floor",
        noise="near (pi/2) sqrt(k), less as k/d grows",
        unit="radians",
    ),
    _of_subspaces(
        name="variance-captured",
        directed=True,
        function=variance_captured,
        reads="folds",
        formula="tr(Vk' S1 Vk) / tr S1, Vk the base's k leading directions on other samples, k = min(32, d/8)",
        citation="Jolliffe, Principal Component Analysis, 2002, cross-fitted",
        high="1 (in practice the base's own value on held-out rows)",
        most=1.0,
        bias="none upwards (cross-fitted); downwards as long as the basis is uncertain: compare it with its ceiling",
        noise="k/d",
    ),
)
