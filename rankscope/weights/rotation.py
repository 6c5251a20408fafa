r"""Rotation: by what angle tuning turned the leading singular subspaces of the weights, outputs and inputs apart.

The subspace of the k leading singular vectors is defined only if there is a gap between the k-th singular value and the
next, and how far a change turns it depends on that gap: by Wedin's theorem :math:`\sin\theta \le \lVert \Delta W \rVert /
\mathrm{gap}`, and a change larger than the gap may turn it by any angle. The gap is therefore reported with the angles, and
so is the angle by which full-rank noise of the same size turns the subspace.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition
from rankscope.linalg.angles import principal_angles
from rankscope.weights.decomposed import Decomposed


class Rotation(NamedTuple):
    """How far the two leading subspaces of weights turned, and how well they are defined."""

    left: Tensor
    """``(*,)`` mean principal angle between the left subspaces, in degrees; NaN where they are not defined or the whole space."""
    right: Tensor
    """``(*,)`` the same of the right subspaces."""
    edge: Tensor
    """``(*,)`` gap between the k-th singular value and the next, relative to the k-th; the smaller one of both matrices, and 0
    for a tie."""


def rotation(before: Decomposed, after: Decomposed, *, k: int) -> Rotation:
    r"""Mean principal angle between the leading singular subspaces of two matrices.

    .. math:: \frac{1}{k} \sum_{i=1}^{k} \theta_i, \qquad \cos\theta_i = \sigma_i(U_{0,k}^\top U_{1,k})

    It lies between 0° and 90°, and does not change when a matrix is scaled, or both are rotated alike. A mean is less at the
    mercy of the edge than the largest angle is: where the k-th vector and the next change places, one angle of k is 90°. A
    subspace that is the whole space cannot turn, and one that ends within a tie is not defined; both give NaN.

    Björck & Golub, "Numerical methods for computing angles between linear subspaces", Math. Comp. 27 (1973); the gap as in
    Wedin, "Perturbation bounds in connection with singular value decomposition", BIT 12 (1972).

    Args:
        before: decomposition of the pre-trained ``(*, m, n)`` weights.
        after: decomposition of the tuned weights.
        k: number of leading singular vectors; min(m, n) if that is smaller.
    """
    k = min(k, before.values.shape[-1])
    m, n = before.left.shape[-2], before.right.shape[-2]
    edges = [_edge(values, k, max(m, n)) for values in (before.values, after.values)]
    edge = torch.minimum(*edges)

    def angle(u: Tensor, v: Tensor) -> Tensor:
        mean = principal_angles(u[..., :k], v[..., :k]).mean(-1).rad2deg()
        return mean.where((edge > 0) & (k < u.shape[-2]), torch.nan)

    return Rotation(angle(before.left, after.left), angle(before.right, after.right), edge)


def _edge(values: Tensor, k: int, size: int) -> Tensor:
    """``(*,)`` relative gap behind the k-th of ``(*, r)`` singular values; 0 where rounding alone makes it."""
    last = values[..., k - 1]
    gap = last - (values[..., k] if k < values.shape[-1] else 0.0)
    # Singular values are known to within ε σ₁ max(m, n), as in LAPACK
    resolved = gap > values[..., 0] * size * torch.finfo(values.dtype).eps
    return torch.where(resolved, gap / last.where(resolved, 1), 0.0)


def _definition(side: str, vectors: str) -> WeightDefinition:
    return WeightDefinition(
        name=f"rotation-{side}",
        formula=f"mean principal angle between the spans of the k leading {side} singular vectors of W0 and of W1, k = 10",
        citation="Bjorck & Golub, Math. Comp. 27 (1973); the gap as in Wedin, BIT 12 (1972)",
        high="90",
        bias=f"none, as the weights are fully known, and so no interval; {vectors}: a change larger than the gap behind the k-th "
        "singular value (edge) may turn them by any angle; none for a tie there, or if they span the whole space",
        noise="reported with it: that of full-rank noise of the same norm as the change",
        unit="degrees",
    )


DEFINITIONS = (_definition("left", "directions of the outputs"), _definition("right", "directions of the inputs"))
