"""Traces, norms and quadratic forms of batches of matrices and vectors."""

from __future__ import annotations

import torch
from torch import Tensor

STRIPES, NARROWEST = 8, 256
"""Into how many stripes a symmetric product is divided, of which nearly half need not be computed, and how wide each is at least:
narrower products are slower."""


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


def add_products(total: Tensor, x: Tensor, y: Tensor | None = None) -> None:
    """Add a product xᵀy of ``(n, d)`` rows that is symmetric, xᵀx by default, to a symmetric ``(d, d)`` matrix, in place.

    Blocks on and above the diagonal are computed, and mirrored.
    """
    y = x if y is None else y
    step = max(NARROWEST, -(-len(total) // STRIPES))
    for start in range(0, len(total), step):
        rows, later = slice(start, start + step), slice(start + step, None)
        total[rows, start:].addmm_(x[:, rows].mT, y[:, start:])
        total[later, rows] = total[rows, later].mT
