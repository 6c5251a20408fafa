"""Traces, norms and quadratic forms of batches of matrices and vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def trace(matrix: Tensor) -> Tensor:
    """Sum of the diagonal of ``(*, d, d)`` matrices: ``(*,)``."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def squared_norm(matrix: Tensor) -> Tensor:
    """Squared Frobenius norm of ``(*, m, n)`` matrices: ``(*,)``."""
    return matrix.square().sum((-2, -1))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product of ``(*, d)`` vectors: ``(*,)``."""
    return (x * y).sum(-1)


def quadratic(m: Tensor, matrix: Tensor) -> Tensor:
    """Quadratic form mᵀAm of ``(*, d)`` vectors and ``(*, d, d)`` matrices: ``(*,)``."""
    return torch.einsum("...i,...ij,...j->...", m, matrix, m)


def column_forms(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """The forms lᵢᵀAr_i of matching columns, the diagonal of LᵀAR, without the rest of that product: ``(*, k)``.

    Args:
        left: ``(*, m, k)`` columns.
        middle: ``(*, m, n)`` matrix.
        right: ``(*, n, k)`` columns.
    """
    return (left * (middle @ right)).sum(-2)
