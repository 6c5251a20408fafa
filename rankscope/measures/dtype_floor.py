"""Resolution of the stored dtype: the number of singular values below its floor, and the condition number above it."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition, rank_of


def condition_number(s: Tensor, *, floor: Tensor | float = 0.0) -> Tensor:
    r"""Condition number: the largest singular value over the smallest one above the rounding floor.

    .. math:: s_1 / \min \{ s_i : s_i \ge \text{floor} \}

    It is at least 1, and infinite for a singular matrix without a floor. It does not change when the matrix is scaled
    (together with the floor) or rotated. A zero matrix gives NaN.

    Tsitsulin et al. 2023 (arXiv 2305.16562) as "pseudo-condition number".

    Args:
        s: ``(*, r)`` non-negative singular values, in any order, r at least 1.
        floor: ``(*,)`` or a number; values below it are left out (:func:`rankscope.spectrum.rounding_floor`).

    Returns:
        ``(*,)`` condition numbers, float64.
    """
    s = s.double()
    limit = torch.as_tensor(floor, dtype=torch.float64, device=s.device)[..., None]
    largest = s.amax(-1)
    least = torch.where(s >= limit, s, torch.inf).amin(-1)
    return torch.where(least.isinf(), torch.nan, largest / least)


def values_below_floor(s: Tensor, *, floor: float, rows: int) -> Tensor:
    """Number of singular values of the centred features below the rounding floor of their dtype.

    The floor is the largest singular value that rounding alone can produce. Of n centred rows at most n - 1 values differ
    from zero: the last of n ≤ d rows is zero by algebra, not by rounding, and does not count.

    Args:
        s: ``(*, r)`` singular values of the centred features, descending.
        floor: the floor, in their unit.
        rows: n.

    Returns:
        ``(*,)`` counts, whole numbers as float64.
    """
    return (s[..., : max(rows - 1, 0)] < floor).sum(-1).double()


_CITATION = "rounding as n x d noise of rms 0.4247 u; spectrum of noise after Marchenko & Pastur 1967"

DEFINITIONS = (
    Definition(
        name="below-dtype-floor",
        function=values_below_floor,
        takes=("floor", "rows"),
        step=1.0,
        formula="#{sigma < 0.4247 u |X|_F (1/sqrt d + 1/sqrt n)}, u the rounding unit of the stored dtype, the value that "
        "centring makes zero left out",
        citation=_CITATION,
        high="min(n, d)",
        most=rank_of,
        bias="massive dimensions raise the floor for all others",
    ),
    Definition(
        name="condition",
        function=condition_number,
        takes=("floor",),
        scale="log",
        formula="sigma_1 / smallest sigma above 0.4247 u |X|_F (1/sqrt d + 1/sqrt n), u the rounding unit of the stored dtype",
        citation="Tsitsulin et al. 2023 (arXiv 2305.16562), pseudo-condition number",
        low="1",
        high="infinity",
        least=1.0,
        of_nothing=0.0,
        bias="rises when n is near d",
        unit="ratio",
    ),
)
