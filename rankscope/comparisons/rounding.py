r"""Noise added by storing features in a dtype and by summing in float64.

The relative rounding error of a number is roughly uniform within its last bit, with a root mean square of 0.4247 u for
log-uniform mantissas (:func:`rankscope.spectrum.rounding_rms`; u is the rounding unit of the dtype). Stored features
therefore carry independent noise of variance :math:`(0.4247\,u)^2\|X\|_F^2/(nd)` in every entry. No direction below it
can be read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.linalg.forms import trace
from rankscope.linalg.moments import Moments
from rankscope.spectrum import rounding_rms


def rounding_scatter(moments: Moments, dtype: torch.dtype, *, width: int | None = None) -> Tensor:
    r"""Scatter that rounding adds in every direction.

    .. math:: \max\bigl((0.4247\,u)^2\,\|X\|_F^2/d,\; d\,\epsilon_{64}\,\|S\|_F\bigr)

    The second term bounds the uncertainty of float64 sums of products; S is the scatter.

    Args:
        moments: moments of one run, leading dimensions ``*``.
        dtype: the dtype in which the features were stored.
        width: d, if the moments are over fewer coordinates in which all rows lie.

    Returns:
        ``(*,)`` scatters, in squared units of the features.
    """
    width = moments.width if width is None else width
    stored = rounding_rms(dtype) ** 2 * trace(moments.gram) / width
    size = torch.linalg.matrix_norm(moments.scatter)
    return torch.maximum(stored, width * torch.finfo(size.dtype).eps * size)


def rounding_share(length: int, dtype: torch.dtype) -> float:
    r"""Largest share of the total variance that an eigenvalue produced by rounding alone can have.

    The singular values of n × d noise of that variance reach at most
    :math:`0.4247\,u\,\|X\|_F(1/\sqrt d + 1/\sqrt n)`, hence the share :math:`(0.4247\,u)^2\cdot 4/r` with
    ``r = min(n, d)``.

    Args:
        length: r, the number of eigenvalues.
        dtype: the dtype in which the features were stored.

    Returns:
        The share, without unit.
    """
    return rounding_rms(dtype) ** 2 * 4 / length
