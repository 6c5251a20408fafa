r"""Eigenvalues and eigenvectors of a scatter, solved once and differentiated without dividing by ties.

A change dS of a symmetric matrix :math:`S = V \Lambda V^\top` moves its eigenvalues by :math:`v_i^\top dS\, v_i` and an
eigenvector towards the others by :math:`v_j^\top dS\, v_i / (\lambda_i - \lambda_j)`. What is asked here does not depend on
the basis inside a tie, so the terms between equal eigenvalues vanish and are left out instead of being 0/0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ON_CPU = 128
"""Largest width at which an eigenproblem is faster on the CPU than on an accelerator: at 128 it took 1.3 ms on eight cores and
4.0 ms on an H200, at 192 2.4 and 2.3 ms. It is a number, and not tried where it is needed, so that results can be repeated."""
TOGETHER = 32
"""Largest width of the matrices of which an accelerator solves many at once: 4,096 of width 16 took 1.5 ms there and 65 ms on the CPU."""
MANY = 16
"""How many that is at least."""


class Principal(NamedTuple):
    """The eigendecomposition of a batch of symmetric matrices."""

    values: Tensor
    """``(*, d)`` eigenvalues, descending; rounding may make some of them negative."""
    vectors: Tensor
    """``(*, d, d)`` orthonormal columns, in the same order."""


def principal(matrix: Tensor) -> Principal:
    """The eigendecomposition of ``(*, d, d)`` symmetric float64 matrices."""
    matrix = matrix.detach()
    found = torch.linalg.eigh(where_fastest(matrix))
    return Principal(*(part.flip(-1).to(matrix.device) for part in found))


def where_fastest(matrix: Tensor) -> Tensor:
    """``(*, d, d)`` matrices where their eigenproblems are solved fastest: where they are, or on the CPU."""
    *batch, _, d = matrix.shape
    many = d <= TOGETHER and math.prod(batch) >= MANY
    return matrix if many or d > ON_CPU else matrix.cpu()


def turned(solved: Principal, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative with respect to a matrix of a number that depends on its eigenvectors.

    Args:
        solved: the eigendecomposition of a ``(d, d)`` matrix.
        slope: ``(d, d)`` the derivative with respect to its eigenvectors. Mostly only a few leading ones were asked for, and
            the columns of the others are zero.

    Returns:
        Two ``(d, k)`` factors A and B, k the number of vectors that were asked for; the derivative is the symmetric part of ABᵀ.
    """
    values, vectors = solved
    used = (slope != 0).any(0).nonzero().flatten()
    gap = values[used] - values[:, None]
    tie = gap.abs() <= torch.finfo(values.dtype).eps * values.abs().max()
    towards = (vectors.mT @ slope[:, used] / gap.where(~tie, 1)).where(~tie, 0)
    return vectors @ towards, vectors[:, used]
