"""Decompositions of weights, and of weights to which noise of the size of a change was added in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Decomposed(NamedTuple):
    """The singular value decomposition of weights, or of a change of them."""

    left: Tensor
    """``(*, m, r)`` left singular vectors, in output space, the leading one first, float64."""
    values: Tensor
    """``(*, r)`` singular values, descending, float64."""
    right: Tensor
    """``(*, n, r)`` right singular vectors, in input space."""


def decompose(w: Tensor) -> Decomposed:
    """The decomposition of ``(*, m, n)`` weights of any floating dtype, r = min(m, n)."""
    u, s, vh = torch.linalg.svd(w.double(), full_matrices=False)
    return Decomposed(u, s, vh.mT)


def with_noise(
    w0: Tensor, norm: Tensor | float, *, draws: int, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    r"""The weights with full-rank Gaussian noise of the size of a change, :math:`\|\Delta W\|_F`, in place of the change.

    Args:
        w0: ``(*, m, n)`` pre-trained weights.
        norm: ``(*,)`` Frobenius norm of the change.
        draws: number of noise matrices.
        generator: source of randomness, on the CPU.

    Yields:
        ``(*, m, n)`` weights, float64.
    """
    for _ in range(draws):
        noise = torch.randn(w0.shape, generator=generator, dtype=torch.float64).to(w0.device)
        size = torch.as_tensor(norm, dtype=torch.float64, device=w0.device)[..., None, None]
        yield w0.double() + noise / torch.linalg.matrix_norm(noise)[..., None, None] * size
