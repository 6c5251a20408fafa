r"""Singular values of features, by the cheapest route that carries the digits their dtype holds.

The Gram matrix in float64 (of the columns, or of the rows where there are fewer) costs a fraction of a singular value
decomposition, and gives :math:`\sigma_i` with a relative error of about :math:`u (\sigma_1 / \sigma_i)^2`, u being the
rounding unit of float64. That is below what a float32 decomposition would lose as long as
:math:`\sigma_1 / \sigma_i < 5 \cdot 10^8`. Every matrix is tried so; the one whose smallest value the error bound does
not cover (float64 features with a tail, rank-deficient ones) is solved again directly, after a QR step where it is
long. Small matrices are solved directly at once. The route is recorded with the values.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.errors import NonFinite, RankscopeError, UsageError
from rankscope.linalg.moments import Moments

UNIT = torch.finfo(torch.float64).eps / 2
"""u, the rounding unit of float64, in which everything here is computed."""
_DIRECT = 1 << 21
"""Multiplications max·min² below which a matrix is solved directly: there is nothing to save."""
_ON_CPU = 64
"""Widths up to which a small eigenproblem is quicker on the CPU than on an accelerator."""
_BLOCK = 1 << 24
"""Numbers lifted to float64 at a time (128 MiB)."""
_TOLERANCE = {torch.float64: 1e-10}
"""Relative error allowed in the smallest singular value of float64 features; narrower dtypes have lost it anyway."""
_NARROW = 1e-2
"""The same for narrower dtypes: two digits of the smallest value, so that none is noise of the Gram matrix."""


@dataclass(frozen=True)
class Decomposition:
    """Singular values, and what must be known to read them."""

    values: Tensor
    """``(*, r)`` float64 singular values, descending, r = min(n, d)."""
    routes: tuple[str, ...]
    """How each matrix of the batch was solved, in order: ``gram``, ``kernel`` (n < d), ``direct``, ``moments``."""
    dtype: torch.dtype
    """The dtype of the features."""
    rows: int
    """n."""
    columns: int
    """d."""
    centred: bool
    """Whether the mean over rows was taken away."""
    norm: Tensor
    """``(*,)`` Frobenius norm of the features as they are stored, before centring; their rounding scales with it."""


class Axes(NamedTuple):
    """Leading directions in feature space."""

    values: Tensor
    """``(*, k + 1)`` float64 singular values, descending; the last one is beyond the k directions and tells the gap.
    ``(*, k)`` where there is no further one."""
    vectors: Tensor
    """``(*, d, k)`` float64 orthonormal right singular vectors; the largest entry of each is positive."""


def singular_values(x: Tensor, *, centre: bool = False) -> Decomposition:
    """The singular values of each matrix of a batch, in float64.

    Float64 features agree with a float64 decomposition to 1e-10 relative, narrower ones to ``u (σ₁/σᵢ)²``, u being
    the rounding unit of float64 (at most 1e-2 in the smallest value). They do not depend on TF32 being allowed: no
    product is made below float64.

    Args:
        x: ``(*, n, d)`` features of any floating dtype, on any device.
        centre: take the mean over rows away first; with n ≤ d the last value is then exactly 0.

    Raises:
        NonFinite: if a feature is NaN or infinite.
        UsageError: if ``x`` has fewer than two dimensions or is not floating.
    """
    x = _checked(x)
    *batch, n, d = x.shape
    flat = x.reshape(math.prod(batch), n, d)
    r = min(n, d)
    norm = _norms(flat)
    if not torch.isfinite(norm).all():
        raise NonFinite(
            f"features must be finite; matrix {int((~torch.isfinite(norm)).nonzero()[0])} of the batch is not"
        )
    if max(n, d) * r * r <= _DIRECT:
        values, routes = _direct(flat, centre=centre), ["direct"] * len(flat)
    else:
        gram = _gram(flat, centre=centre)
        values, _ = _roots(gram)
        routes = ["kernel" if n < d else "gram"] * len(flat)
        known = r - 1 if centre and n <= d else r  # the centred rows sum to zero: the last value is zero by algebra
        for i in _unresolved(values[:, :known], max(n, d), _TOLERANCE.get(x.dtype, _NARROW)):
            values[i], routes[i] = _direct(flat[i : i + 1], centre=centre)[0], "direct"
    if centre and n <= d:
        values[:, r - 1 :] = 0
    return Decomposition(values.reshape(*batch, r), tuple(routes), x.dtype, n, d, centre, norm.reshape(batch))


def singular_values_of(moments: Moments, *, centre: bool = True, dtype: torch.dtype = torch.float32) -> Decomposition:
    """Singular values of the rows that went into the moments, an entry of the batch at a time.

    Values that n rows cannot have (beyond n, or n - 1 when centred) are exactly 0, so r is the least of d and the
    largest n of the batch.

    Args:
        moments: sums with leading dimensions ``*``.
        centre: about the mean; otherwise about the origin.
        dtype: the dtype of the features that were summed, to be recorded.

    Warns:
        RuntimeWarning: if an eigenvalue is negative beyond rounding, as when nearly all rows were taken away again.
    """
    gram = moments.scatter if centre else moments.gram
    batch, d = gram.shape[:-2], moments.width
    counts = moments.rows.reshape(-1)
    n = int(counts.max()) if len(counts) else 0
    values, beyond = _roots(gram.reshape(-1, d, d))
    if (beyond > 20 * UNIT * math.sqrt(max(n, d, 1))).any():
        warnings.warn("negative eigenvalues beyond rounding: the precision of the moments is spent", RuntimeWarning, 2)
    possible = torch.arange(d, device=values.device) < (counts - int(centre))[:, None]
    r = min(n, d)
    values = torch.where(possible, values, 0)[:, :r]
    norm = moments.gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=0).sqrt()
    routes = ("moments",) * len(values)
    return Decomposition(values.reshape(*batch, r), routes, dtype, n, d, centre, norm)


def leading_axes_of(moments: Moments, k: int, *, centre: bool = True) -> Axes:
    """The k leading right singular vectors of the rows that went into the moments.

    Raises:
        UsageError: if k is not between 1 and d.
    """
    if not 1 <= k <= moments.width:
        raise UsageError(f"there are {moments.width} directions; asked for the leading {k}")
    squares, vectors = torch.linalg.eigh(moments.scatter if centre else moments.gram)
    values, vectors = squares.flip(-1)[..., : k + 1].clamp(min=0).sqrt(), vectors.flip(-1)[..., :k]
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return Axes(values, torch.where(largest < 0, -vectors, vectors))


def _checked(x: Tensor) -> Tensor:
    if x.ndim < 2 or not x.is_floating_point():
        raise UsageError(f"features are (*, n, d) floating numbers; got shape {tuple(x.shape)}, {x.dtype}")
    return x.detach()


def _lifted(x: Tensor, *, centre: bool) -> Tensor:
    z = x.double()
    return z - z.mean(-2, keepdim=True) if centre and x.shape[-2] else z


def _norms(flat: Tensor) -> Tensor:
    total = torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
    for block in _row_blocks(flat):
        total += block.double().square().sum((-2, -1))
    return total.sqrt()


def _row_blocks(flat: Tensor) -> tuple[Tensor, ...]:
    per_row = max(1, len(flat) * flat.shape[-1])
    return flat.split(max(1, _BLOCK // per_row), dim=-2) if flat.shape[-2] else ()


def _gram(flat: Tensor, *, centre: bool) -> Tensor:
    """The smaller Gram matrix of each matrix, block by block, about the mean where centred."""
    b, n, d = flat.shape
    if n < d:
        z = _lifted(flat, centre=centre)
        return z @ z.mT
    mean = torch.zeros(b, 1, d, dtype=torch.float64, device=flat.device)
    gram = torch.zeros(b, d, d, dtype=torch.float64, device=flat.device)
    for block in _row_blocks(flat) if centre else ():
        mean += block.double().sum(-2, keepdim=True) / n
    for block in _row_blocks(flat):
        z = block.double() - mean
        gram += z.mT @ z
    return gram


def _roots(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of the eigenvalues of each matrix of a batch ``(b, r, r)``, each solve checked.

    Returns:
        the roots ``(b, r)``, descending, 0 for a negative eigenvalue; and the most negative eigenvalue, ``(b,)``, as a
        share of the largest.
    """
    device = gram.device
    solved = torch.linalg.eigvalsh(gram.cpu() if gram.shape[-1] <= _ON_CPU else gram).to(device)
    wrong = _disagrees(solved, gram)
    if wrong.any():
        solved[wrong] = torch.linalg.eigvalsh(gram[wrong].cpu()).to(device)
        if _disagrees(solved, gram).any():
            raise RankscopeError("the eigenvalues of a Gram matrix do not add up to its trace, on the CPU neither")
    negative = solved.clamp(max=0)
    worst = -negative[:, 0] / solved[:, -1].clamp(min=torch.finfo(torch.float64).tiny) if solved.numel() else negative
    return solved.flip(-1).clamp(min=0).sqrt(), worst


def _disagrees(solved: Tensor, gram: Tensor) -> Tensor:
    """Whether Σλ = tr G and Σλ² = ‖G‖_F² fail, which catches a solver that returned something else: ``(b,)``."""
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    norm = gram.square().sum((-2, -1))
    slack = 64 * UNIT * max(gram.shape[-1], 8)
    added = (solved.sum(-1) - trace).abs() <= slack * trace.abs()
    squared = (solved.square().sum(-1) - norm).abs() <= slack * norm
    return ~(added & squared)


def _unresolved(values: Tensor, depth: int, tolerance: float) -> list[int]:
    """The matrices whose smallest value the error bound √depth·u·(σ₁/σ)²/2 leaves less exact than the tolerance."""
    if not values.shape[-1]:
        return []
    bound = math.sqrt(depth) * UNIT / 2 * values[:, 0].square()
    unresolved = (bound > tolerance * values[:, -1].square()) & (values[:, 0] > 0)
    return unresolved.nonzero().flatten().tolist()


def _direct(flat: Tensor, *, centre: bool) -> Tensor:
    """Singular values by decomposition in float64, after QR where one side is at least twice the other."""
    z = _lifted(flat, centre=centre)
    z = z if z.shape[-2] >= z.shape[-1] else z.mT
    if z.shape[-2] >= 2 * z.shape[-1] and z.shape[-1]:
        z = torch.linalg.qr(z, mode="r").R
    if z.is_cuda and z.shape[-1] > _ON_CPU:
        return torch.linalg.svdvals(z, driver="gesvd")
    return torch.linalg.svdvals(z.cpu()).to(flat.device)
