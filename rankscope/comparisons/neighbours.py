"""Mutual nearest neighbours: whether two runs place the same rows next to each other."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_aligned
from rankscope.definition import Comparison
from rankscope.errors import NotComparable, UsageError

NEIGHBOURS = 10
"""Neighbours of each row (Huh et al. 2024)."""
_BLOCK = 1 << 24
"""Entries of the similarity matrix held at a time."""


def mutual_neighbours(
    x: Tensor, y: Tensor, sample: Tensor, *, k: int = NEIGHBOURS, clip: float | None = None
) -> Tensor:
    r"""Share of a row's ``k`` nearest neighbours that both runs have in common, averaged over rows.

    Neighbours are the rows of *other* samples with the largest cosine similarity, since tokens of one prompt are close
    in any model. Ties, frequent in half precision, are resolved in the order of the rows. It lies between 0 and 1 and
    does not change under rotation and scaling of either side.

    Huh, Cheung, Wang & Isola, "The platonic representation hypothesis", ICML 2024, appendix A.

    Args:
        x: ``(*, n, d_a)`` features of the reference.
        y: ``(*, n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row.
        k: number of neighbours of each row.
        clip: quantile of a row's absolute values (0.95 as published) at whose mean over rows features are clipped, so that
            massive features do not dominate; None for no clipping.

    Returns:
        ``(*,)`` shares, float64; NaN if all rows of a side lie in one direction, so that none is nearer than another.

    Raises:
        NotComparable: if the numbers of rows differ, or a row has fewer than k rows of other samples.
        UsageError: if k is not positive.
    """
    require_aligned(x, y, sample, "mutual nearest neighbours")
    if k < 1:
        raise UsageError(f"a row needs at least one neighbour; k = {k} was asked for")
    n = len(sample)
    fewest = n - int(torch.unique(sample, return_counts=True)[1].max()) if n else 0
    if fewest < k:
        raise NotComparable(
            f"mutual nearest neighbours with k = {k} need that many rows of other samples; a row has only {fewest}: "
            "collect more samples"
        )
    x, y, sample = _directions(x, clip), _directions(y, clip), sample.to(x.device)
    shared = x.new_zeros(x.shape[:-2])
    step = max(1, _BLOCK // (n * max(1, shared.numel())))
    for rows in torch.arange(n, device=x.device).split(step):
        same = sample[rows, None] == sample
        both = _nearest(x, rows, same, k) & _nearest(y, rows, same, k)
        shared += both.sum((-2, -1))
    # Where all rows lie in one direction, none is nearer than another
    apart = [(z - z[..., :1, :]).abs().amax((-2, -1)) for z in (x, y)]
    told_apart = torch.stack(apart).amin(0) > 8 * torch.finfo(x.dtype).eps
    return (shared / (n * k)).where(told_apart, torch.nan)


def _directions(x: Tensor, clip: float | None) -> Tensor:
    """``(*, n, d)`` rows of length one, after clipping."""
    x = x.double()
    if clip is not None:
        bound = x.abs().quantile(clip, dim=-1).mean(-1)[..., None, None]
        x = torch.minimum(torch.maximum(x, -bound), bound)
    return torch.nn.functional.normalize(x, dim=-1)


def _nearest(x: Tensor, rows: Tensor, same: Tensor, k: int) -> Tensor:
    """``(*, rows, n)`` bool: whether each row is among the k nearest, with ties in the order of the rows."""
    similarity = (x[..., rows, :] @ x.mT).masked_fill(same, -torch.inf)
    least = similarity.topk(k, dim=-1).values[..., -1:]
    # All rows nearer than the k-th are in; the places left go to the first of those as near as the k-th
    nearer, tied = similarity > least, similarity == least
    room = k - nearer.sum(-1, keepdim=True)
    return nearer | (tied & (tied.cumsum(-1) <= room))


COMPARISON = Comparison(
    name="mutual-neighbours",
    centred=False,
    function=mutual_neighbours,
    reads="rows",
    formula="mean over rows of |Nk(x) & Nk(y)| / k, cosine neighbours of other samples, k = 10",
    citation="Huh et al., ICML 2024, arXiv 2405.07987, appendix A",
    high="1",
    most=1.0,
    bias="downwards with n, as neighbours come closer together: compare at equal n only",
    noise="k/(n - 1)",
)
