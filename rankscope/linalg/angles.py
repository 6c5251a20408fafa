"""Principal angles between subspaces, exact for small angles too."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.errors import UsageError


def principal_angles(u: Tensor, v: Tensor) -> Tensor:
    r"""Principal angles between the spans of the columns of two matrices, ascending.

    The cosines are the singular values of :math:`Q_u^\top Q_v`; an angle below 45° is computed from its sine instead, a
    singular value of :math:`Q_v - Q_u Q_u^\top Q_v`, because the arc cosine loses half the digits near 1. The angles
    lie between 0 and π/2, and depend neither on the bases chosen nor on a rotation of both subspaces together.

    Björck & Golub, "Numerical methods for computing angles between linear subspaces", Math. Comp. 27 (1973); the
    choice of branch follows Knyazev & Argentati, SIAM J. Sci. Comput. 23 (2002), algorithm 3.1.

    Args:
        u: ``(*, d, k)`` independent columns.
        v: ``(*, d, m)`` independent columns.

    Returns:
        ``(*, min(k, m))`` angles in radians, float64, ascending.

    Raises:
        UsageError: if the widths d differ, or columns are linearly dependent.
    """
    if u.shape[-2] != v.shape[-2]:
        raise UsageError(f"angles need two subspaces of one space; these have d = {u.shape[-2]} and {v.shape[-2]}")
    if u.shape[-1] < v.shape[-1]:
        u, v = v, u
    q_u, q_v = _basis(u), _basis(v)
    cosines = q_u.mT @ q_v
    sines = torch.linalg.svdvals(q_v - q_u @ cosines).flip(-1)
    cosines = torch.linalg.svdvals(cosines)
    small = cosines.square() >= 0.5  # below 45° the sine is the better conditioned of the two
    return torch.where(small, sines.clamp(0, 1).asin(), cosines.clamp(0, 1).acos())


def _basis(a: Tensor) -> Tensor:
    """Orthonormal basis of the span of ``(*, d, k)`` columns."""
    if a.shape[-1] > a.shape[-2]:
        raise UsageError(f"{a.shape[-1]} columns in {a.shape[-2]} dimensions are linearly dependent")
    scale = torch.linalg.vector_norm(a.double(), dim=-2, keepdim=True)
    q, r = torch.linalg.qr(a.double() / scale)
    # Columns of length one: a diagonal entry of R is the distance of a column from the span of those before it
    distances = r.diagonal(dim1=-2, dim2=-1).abs()
    if not (distances > torch.finfo(torch.float64).eps * a.shape[-2]).all():
        raise UsageError("the columns are linearly dependent (or not finite); give a basis of the subspace")
    return q
