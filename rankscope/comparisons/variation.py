"""How much a run varies, and whether float64 sums can tell that it does."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.linalg.moments import Moments


def trace(matrix: Tensor) -> Tensor:
    """The sum of the diagonal of ``(*, d, d)`` matrices: ``(*,)``."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def variation(moments: Moments) -> Tensor:
    r"""Total variation of the rows about their mean, :math:`\sum_i\|x_i-\bar x\|^2`; NaN where there is none.

    A sum of n terms in float64 is uncertain by up to n ε of its size, so a scatter below ``n ε`` times the second
    moment about the shift cannot be told from that of constant rows. Quantities that divide by it are undefined there.

    Args:
        moments: moments of one run, leading dimensions ``*``.

    Returns:
        ``(*,)`` positive sums in squared units of the features, or NaN.
    """
    total = trace(moments.scatter)
    resolved = moments.rows * torch.finfo(total.dtype).eps * trace(moments.second)
    return total.where(total > resolved, torch.nan)
