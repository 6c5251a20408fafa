"""Representational similarity analysis: whether two runs find the same samples alike."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_aligned, require_rows
from rankscope.definition import Comparison
from rankscope.errors import UsageError
from rankscope.linalg.rows import each_pair, sample_means, squared_distances


def dissimilarities(x: Tensor, *, distance: Literal["euclidean", "correlation"] = "euclidean") -> Tensor:
    """Dissimilarity of each pair of rows.

    Args:
        x: ``(*, m, d)`` features.
        distance: ``euclidean`` for the squared distance over d, ``correlation`` for 1 minus the correlation of the two
            rows across features.

    Returns:
        ``(*, m (m - 1)/2)`` float64 dissimilarities, one per pair.

    Raises:
        UsageError: for another distance.
    """
    if distance == "euclidean":
        return each_pair(squared_distances(x) / x.shape[-1])
    if distance != "correlation":
        raise UsageError(f"the distance {distance!r} is not known; there are euclidean and correlation")
    z = x.double()
    z = torch.nn.functional.normalize(z - z.mean(-1, keepdim=True), dim=-1)
    return each_pair(1 - z @ z.mT)


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 along the last dimension; ties share their mean rank: ``(*, m)`` float64."""
    values = values.contiguous()
    ordered = values.sort(dim=-1).values
    first = torch.searchsorted(ordered, values)
    last = torch.searchsorted(ordered, values, right=True)
    # Equal values occupy the ranks first + 1 … last, of which this is the mean
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

    Rows of one sample are first averaged. It lies between -1 and 1 and does not change under rotation, scaling and (for
    the euclidean distance) translation of either side. NaN if all pairs of one run are equally far apart.

    Kriegeskorte, Mur & Bandettini, "Representational similarity analysis", Front. Syst. Neurosci. 2, 2008.

    Args:
        x: ``(*, n, d_a)`` features of the reference.
        y: ``(*, n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row.
        distance: see :func:`dissimilarities`.
        rank: correlate ranks (Spearman) instead of values (Pearson).

    Returns:
        ``(*,)`` correlations, float64.

    Raises:
        NotComparable: if the numbers of rows differ, or there are fewer than 4 samples.
        UsageError: for another distance.
    """
    require_aligned(x, y, sample, "representational similarity")
    require_rows(len(torch.unique(sample)), 4, "representational similarity (one row per sample)")
    pairs = [dissimilarities(sample_means(side, sample), distance=distance) for side in (x, y)]
    u, v = (ranks(p) if rank else p for p in pairs)
    u, v = u - u.mean(-1, keepdim=True), v - v.mean(-1, keepdim=True)
    return (u * v).sum(-1) / (u.square().sum(-1).sqrt() * v.square().sum(-1).sqrt())


COMPARISON = Comparison(
    name="rsa",
    centred=None,
    function=rsa,
    reads="rows",
    formula="Spearman correlation over pairs of samples of their squared euclidean distances in the two runs",
    citation="Kriegeskorte, Mur & Bandettini, Front. Syst. Neurosci. 2, 2008",
    low="-1",
    high="1",
    least=-1.0,
    most=1.0,
    bias="negligible; pairs share samples, so the interval must leave out samples, not pairs",
    noise="0",
)
