"""Numerical rank: the number of singular values that are not rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.linalg.svd import singular_values
from rankscope.spectrum import rounding_floor


def numerical_rank(s: Tensor, *, threshold: Tensor | float | None = None) -> Tensor:
    r"""Numerical rank: how many singular values exceed a threshold.

    Without a threshold it is :math:`s_1\, r\, \varepsilon` with ε of float64, as in LAPACK and numpy for a square
    matrix. For features stored more coarsely give :func:`storage_threshold`, or their rounding counts as rank. It lies
    between 0, for a zero matrix, and ``r``.

    Args:
        s: ``(*, r)`` singular values, none negative, in any order.
        threshold: ``(*,)`` or a number, in the unit of s.

    Returns:
        ``(*,)`` ranks, whole numbers as float64.
    """
    s = s.double()
    if not s.shape[-1]:
        return s.sum(-1)
    default = s.amax(-1) * s.shape[-1] * torch.finfo(torch.float64).eps
    limit = default if threshold is None else torch.as_tensor(threshold, dtype=torch.float64, device=s.device)
    return (s > limit[..., None]).sum(-1).double()


def storage_threshold(largest: float, norm: float, rows: int, columns: int, dtype: torch.dtype) -> float:
    """The threshold for features stored in a dtype: LAPACK's σ₁·max(n, d)·ε with the ε of float64, or the upper edge of
    what rounding to that dtype makes (:func:`rankscope.spectrum.rounding_floor`), whichever is larger.

    Args:
        largest: σ₁.
        norm: Frobenius norm of the features as stored, the mean included.
        rows: n.
        columns: d.
        dtype: the dtype of the stored features.
    """
    lapack = largest * max(rows, columns) * torch.finfo(torch.float64).eps
    return max(lapack, rounding_floor(norm, rows, columns, dtype))


def rank_of_rows(x: Tensor, sample: Tensor | None = None) -> Tensor:
    """The numerical rank of ``(n, d)`` features about their mean, above what their dtype resolves: a scalar.

    Args:
        x: ``(n, d)`` features as they are stored.
        sample: the sample of each row; it makes no difference.
    """
    found = singular_values(x, centre=True)
    largest = float(found.values[0]) if found.values.numel() else 0.0
    limit = storage_threshold(largest, float(found.norm), found.rows, found.columns, found.dtype)
    return numerical_rank(found.values, threshold=limit)


DEFINITION = Definition(
    name="numerical-rank",
    function=rank_of_rows,
    reads="rows",
    formula="#{sigma > max(sigma_1 max(n, d) eps, rounding floor of the stored dtype)}, of the centred features",
    citation="Golub & Van Loan, Matrix Computations, 4th edition 2013, section 5.5.8",
    low="0",
    high="min(n, d)",
    bias="at most n - 1; the floor of the dtype hides what is below it",
)
