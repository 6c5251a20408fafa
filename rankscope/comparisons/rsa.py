"""Representational similarity analysis: do two runs find the same samples alike?"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_aligned, require_rows
from rankscope.definition import Comparison
from rankscope.errors import UsageError


def sample_means(x: Tensor, sample: Tensor) -> Tensor:
    """The mean row of each sample.

    Args:
        x: ``(*, n, d)`` features.
        sample: ``(n,)`` int64 sample of each row.

    Returns:
        ``(*, m, d)`` float64 means, in the order of the samples' numbers.
    """
    _, place, count = torch.unique(sample, return_inverse=True, return_counts=True)
    place, count = place.to(x.device), count.to(x.device)
    total = x.new_zeros((*x.shape[:-2], len(count), x.shape[-1]), dtype=torch.float64)
    return total.index_add_(-2, place, x.double()) / count[:, None]


def dissimilarities(x: Tensor, *, distance: Literal["euclidean", "correlation"] = "euclidean") -> Tensor:
    """The dissimilarity of each pair of rows, each pair once.

    Args:
        x: ``(*, m, d)`` features.
        distance: ``euclidean`` for the squared distance over d, ``correlation`` for 1 minus the correlation of the two
            rows across features.

    Returns:
        ``(*, m (m - 1)/2)`` float64 dissimilarities.

    Raises:
        UsageError: for another distance.
    """
    x = x.double()
    if distance == "correlation":
        x = torch.nn.functional.normalize(x - x.mean(-1, keepdim=True), dim=-1)
        full = 1 - x @ x.mT
    elif distance == "euclidean":
        x = x - x.mean(-2, keepdim=True)
        norms = x.square().sum(-1)
        full = (norms[..., :, None] + norms[..., None, :] - 2 * x @ x.mT).clamp(min=0) / x.shape[-1]
    else:
        raise UsageError(f"the distance {distance!r} is not known; there are euclidean and correlation")
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    return full[..., i, j]


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 along the last dimension, ties sharing their mean rank: ``(*, m)`` float64."""
    values = values.contiguous()
    ordered = values.sort(dim=-1).values
    first = torch.searchsorted(ordered, values)
    last = torch.searchsorted(ordered, values, right=True)
    return (first + last + 1).double() / 2


def rsa(
    x: Tensor,
    y: Tensor,
    sample: Tensor,
    *,
    distance: Literal["euclidean", "correlation"] = "euclidean",
    rank: bool = True,
) -> Tensor:
    """Correlation of the dissimilarities of all pairs of samples in two runs.

    Rows of one sample are first averaged. Between -1 and 1; does not change under rotation, scaling and (with the
    euclidean distance) translation of either side. NaN where all pairs of one run are equally far apart.

    Kriegeskorte, Mur & Bandettini, "Representational similarity analysis", Front. Syst. Neurosci. 2, 2008.

    Args:
        x: ``(*, n, d_a)`` features of the reference.
        y: ``(*, n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row.
        distance: see :func:`dissimilarities`.
        rank: correlate ranks (Spearman) rather than values (Pearson).

    Returns:
        ``(*,)`` correlations, float64.

    Raises:
        NotComparable: if the numbers of rows differ, or there are fewer than 4 samples.
        UsageError: for another distance.
    """
    require_aligned(x, y, sample, "representational similarity")
    require_rows(torch.tensor(len(torch.unique(sample))), 4, "representational similarity (a row a sample)")
    pairs = [dissimilarities(sample_means(side, sample), distance=distance) for side in (x, y)]
    u, v = (ranks(p) if rank else p for p in pairs)
    u, v = u - u.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True)
    return (u * v).sum(-1) / (u.square().sum(-1).sqrt() * v.square().sum(-1).sqrt())


COMPARISON = Comparison(
    name="rsa",
    function=rsa,
    reads="rows",
    formula="Spearman correlation over pairs of samples of their squared euclidean distances in the two runs",
    citation="Kriegeskorte, Mur & Bandettini, Front. Syst. Neurosci. 2, 2008",
    low="-1",
    high="1",
    bias="about none; pairs share samples, so the interval must leave out samples, not pairs",
    noise="0",
)
