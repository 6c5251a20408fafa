r"""Intruder dimensions: leading singular vectors of the tuned weights that the pre-trained weights lack.

Their number means little by itself: if pre-trained singular values lie close together, *any* change rotates their
vectors. It is therefore reported with the number that full-rank noise of the same size produces, and with the local
gap. A prefix leaves the weights unchanged and has no intruders by construction, which is no evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.definition import WeightDefinition
from rankscope.errors import UsageError
from rankscope.weights.decomposed import Decomposed, decompose, with_noise

LEADING = 10
"""Number of leading singular vectors of the tuned weights that are examined."""
THRESHOLD = 0.5
"""A vector is an intruder if its absolute cosine with every pre-trained one is below this."""


@dataclass(frozen=True)
class Intruders:
    """Which leading directions of the tuned weights are new."""

    count: Tensor
    """``(*,)`` number of intruder dimensions, int64."""
    cosine: Tensor
    """``(*, k)`` largest absolute cosine of each leading vector with any pre-trained left singular vector."""
    values: Tensor
    """``(*, k)`` singular values of the tuned weights, float64."""
    gap: Tensor
    """``(*, k)`` distance of each to its nearest neighbour in the tuned spectrum, relative to itself."""


def intruders(w0: Tensor, w1: Tensor, *, k: int = LEADING, threshold: float = THRESHOLD) -> Intruders:
    r"""Intruder dimensions of tuned weights.

    They are those of the k leading left singular vectors :math:`y_j` of :math:`W_1` with
    :math:`\max_i|\langle y_j, x_i\rangle| < \epsilon` over all left singular vectors :math:`x_i` of :math:`W_0`. Their
    number lies between 0 and k, and does not change when both matrices are scaled or rotated alike.

    Shuttleworth, Andreas, Torralba & Sharma, "LoRA vs full fine-tuning: an illusion of equivalence", arXiv 2410.21228.

    Args:
        w0: ``(*, m, n)`` pre-trained weights, any floating dtype.
        w1: ``(*, m, n)`` tuned weights, LoRA merged.
        k: number of leading singular vectors to examine, at least 1; min(m, n) if that is smaller.
        threshold: :math:`\epsilon`, between 0 and 1.

    Returns:
        The count, with the cosines it is based on; plot it against the threshold.

    Raises:
        UsageError: if the shapes differ, or k or the threshold is out of range.
    """
    if w0.shape != w1.shape:
        raise UsageError(f"intruders need weights of one shape; got {tuple(w0.shape)} and {tuple(w1.shape)}")
    return intruders_between(decompose(w0), decompose(w1), k=k, threshold=threshold)


def intruders_between(
    before: Decomposed, after: Decomposed, *, k: int = LEADING, threshold: float = THRESHOLD
) -> Intruders:
    """:func:`intruders` of weights that are already decomposed.

    Args:
        before: decomposition of the pre-trained weights.
        after: decomposition of the tuned weights.
        k: number of leading singular vectors to examine.
        threshold: see :func:`intruders`.

    Raises:
        UsageError: if k or the threshold is out of range.
    """
    if k < 1 or not 0 < threshold <= 1:
        raise UsageError(f"intruders need k of at least 1 and a threshold in (0, 1]; got {k} and {threshold}")
    k = min(k, after.values.shape[-1])
    cosine = (before.left.mT @ after.left[..., :k]).abs().amax(-2)
    return Intruders((cosine < threshold).sum(-1), cosine, after.values[..., :k], _gaps(after.values)[..., :k])


def _gaps(values: Tensor) -> Tensor:
    """``(*, r)`` distance of each singular value to the nearer of its two neighbours, relative to itself."""
    steps = -values.diff(dim=-1)
    end = torch.full_like(values[..., :1], torch.inf)
    nearest = torch.minimum(torch.cat([end, steps], -1), torch.cat([steps, end], -1))
    return nearest / values


def intruder_null(
    w0: Tensor,
    norm: Tensor | float,
    *,
    k: int = LEADING,
    threshold: float = THRESHOLD,
    draws: int = 8,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Number of intruders produced by full-rank Gaussian noise of the size of the change, :math:`\|\Delta W\|_F`.

    Args:
        w0: ``(*, m, n)`` pre-trained weights.
        norm: ``(*,)`` Frobenius norm of the change.
        k: number of leading singular vectors to examine.
        threshold: see :func:`intruders`.
        draws: number B of noise matrices.
        generator: source of randomness.

    Returns:
        ``(B, *)`` int64 counts.
    """
    before = decompose(w0)
    noisy = map(decompose, with_noise(w0, norm, draws=draws, generator=generator))
    return torch.stack([intruders_between(before, after, k=k, threshold=threshold).count for after in noisy])


DEFINITION = WeightDefinition(
    name="intruders",
    formula="#{j <= k: max_i |<y_j, x_i>| < 0.5}, y the left singular vectors of the tuned, x of the pre-trained weights, k = 10",
    citation="Shuttleworth et al. 2024 (arXiv 2410.21228)",
    high="k",
    bias="any change rotates vectors whose singular values lie close together: compare with the gap and with noise",
    noise="reported with it: that of full-rank noise of the same norm as the change",
)
