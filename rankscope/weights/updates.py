r"""The exact spectrum of a change of weights, :math:`\Delta W = W_1 - W_0`; a low-rank change is never formed.

What a prefix has learned is no change of weights. It has a spectrum of its own: a prefix of 16 rows need not span 16
directions, since rows that start alike stay alike, because nothing distinguishes them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition
from rankscope.errors import UsageError
from rankscope.weights.decomposed import Decomposed, decompose


def low_rank_update(b: Tensor, a: Tensor, *, scale: float = 1.0) -> Decomposed:
    r"""Decomposition of :math:`\Delta W = s\,BA` from its factors, as in LoRA.

    Thin QR decompositions of :math:`B` and :math:`A^\top` leave an r × r matrix to decompose. The result is exact and
    costs O((m + n) r²), whereas the full matrix would cost O(m n min(m, n)).

    Hu et al., "LoRA", ICLR 2022, equation 3.

    Args:
        b: ``(*, m, r)`` the output factor, any floating dtype.
        a: ``(*, r, n)`` the input factor.
        scale: s, which is alpha / r in LoRA and alpha / sqrt(r) with rank stabilisation.

    Returns:
        The decomposition, float64; r is at most min(m, n).

    Raises:
        UsageError: if the inner dimensions of the factors differ.
    """
    if b.shape[-1] != a.shape[-2]:
        raise UsageError(f"the factors do not fit: B is {tuple(b.shape[-2:])} and A is {tuple(a.shape[-2:])}")
    # B = Q_b R_b and Aᵀ = Q_a R_a, so BA = Q_b (R_b R_aᵀ) Q_aᵀ, whose middle has the singular values of BA
    left, upper_b = torch.linalg.qr(b.double())
    right, upper_a = torch.linalg.qr(a.double().mT)
    u, s, vh = torch.linalg.svd(upper_b @ upper_a.mT, full_matrices=False)
    return Decomposed(left @ u, abs(scale) * s, right @ vh.mT * (1.0 if scale >= 0 else -1.0))


def full_update(w0: Tensor, w1: Tensor) -> Decomposed:
    """Decomposition of :math:`W_1 - W_0` as stored.

    Args:
        w0: ``(*, m, n)`` pre-trained weights, any floating dtype.
        w1: ``(*, m, n)`` tuned weights.

    Returns:
        The decomposition, float64, r = min(m, n).

    Raises:
        UsageError: if the shapes differ.
    """
    if w0.shape != w1.shape:
        raise UsageError(f"a change needs weights of one shape; got {tuple(w0.shape)} and {tuple(w1.shape)}")
    return decompose(w1.double() - w0.double())


DEFINITION = WeightDefinition(
    name="update-effective",
    formula="exp(-sum p ln p), p = sigma / sum sigma of W1 - W0; of a LoRA exactly, from QR of its factors",
    citation="Roy & Vetterli, EUSIPCO 2007, definition 1; Hu et al., LoRA, ICLR 2022, equation 3",
    low="1",
    high="rank of the change",
    bias="none, as the weights are fully known; rounding of merged weights adds a tail",
    noise="about 0.8 min(m, n) for a square matrix, more for an oblong one",
)
PREFIX = WeightDefinition(
    name="prefix-effective",
    formula="exp(-sum p ln p), p = sigma / sum sigma of the rows of a prefix, uncentred",
    citation="Roy & Vetterli, EUSIPCO 2007, definition 1, on the rows of a prefix",
    low="1",
    high="rows of the prefix",
    bias="none: the rows are known in full",
    noise="nearly the number of rows",
    unit="rows",
)
