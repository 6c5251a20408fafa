"""Total variation of a run, or NaN if float64 sums cannot resolve it."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.linalg.forms import trace
from rankscope.linalg.moments import Moments


def variation(moments: Moments) -> Tensor:
    r"""Total variation of the rows about their mean, :math:`\sum_i\|x_i-\bar x\|^2`; NaN if there is none.

    A float64 sum of n terms is uncertain by up to n ε of its size, so a scatter below ``n ε`` times the second moment
    about the shift cannot be distinguished from that of constant rows. Quantities that divide by it are then undefined.

    Args:
        moments: moments of one run, leading dimensions ``*``.

    Returns:
        ``(*,)`` positive sums in squared units of the features, or NaN.
    """
    total = trace(moments.scatter)
    resolved = moments.rows * torch.finfo(total.dtype).eps * trace(moments.second)
    return total.where(total > resolved, torch.nan)
