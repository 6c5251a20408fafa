"""Numerical rank: the number of singular values above the rounding error."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition, rank_of
from rankscope.linalg.batch import each_matrix
from rankscope.linalg.svd import singular_values
from rankscope.spectrum import rounding_rms


def numerical_rank(s: Tensor, *, threshold: Tensor | float | None = None) -> Tensor:
    r"""Numerical rank: the number of singular values above a threshold.

    The default threshold is :math:`s_1\, r\, \varepsilon` with ε of float64, as in LAPACK and numpy for a square
    matrix. For features stored in a narrower dtype pass :func:`storage_threshold`, or their rounding error counts as
    rank. The rank lies between 0, for a zero matrix, and ``r``.

    Args:
        s: ``(*, r)`` non-negative singular values, in any order.
        threshold: ``(*,)`` or a number, in the unit of s.

    Returns:
        ``(*,)`` ranks, whole numbers as float64.
    """
    s = s.double()
    if not s.shape[-1]:
        return s.sum(-1)
    default = s.amax(-1) * s.shape[-1] * torch.finfo(torch.float64).eps
    limit = default if threshold is None else torch.as_tensor(threshold, dtype=torch.float64, device=s.device)
    return torch.where(s.isnan().any(-1), torch.nan, (s > limit[..., None]).sum(-1).double())


def storage_threshold(x: Tensor) -> float:
    r"""Largest change of a singular value due to rounding to the stored dtype and to float64 arithmetic.

    The rounding errors of unequal entries behave like noise of unequal variance, whose largest singular value is about

    .. math:: 0.4247\,u\,\bigl(\max_i \lVert x_{i \cdot} \rVert + \max_j \lVert x_{\cdot j} \rVert\bigr);

    if all rows and all columns have equal length, that is :func:`rankscope.spectrum.rounding_floor`. LAPACK's error
    bound σ₁·max(n, d)·ε, with ε of float64 in which singular values are computed, is added; ‖X‖_F bounds σ₁.

    Bandeira & van Handel, Ann. Probab. 44 (2016), arXiv 1408.6185, theorem 1.1.

    Args:
        x: ``(n, d)`` features in the dtype in which they are stored, mean included.

    Returns:
        the threshold, in the unit of the features; 0 without features.
    """
    if not x.numel():
        return 0.0
    squares = x.double().square()
    longest = float(squares.sum(1).max().sqrt() + squares.sum(0).max().sqrt())
    lapack = float(squares.sum().sqrt()) * max(x.shape) * torch.finfo(torch.float64).eps
    return rounding_rms(x.dtype) * longest + lapack


@each_matrix
def rank_of_rows(x: Tensor, sample: Tensor | None = None) -> Tensor:
    """:func:`numerical_rank` of the centred features above the resolution of their dtype.

    Args:
        x: ``(*, n, d)`` features as they are stored.
        sample: not used.

    Returns:
        ``(*,)`` ranks, whole numbers as float64.
    """
    return numerical_rank(singular_values(x, centre=True).values, threshold=storage_threshold(x))


DEFINITION = Definition(
    name="numerical-rank",
    function=rank_of_rows,
    reads="rows",
    formula="#{sigma > 0.4247 u (longest row + longest column) + |X|_F max(n, d) eps}",
    citation="Golub & Van Loan, Matrix Computations, 2013, section 5.5.8; threshold: Bandeira & van Handel 2016",
    high="min(n, d)",
    most=rank_of,
    bias="at most n - 1; directions below the floor of the dtype do not count",
)
