r"""Debiased linear CKA between every site of one run and every site of another, at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankscope.errors import NotComparable


def u_centred(x: Tensor) -> Tensor:
    r"""The U-centred linear Gram matrix, whose inner products are unbiased.

    With :math:`K = XX^\top` and zero diagonal, :math:`K_{ij} - \frac{K_{i\cdot}}{n-2} - \frac{K_{\cdot j}}{n-2} +
    \frac{K_{\cdot\cdot}}{(n-1)(n-2)}` off the diagonal and 0 on it; then
    :math:`\langle\tilde K, \tilde L\rangle = n(n-3)\,\mathrm{HSIC}_1`.

    Székely & Rizzo, "Partial distance correlation", Annals of Statistics 42, 2014, definition 2.

    Args:
        x: ``(n, d)`` features, n at least 4.

    Returns:
        ``(n, n)`` float64.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    n = len(x)
    if n < 4:
        raise NotComparable(f"debiased CKA needs at least 4 rows; there are {n}")
    z = x.double() - x.double().mean(0)
    k = (z @ z.mT).fill_diagonal_(0)
    rows = k.sum(0) / (n - 2)
    level = k.sum() / ((n - 1) * (n - 2))
    return k.sub_(rows[:, None]).sub_(rows[None, :] - level).fill_diagonal_(0)


def cka_map(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Debiased linear CKA of every matrix of ``a`` with every matrix of ``b``; NaN where one does not vary.

    Args:
        a: ``(n, d)`` features of each site of one run; the widths may differ.
        b: the same of another run, on the same n rows.

    Returns:
        ``(len(a), len(b))`` float64.

    Raises:
        NotComparable: with fewer than 4 rows.
    """
    left, right = (torch.stack([_varying(x, u_centred(x)).flatten() for x in side]) for side in (a, b))
    norms = [torch.linalg.vector_norm(side, dim=1).square() for side in (left, right)]
    product = left @ right.mT
    scale = (norms[0][:, None] * norms[1][None, :]).sqrt()
    return torch.where(scale > 0, product / scale, torch.nan)


def _varying(x: Tensor, centred: Tensor) -> Tensor:
    """The U-centred Gram matrix, and zero where the rows differ by no more than float64 sums over them can tell."""
    x = x.double()
    told = len(x) * torch.finfo(torch.float64).eps * x.abs().amax()
    return centred if (x - x[0]).abs().amax() > told else torch.zeros_like(centred)
