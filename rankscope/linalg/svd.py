r"""Singular values of features, by the cheapest route that preserves the digits of their dtype.

The Gram matrix in float64 (of the columns, or of the rows if there are fewer) costs a fraction of a singular value
decomposition, and gives :math:`\sigma_i` with a relative error of about :math:`u (\sigma_1 / \sigma_i)^2`, where u is
the rounding unit of float64. That is less than a float32 decomposition would lose as long as :math:`\sigma_1 / \sigma_i
< 5 \cdot 10^8`. Every matrix is tried this way first; if the error bound does not cover its smallest value (float64
features with a tail, rank-deficient features), it is solved again directly, after a QR step if it is long. Small
matrices are solved directly at once. The route is recorded with the values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.errors import NonFinite, RankscopeError, UsageError
from rankscope.linalg.forms import add_products, squared_norm, trace
from rankscope.linalg.moments import Moments
from rankscope.linalg.principal import ON_CPU, principal, where_fastest
from rankscope.linalg.rows import at_unit_scale, blocks, centred
from rankscope.linalg.streamed import RowMatrix, Streamed
from rankscope.linalg.sums import at_once

UNIT = torch.finfo(torch.float64).eps / 2
"""u, the rounding unit of float64, the dtype of all computation here."""
_DIRECT = 1 << 21
"""Multiplications max(n, d)·min(n, d)² below which a matrix is solved directly: the Gram matrix would save nothing."""
_ROTATED = 512
"""Columns up to which an accelerator turns them by the eigenvectors of their Gram matrix instead of decomposing them."""
_TOLERANCE = {torch.float64: 1e-10}
"""Relative error allowed in the smallest singular value of float64 features; narrower dtypes have lost those digits."""
_NARROW = 1e-2
"""The same for narrower dtypes: two correct digits, so that no value is mere noise of the Gram matrix."""


@dataclass(frozen=True)
class Decomposition:
    """Singular values, with the facts needed to interpret them."""

    values: Tensor
    """``(*, r)`` float64 singular values, descending, r = min(n, d)."""
    routes: tuple[str, ...]
    """How each matrix of the batch was solved, in order: ``gram``, ``kernel`` (n < d), ``direct`` or ``moments``."""
    dtype: torch.dtype
    """The dtype of the features."""
    rows: int
    """n."""
    columns: int
    """d."""
    centred: bool
    """Whether the mean over rows was subtracted."""
    norm: Tensor
    """``(*,)`` Frobenius norm of the features as stored, before centring; their rounding error scales with it."""


def singular_values(x: RowMatrix, *, centre: bool = False) -> Decomposition:
    """The singular values of each matrix of a batch, in float64.

    For float64 features they agree with a float64 decomposition to 1e-10 relative; for narrower dtypes to ``u
    (σ₁/σᵢ)²``, where u is the rounding unit of float64 (at most 1e-2 in the smallest value). They do not depend on
    whether TF32 is allowed, as no product is computed below float64.

    Args:
        x: ``(*, n, d)`` features of any floating dtype, on any device; or ``(n, d)`` that are streamed.
        centre: subtract the mean over rows first; with n ≤ d the last value is then exactly 0.

    Raises:
        NonFinite: if a feature is NaN or infinite.
        UsageError: if ``x`` has fewer than two dimensions or no floating dtype.
    """
    (x,), exponent = at_unit_scale([_checked(x)])
    *batch, n, d = x.shape
    flat = x if isinstance(x, Streamed) else x.reshape(math.prod(batch), n, d)
    r = min(n, d)
    norm = _norms(flat)
    if not torch.isfinite(norm).all():
        raise NonFinite(
            f"features must be finite; matrix {int((~torch.isfinite(norm)).nonzero()[0])} of the batch is not: "
            "collect again in a dtype with a wider range, or leave out the affected samples"
        )
    if max(n, d) * r * r <= _DIRECT:
        values, routes = _direct(flat, centre=centre), ["direct"] * len(norm)
    else:
        gram = _gram(flat, centre=centre)
        values, _ = _roots(gram)
        routes = ["kernel" if n < d else "gram"] * len(norm)
        known = r - 1 if centre and n <= d else r  # centred rows sum to zero, so with n ≤ d the last value is zero
        rest = _unresolved(values[:, :known], max(n, d), _TOLERANCE.get(x.dtype, _NARROW))
        together = max(1, at_once(flat.device) // max(1, n * d))  # small matrices at once, large ones one at a time
        for part in (rest[i : i + together] for i in range(0, len(rest), together)):
            values[part] = _direct(flat if isinstance(flat, Streamed) else flat[part], centre=centre)
            for i in part:
                routes[i] = "direct"
    if centre and n <= d:
        values[:, r - 1 :] = 0
    unit = 2.0**exponent
    values, norm = values.reshape(*batch, r) * unit, norm.reshape(batch) * unit
    return Decomposition(values, tuple(routes), x.dtype, n, d, centre, norm)


def singular_values_of(moments: Moments, *, centre: bool = True, dtype: torch.dtype = torch.float32) -> Decomposition:
    """Singular values of the rows that were summed into the moments, for each entry of the batch.

    Values beyond the rank that n rows can have (n, or n - 1 when centred) are exactly 0; r is the smaller of d and the
    largest n of the batch.

    Args:
        moments: sums with leading dimensions ``*``.
        centre: take values about the mean; otherwise about the origin.
        dtype: the dtype of the features that were summed, for the record.

    Warns:
        RuntimeWarning: if an eigenvalue is negative beyond rounding, as after subtracting nearly all rows.
    """
    gram = moments.scatter if centre else moments.gram
    batch, d = gram.shape[:-2], moments.width
    counts = moments.rows.reshape(-1)
    n = int(counts.detach().max()) if len(counts) else 0
    solved = moments.__dict__.get("principal" if centre else "principal_about_origin")
    values, beyond = _roots(gram.reshape(-1, d, d), None if solved is None else solved.values.flip(-1).reshape(-1, d))
    # Rounding errors of n products add up like a random walk, to about √n u of the largest eigenvalue
    if (beyond > 20 * UNIT * math.sqrt(max(n, d, 1))).any():
        warnings.warn(
            "eigenvalues are negative beyond rounding: the precision of the moments is spent", RuntimeWarning, 2
        )
    possible = torch.arange(d, device=values.device) < (counts - int(centre))[:, None]
    r = min(n, d)
    values = torch.where(possible, values, 0)[:, :r]
    norm = trace(moments.gram).clamp(min=0).sqrt()
    routes = ("moments",) * len(values)
    return Decomposition(values.reshape(*batch, r), routes, dtype, n, d, centre, norm)


def leading_axes_of(moments: Moments, k: int) -> Tensor:
    """The k leading right singular vectors of the centred rows that were summed into the moments.

    Args:
        moments: sums with leading dimensions ``*``.
        k: number of directions.

    Returns:
        ``(*, d, k)`` float64 orthonormal columns, the leading one first; the largest entry of each is positive.

    Raises:
        UsageError: if k is not between 1 and d.
    """
    if not 1 <= k <= moments.width:
        raise UsageError(f"there are {moments.width} directions; asked for the leading {k}")
    vectors = moments.principal.vectors[..., :k]
    # An eigenvector has no sign of its own; fixing one makes results reproducible across solvers
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors)


def _checked(x: RowMatrix) -> RowMatrix:
    """The features without their gradient, if they are ``(*, n, d)`` of a floating dtype."""
    if x.ndim < 2 or not x.dtype.is_floating_point:
        raise UsageError(f"features are (*, n, d) of a floating dtype; got shape {tuple(x.shape)}, {x.dtype}")
    return x if isinstance(x, Streamed) else x.detach()


def _norms(flat: RowMatrix) -> Tensor:
    """``(b,)`` Frobenius norms of ``(b, n, d)`` features, block by block."""
    total = torch.zeros(_matrices(flat), dtype=torch.float64, device=flat.device)
    for block in _row_blocks(flat):
        total += block.double().square().sum((-2, -1))
    return total.sqrt()


def _matrices(flat: RowMatrix) -> int:
    """b, the number of matrices; those that are streamed are alone."""
    return 1 if isinstance(flat, Streamed) else len(flat)


def _row_blocks(flat: RowMatrix) -> Iterator[Tensor]:
    """``(b, n, d)`` features in blocks of rows of as many numbers as their device takes at once; no block without rows."""
    if isinstance(flat, Streamed):
        return (part[None] for part in blocks(flat))
    per_row = max(1, len(flat) * flat.shape[-1])
    return iter(flat.split(max(1, at_once(flat.device) // per_row), dim=-2) if flat.shape[-2] else ())


def _gram(flat: RowMatrix, *, centre: bool) -> Tensor:
    """The smaller Gram matrix of each matrix, block by block; about the mean if ``centre``."""
    n, d = flat.shape[-2:]
    if n < d:
        z = _lifted(flat, centre=centre)
        return z @ z.mT
    mean = _means(flat) if centre else 0
    gram = torch.zeros(_matrices(flat), d, d, dtype=torch.float64, device=flat.device)
    for block in _row_blocks(flat):
        z = block.double() - mean
        if len(gram) == 1:
            add_products(gram[0], z[0])
        else:
            gram += z.mT @ z
    return gram


def _means(flat: RowMatrix) -> Tensor:
    """``(b, 1, d)`` mean rows, block by block."""
    n, d = flat.shape[-2:]
    mean = torch.zeros(_matrices(flat), 1, d, dtype=torch.float64, device=flat.device)
    for block in _row_blocks(flat):
        mean += block.double().sum(-2, keepdim=True) / n
    return mean


def _lifted(flat: RowMatrix, *, centre: bool) -> Tensor:
    """``(b, n, d)`` features in float64, about their mean if ``centre``; of one that is streamed an R with the same RᵀR."""
    if not isinstance(flat, Streamed):
        return centred(flat) if centre else flat.double()
    mean, r = _means(flat) if centre else 0, torch.zeros(1, 0, flat.shape[1], dtype=torch.float64, device=flat.device)
    for block in _row_blocks(flat):  # X = QR by blocks: what is below an R has the singular values of all above it too
        r = torch.linalg.qr(torch.cat([r, block.double() - mean], -2), mode="r").R
    return r


def _roots(gram: Tensor, solved: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Square roots of the eigenvalues of a batch of matrices ``(b, r, r)``, checking each solution.

    Args:
        gram: the matrices.
        solved: ``(b, r)`` their eigenvalues, ascending, if they are known.

    Returns:
        The ``(b, r)`` roots, descending, 0 for a negative eigenvalue; and the ``(b,)`` most negative eigenvalue of each
        matrix as a share of its largest.
    """
    device = gram.device
    if solved is None:
        solved = torch.linalg.eigvalsh(where_fastest(gram)).to(device)
    wrong = _disagrees(solved, gram)
    if wrong.any():
        solved[wrong] = torch.linalg.eigvalsh(gram[wrong].cpu()).to(device)
        if _disagrees(solved, gram).any():
            raise RankscopeError("the eigenvalues of a Gram matrix do not add up to its trace, not even on the CPU")
    negative = solved.clamp(max=0)
    worst = -negative[:, 0] / solved[:, -1].clamp(min=torch.finfo(torch.float64).tiny) if solved.numel() else negative
    return solved.flip(-1).clamp(min=0).sqrt(), worst


def _disagrees(solved: Tensor, gram: Tensor) -> Tensor:
    """Whether Σλ = tr G or Σλ² = ‖G‖_F² fails, which exposes a wrong solution: ``(b,)`` bool."""
    total, norm = trace(gram), squared_norm(gram)
    slack = 64 * UNIT * max(gram.shape[-1], 8)
    added = (solved.sum(-1) - total).abs() <= slack * total.abs()
    squared = (solved.square().sum(-1) - norm).abs() <= slack * norm
    return ~(added & squared)


def _unresolved(values: Tensor, depth: int, tolerance: float) -> list[int]:
    """The matrices for which the relative error bound √depth·u·(σ₁/σ)²/2 of the smallest value exceeds the tolerance."""
    if not values.shape[-1]:
        return []
    bound = math.sqrt(depth) * UNIT / 2 * values[:, 0].square()
    unresolved = (bound > tolerance * values[:, -1].square()) & (values[:, 0] > 0)
    return unresolved.nonzero().flatten().tolist()


def _direct(flat: RowMatrix, *, centre: bool) -> Tensor:
    """Singular values by decomposition in float64: ``(b, r)``."""
    z = _lifted(flat, centre=centre)
    z = z if z.shape[-2] >= z.shape[-1] else z.mT
    return _decomposed(z) if z.device.type == "cpu" or z.shape[-1] > _ROTATED else _rotated(z)


def _decomposed(z: Tensor) -> Tensor:
    """Singular values of ``(b, m, r)`` matrices, m at least r, after a QR step if they are at least twice as long."""
    if z.shape[-2] >= 2 * z.shape[-1] and z.shape[-1]:
        z = torch.linalg.qr(z, mode="r").R
    if z.is_cuda and z.shape[-1] > ON_CPU:
        return torch.linalg.svdvals(z, driver="gesvd")
    return torch.linalg.svdvals(z.cpu()).to(z.device)


def _rotated(z: Tensor) -> Tensor:
    r"""The same for many matrices on an accelerator, where decompositions of a batch are done one after another.

    The eigenvectors of the Gram matrix turn the columns until they are orthogonal but for rounding, and then the columns'
    lengths are the singular values. With :math:`I + E` the products of the columns at length one, no value is wrong by more
    than about a share :math:`\lVert E\rVert / 2` of itself (Demmel & Veselić, "Jacobi's method is more accurate than QR", SIAM
    J. Matrix Anal. Appl. 13, 1992). Where that is too much they are those of a small triangle.
    """
    turned = z @ principal(z.mT @ z).vectors
    lengths = torch.linalg.vector_norm(turned, dim=-2)
    unit = turned / lengths.where(lengths > 0, 1)[..., None, :]
    apart = unit.mT @ unit - torch.diag_embed((lengths > 0).double())
    values = lengths.sort(-1, descending=True).values
    rest = (squared_norm(apart).sqrt() / 2 > _TOLERANCE[torch.float64]).nonzero().flatten()
    if len(rest):
        # U diag(l) with UᵀU = I + E = LLᵀ has the singular values of Lᵀ diag(l)
        lower, failed = torch.linalg.cholesky_ex(apart[rest] + torch.eye(z.shape[-1], dtype=z.dtype, device=z.device))
        near, far = rest[failed == 0], rest[failed > 0]
        values[near] = _decomposed(lower[failed == 0].mT * lengths[near, None])
        values[far] = _decomposed(z[far])
    return values
