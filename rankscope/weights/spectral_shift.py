"""Spectral shift: how far tuning moved the singular values of the weights, whatever it did to their vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition


def spectral_shift(before: Tensor, after: Tensor) -> Tensor:
    r"""Distance of two spectra relative to the size of the first.

    .. math:: \lVert \sigma(W_1) - \sigma(W_0) \rVert_2 / \lVert \sigma(W_0) \rVert_2

    It is at least 0, which a change that only turns singular vectors scores, and by Mirsky's inequality at most
    :math:`\lVert W_1 - W_0 \rVert_F / \lVert W_0 \rVert_F`, the relative size of the change. It does not change when both
    matrices are scaled alike, or rotated at all. Zero weights before tuning have none: NaN, or infinity.

    Mirsky, "Symmetric gauge functions and unitarily invariant norms", Quart. J. Math. 11 (1960), theorem 5.

    Args:
        before: ``(*, r)`` singular values of the pre-trained weights, descending.
        after: ``(*, r)`` those of the tuned weights, descending.

    Returns:
        ``(*,)`` shifts, float64.
    """
    before, after = before.double(), after.double()
    return torch.linalg.vector_norm(after - before, dim=-1) / torch.linalg.vector_norm(before, dim=-1)


DEFINITION = WeightDefinition(
    name="spectral-shift",
    formula="|sigma(W1) - sigma(W0)| / |sigma(W0)|, both spectra descending",
    citation="the distance in Mirsky, Quart. J. Math. 11 (1960), theorem 5, over the norm of the spectrum before",
    high="relative size of the change",
    bias="none, as the weights are fully known; without an interval, as nothing is sampled",
    noise="reported with it: that of full-rank noise of the same norm as the change",
    unit="share of the spectrum",
)
