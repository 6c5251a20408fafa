r"""Eigenvalues and eigenvectors of a scatter, solved once and differentiated without dividing by ties.

A change dS of a symmetric matrix :math:`S = V \Lambda V^\top` moves its eigenvalues by :math:`v_i^\top dS\, v_i` and an
eigenvector towards the others by :math:`v_j^\top dS\, v_i / (\lambda_i - \lambda_j)`. What is asked here does not depend on
the basis inside a tie, so the terms between equal eigenvalues vanish and are left out instead of being 0/0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

ON_CPU = 64
"""Largest width at which an eigenproblem is faster on the CPU than on an accelerator."""


class Principal(NamedTuple):
    """The eigendecomposition of a batch of symmetric matrices."""

    values: Tensor
    """``(*, d)`` eigenvalues, descending; rounding may make some of them negative."""
    vectors: Tensor
    """``(*, d, d)`` orthonormal columns, in the same order."""


def principal(matrix: Tensor, solved: Principal | None = None) -> Principal:
    """The eigendecomposition of ``(*, d, d)`` symmetric matrices, which can be differentiated.

    Args:
        matrix: the matrices, float64.
        solved: their eigendecomposition, if it is known.
    """
    if solved is None:
        found = torch.linalg.eigh(matrix.detach().cpu() if matrix.shape[-1] <= ON_CPU else matrix.detach())
        solved = Principal(*(part.flip(-1).to(matrix.device) for part in found))
    return Principal(*_Eigen.apply(matrix, *solved)) if matrix.requires_grad else solved


class _Eigen(torch.autograd.Function):
    """A known eigendecomposition as a function of its matrix."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, values: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(values, vectors)
        return values.clone(), vectors.clone()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None]:
        values, vectors = ctx.saved_tensors
        of_values, of_vectors = given
        gradient = (vectors * of_values[..., None, :]) @ vectors.mT  # V diag(∂f/∂λ) Vᵀ
        # Mostly only a few leading vectors were asked for; the columns of the others are zero.
        used = (of_vectors != 0).reshape(-1, of_vectors.shape[-1]).any(0).nonzero().flatten()
        if len(used):
            gap = values[..., None, used] - values[..., :, None]
            tie = gap.abs() <= torch.finfo(values.dtype).eps * values.abs().amax(-1)[..., None, None]
            turned = (vectors.mT @ of_vectors[..., used] / gap.where(~tie, 1)).where(~tie, 0)
            gradient = gradient + vectors @ turned @ vectors[..., used].mT
        return (gradient + gradient.mT) / 2, None, None
