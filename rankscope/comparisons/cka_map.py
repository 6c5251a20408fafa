"""Debiased linear CKA between every site of one run and every site of another, in one product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_rows
from rankscope.linalg.rows import centred


def u_centred(x: Tensor) -> Tensor:
    r"""U-centred linear Gram matrix, whose inner products are unbiased.

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
    require_rows(n, 4, "debiased CKA")
    z = centred(x)
    k = (z @ z.mT).fill_diagonal_(0)
    rows = k.sum(0) / (n - 2)
    level = k.sum() / ((n - 1) * (n - 2))
    return k.sub_(rows[:, None]).sub_(rows[None, :] - level).fill_diagonal_(0)


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
    # HSIC₁ is ⟨K̃, L̃⟩ / (n (n - 3)), a factor that cancels in the ratio, so one product of flattened matrices gives all
    left, right = (torch.stack([_varying(x, u_centred(x)).flatten() for x in side]) for side in (a, b))
    norms = [torch.linalg.vector_norm(side, dim=1).square() for side in (left, right)]
    product = left @ right.mT
    scale = (norms[0][:, None] * norms[1][None, :]).sqrt()
    return torch.where(scale > 0, product / scale, torch.nan)


def _varying(x: Tensor, gram: Tensor) -> Tensor:
    """The U-centred Gram matrix, or zeros if the rows differ by no more than the rounding of float64 sums over them."""
    x = x.double()
    rounding = len(x) * torch.finfo(torch.float64).eps * x.abs().amax()
    return gram if (x - x[0]).abs().amax() > rounding else torch.zeros_like(gram)
