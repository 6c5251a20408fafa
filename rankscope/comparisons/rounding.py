r"""The noise that storing features in a dtype adds, and what float64 sums add to it.

The relative rounding error of a number is about uniform within its last bit, with a root mean square of 0.4247 u over
log-uniform mantissas (u the rounding unit: 2⁻⁸ in bfloat16, 2⁻¹¹ in float16, 2⁻²⁴ in float32). Stored features
therefore carry an independent noise of variance :math:`(0.4247\,u)^2\|X\|_F^2/(nd)` in every entry. Below it no
direction can be read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.comparisons.variation import trace
from rankscope.linalg.moments import Moments

ROUNDING = 0.4247
"""Root mean square of the relative rounding error in units of u, for log-uniform mantissas."""


def rounding_scatter(moments: Moments, dtype: torch.dtype, *, width: int | None = None) -> Tensor:
    r"""The scatter that rounding puts into every direction.

    .. math:: \max\bigl((0.4247\,u)^2\,\|X\|_F^2/d,\; d\,\epsilon_{64}\,\|S\|_F\bigr)

    The second term bounds what float64 sums of products leave uncertain (S is the scatter).

    Args:
        moments: moments of one run, leading dimensions ``*``.
        dtype: the dtype that the features were stored in.
        width: d, where the moments are of fewer coordinates that hold all rows.

    Returns:
        ``(*,)`` scatters, in squared units of the features.
    """
    width = moments.width if width is None else width
    stored = (ROUNDING * torch.finfo(dtype).eps / 2) ** 2 * trace(moments.gram) / width
    size = torch.linalg.matrix_norm(moments.scatter)
    return torch.maximum(stored, width * torch.finfo(size.dtype).eps * size)


def rounding_share(length: int, dtype: torch.dtype) -> float:
    r"""The largest share of the total variance that an eigenvalue made of rounding alone can have.

    The singular values of n × d noise of that variance reach at most
    :math:`0.4247\,u\,\|X\|_F(1/\sqrt d + 1/\sqrt n)`, hence the share :math:`(0.4247\,u)^2\cdot 4/r` with
    ``r = min(n, d)``.

    Args:
        length: r, the number of eigenvalues.
        dtype: the dtype that the features were stored in.

    Returns:
        The share, without unit.
    """
    return (ROUNDING * torch.finfo(dtype).eps / 2) ** 2 * 4 / length
