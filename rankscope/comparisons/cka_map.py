"""Debiased linear CKA between every site of one run and every site of another, in one product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_rows
from rankscope.linalg.rows import centred
from rankscope.linalg.sums import at_once


def cka_map(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Debiased linear CKA of every matrix of ``a`` with every matrix of ``b``.

    Args:
        a: ``(n, d)`` features of each site of one run; the widths may differ.
        b: the same of another run, on the same n rows.

    Returns:
        ``(len(a), len(b))`` float64; NaN for a matrix that does not vary.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    # HSIC₁ is ⟨K̃, L̃⟩ / (n (n - 3)), a factor that cancels in the ratio, so products of flattened matrices give all. They are
    # summed over blocks of rows, so that no site's n × n kernel is ever whole.
    left, right = ([_varying(x) for x in side] for side in (a, b))
    require_rows(len(left[0]), 4, "debiased CKA")
    product = left[0].new_zeros(len(left), len(right))
    norms = [left[0].new_zeros(len(side)) for side in (left, right)]
    a_row = len(left[0]) * (len(left) + len(right))
    for rows in torch.arange(len(left[0])).split(max(1, at_once(product.device) // a_row)):
        blocks = [torch.stack([_u_centred_rows(z, rows).flatten() for z in side]) for side in (left, right)]
        product += blocks[0] @ blocks[1].mT
        norms = [norm + block.square().sum(1) for norm, block in zip(norms, blocks, strict=True)]
    scale = (norms[0][:, None] * norms[1][None, :]).sqrt()
    return torch.where(scale > 0, product / scale, torch.nan)


def _varying(x: Tensor) -> Tensor:
    """``(n, d)`` the rows about their mean, or zeros if they differ by no more than the rounding of float64 sums over them."""
    x = x.double()
    rounding = len(x) * torch.finfo(torch.float64).eps * x.abs().amax()
    return centred(x) if (x - x[0]).abs().amax() > rounding else torch.zeros_like(x)


def _u_centred_rows(z: Tensor, rows: Tensor) -> Tensor:
    r"""Some rows of the U-centred linear Gram matrix, whose inner products are unbiased.

    With :math:`K = XX^\top` and zero diagonal, :math:`K_{ij} - \frac{K_{i\cdot}}{n-2} - \frac{K_{\cdot j}}{n-2} +
    \frac{K_{\cdot\cdot}}{(n-1)(n-2)}` off the diagonal and 0 on it; then
    :math:`\langle\tilde K, \tilde L\rangle = n(n-3)\,\mathrm{HSIC}_1`.

    Székely & Rizzo, "Partial distance correlation", Annals of Statistics 42, 2014, definition 2.

    Args:
        z: ``(n, d)`` rows about their mean, n at least 4.
        rows: ``(m,)`` int64 which rows of the matrix.

    Returns:
        ``(m, n)`` float64.
    """
    n = len(z)
    # The rows sum to zero, so row i of the matrix without its diagonal sums to -‖z_i‖²
    sums = -z.square().sum(1)
    k = z[rows] @ z.mT
    k += sums.sum() / ((n - 1) * (n - 2)) - (sums[rows, None] + sums[None, :]) / (n - 2)
    k[torch.arange(len(rows)), rows] = 0
    return k
