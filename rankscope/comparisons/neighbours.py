"""Mutual nearest neighbours: do two runs put the same rows next to each other?"""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.comparisons.requirements import require_aligned
from rankscope.definition import Comparison
from rankscope.errors import NotComparable, UsageError

NEIGHBOURS = 10
"""Neighbours of each row (Huh et al. 2024)."""
_BLOCK = 1 << 24
"""Similarities held at a time."""


def mutual_neighbours(
    x: Tensor, y: Tensor, sample: Tensor, *, k: int = NEIGHBOURS, clip: float | None = None
) -> Tensor:
    r"""Share of the ``k`` nearest neighbours that a row has in both runs, averaged over rows.

    Neighbours are those of largest cosine similarity among rows of *other* samples: tokens of one prompt are near each
    other in any model. Equal similarities, frequent in half precision, are taken in the order of the rows. Between 0
    and 1; does not change under rotation and scaling of either side.

    Huh, Cheung, Wang & Isola, "The platonic representation hypothesis", ICML 2024, appendix A.

    Args:
        x: ``(*, n, d_a)`` features of the reference.
        y: ``(*, n, d_b)`` features of the tuned run, the same rows.
        sample: ``(n,)`` int64 sample of each row.
        k: neighbours of each row.
        clip: clip features to the mean over rows of this quantile of their absolute values (0.95 as published), so
            that massive features do not decide; None leaves them.

    Returns:
        ``(*,)`` shares, float64.

    Raises:
        NotComparable: if the numbers of rows differ, or some row has fewer than k rows of other samples.
        UsageError: if k is not positive.
    """
    require_aligned(x, y, sample, "mutual nearest neighbours")
    if k < 1:
        raise UsageError(f"a row has at least one neighbour; k = {k} was asked for")
    n = len(sample)
    fewest = n - int(torch.unique(sample, return_counts=True)[1].max()) if n else 0
    if fewest < k:
        raise NotComparable(
            f"mutual nearest neighbours with k = {k} need that many rows of other samples; a row has only {fewest}"
        )
    x, y, sample = _directions(x, clip), _directions(y, clip), sample.to(x.device)
    shared = x.new_zeros(x.shape[:-2])
    step = max(1, _BLOCK // (n * max(1, shared.numel())))
    for rows in torch.arange(n, device=x.device).split(step):
        same = sample[rows, None] == sample
        both = _nearest(x, rows, same, k) & _nearest(y, rows, same, k)
        shared += both.sum((-2, -1))
    return shared / (n * k)


def _directions(x: Tensor, clip: float | None) -> Tensor:
    x = x.double()
    if clip is not None:
        bound = x.abs().quantile(clip, dim=-1).mean(-1)[..., None, None]
        x = torch.minimum(torch.maximum(x, -bound), bound)
    return torch.nn.functional.normalize(x, dim=-1)


def _nearest(x: Tensor, rows: Tensor, same: Tensor, k: int) -> Tensor:
    """``(*, rows, n)`` whether each row is among the k nearest, ties in the order of the rows."""
    similarity = (x[..., rows, :] @ x.mT).masked_fill(same, -torch.inf)
    least = similarity.topk(k, dim=-1).values[..., -1:]
    nearer, tied = similarity > least, similarity == least
    room = k - nearer.sum(-1, keepdim=True)
    return nearer | (tied & (tied.cumsum(-1) <= room))


COMPARISON = Comparison(
    name="mutual-neighbours",
    function=mutual_neighbours,
    reads="rows",
    formula="mean over rows of |Nk(x) & Nk(y)| / k, cosine neighbours of other samples, k = 10",
    citation="Huh et al., ICML 2024, arXiv 2405.07987, appendix A",
    high="1",
    bias="downwards with n (neighbours come closer together): compare at equal n only",
    noise="k/(n - 1)",
)
