"""Rows of features: in a unit that suits, in the space they span, centred, of length one, averaged over samples, in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import frexp, inf
from typing import cast

import torch
from torch import Tensor

from rankscope.errors import NotComparable
from rankscope.linalg.streamed import RowMatrix, Streamed, mapped
from rankscope.linalg.sums import at_once, lifted

LARGE = 128
"""Features of up to 2 to this power, and down to its inverse, are summed as they are: their fourth powers fit into float64."""


def at_unit_scale(features: Sequence[RowMatrix]) -> tuple[tuple[RowMatrix, ...], int]:
    """The same features in a unit in which their powers neither overflow nor vanish in float64.

    Only float64 features need another one. It is a power of two, which changes no digit, and one for all, so that what
    compares them in one basis sees what it would have seen.

    Args:
        features: for each run ``(*, n, d)`` of a floating dtype.

    Returns:
        The features times 2 to the power -e, and e; the features themselves and 0 where none is needed.

    Raises:
        NotComparable: if no unit suits all, as those of one are too small beside those of another.
    """
    largest = [_largest(x) for x in features]
    top = max(largest, default=0.0)
    exponent = frexp(top)[1]
    if not 0 < top < inf:
        return tuple(features), 0
    least = min(x for x in largest if x)
    if least < top * 2.0 ** (-1.5 * LARGE):
        raise NotComparable(
            f"the largest feature of one run is {least:.3g} and that of another {top:.3g}, too far apart to be squared in "
            "float64 together: bring them to one unit before they are stored"
        )
    if abs(exponent) <= LARGE:
        return tuple(features), 0
    half = exponent // 2  # in two steps, because the inverse of the smallest float64 overflows
    return tuple(mapped(x, lambda part: part * 2.0**-half * 2.0 ** (half - exponent)) for x in features), exponent


def _largest(x: RowMatrix) -> float:
    """The largest magnitude of a feature; NaN if one is."""
    ends = [part.aminmax() for part in (blocks(x) if isinstance(x, Streamed) else [x]) if part.numel()]
    return float(torch.stack([end for both in ends for end in both]).abs().max()) if ends else 0.0


def in_span_of_rows(features: Sequence[RowMatrix]) -> tuple[RowMatrix, ...]:
    """The same rows in coordinates of the space that they span, where that is smaller than the space they lie in.

    Runs of one width share one orthonormal basis, so that every inner product within and between them stays as it was;
    runs of different widths get one each.

    Args:
        features: for each run ``(n, d)``.

    Returns:
        For each run ``(n, min(d, m))``, m the number of rows of all runs that share the basis.

    Raises:
        TooLarge: where that space is smaller, and the rows do not fit into memory.
    """
    n = len(features[0])
    widths = {x.shape[1] for x in features}
    if len(widths) > 1:
        return tuple(in_span_of_rows([x])[0] for x in features)
    if n * len(features) >= widths.pop():
        return tuple(features)
    # Streamed rows refuse this, as their sums would not fit either: they have d² numbers, more than the rows
    together = torch.cat([cast(Tensor, x).double() for x in features])
    basis, _ = torch.linalg.qr(together.mT)  # QQᵀ projects on the span of the rows, so XQ(YQ)ᵀ = XYᵀ
    return tuple((together @ basis).split(n))


def blocks(x: RowMatrix, device: torch.device | None = None) -> Iterator[Tensor]:
    """``(n, d)`` features in stretches of as many numbers as a device takes at once, so that no float64 copy of all is made.

    Args:
        x: the features.
        device: where they are computed with; by default where they are.
    """
    step = max(1, at_once(device or x.device) // max(1, x.shape[1]))
    return (x[i : i + step] for i in range(0, len(x), step))


def mean_row(x: RowMatrix, device: torch.device) -> Tensor:
    """``(d,)`` the mean over ``(n, d)`` features, float64 on a device, without a float64 copy of all."""
    return torch.stack([lifted(part, device).sum(0) for part in blocks(x, device)]).sum(0) / len(x)


def centred(x: Tensor) -> Tensor:
    """``(*, n, d)`` features minus their mean over rows, float64."""
    z = x.double()
    return z - z.mean(-2, keepdim=True)


def unit_rows(x: Tensor) -> Tensor:
    """The rows of ``(n, d)`` features divided by their length, float64. Rows of zeros have no direction and are left out."""
    z = x.double()
    length = torch.linalg.vector_norm(z, dim=-1)
    return z[length > 0] / length[length > 0, None]


def sample_means(x: RowMatrix, sample: Tensor) -> Tensor:
    """The mean row of each sample.

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` int64 sample of each row.

    Returns:
        ``(*, S, d)`` float64 means, samples in ascending order.
    """
    _, place, count = torch.unique(sample, return_inverse=True, return_counts=True)
    place, count = place.to(x.device), count.to(x.device)
    total = torch.zeros((*x.shape[:-2], len(count), x.shape[-1]), dtype=torch.float64, device=x.device)
    start = 0
    for part in blocks(x) if isinstance(x, Streamed) or x.ndim == 2 else [x]:
        total.index_add_(-2, place[start : start + part.shape[-2]], part.double())
        start += part.shape[-2]
    return total / count[:, None]


def samples_by_size(sample: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The samples of each size together, so that they can be stacked.

    Args:
        sample: ``(n,)`` sample of each row; the rows of a sample need not be contiguous.

    Yields:
        For each number of rows L that occurs: the ``(m,)`` places of the samples of that size among all samples in
        ascending order, and ``(m, L)`` indices of their rows, both on the CPU.
    """
    _, place, counts = torch.unique(sample.cpu(), return_inverse=True, return_counts=True)
    order = torch.argsort(place, stable=True)
    ends = counts.cumsum(0)
    for size in torch.unique(counts).tolist():
        members = (counts == size).nonzero().flatten()
        yield members, order[ends[members][:, None] - size + torch.arange(size)]


def blocks_of_samples(sample: Tensor, width: int, device: torch.device) -> Iterator[Tensor]:
    """The rows of whole samples, samples in ascending order, of as many numbers as a device takes at once, or of one sample.

    Args:
        sample: ``(n,)`` sample of each row; the rows of a sample need not be contiguous.
        width: d, the numbers of a row.
        device: where they are computed with.

    Yields:
        ``(m,)`` int64 indices, on the CPU.
    """
    _, place, counts = torch.unique(sample.cpu(), return_inverse=True, return_counts=True)
    order, ends = torch.argsort(place, stable=True), counts.cumsum(0)
    most = max(1, at_once(device) // max(1, width))
    start = 0
    while start < len(place):
        fitting = int(torch.searchsorted(ends, start + most, right=True))
        end = int(ends[max(fitting - 1, int(torch.searchsorted(ends, start, right=True)))])
        yield order[start:end]
        start = end


def squared_distances(x: Tensor) -> Tensor:
    """Squared euclidean distances of all pairs of rows of ``(*, n, d)`` features: ``(*, n, n)`` float64, non-negative."""
    z = centred(x)  # distances do not change, and the products below lose fewer digits
    norms = z.square().sum(-1)
    # ‖x - y‖² = ‖x‖² + ‖y‖² - 2 x·y; rounding can make the distance of two equal rows negative
    return (norms[..., :, None] + norms[..., None, :] - 2 * z @ z.mT).clamp(min=0)


def each_pair(matrix: Tensor) -> Tensor:
    """The entries above the diagonal of ``(*, n, n)`` symmetric matrices, one per pair: ``(*, n (n - 1) / 2)``."""
    i, j = torch.triu_indices(matrix.shape[-1], matrix.shape[-1], 1, device=matrix.device)
    return matrix[..., i, j]
