"""The mean's share of the energy, a companion to every centred number."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.definition import Definition
from rankscope.linalg.moments import Moments


def mean_share(moments: Moments) -> Tensor:
    r"""Share of the mean squared length of a row that is due to the mean row.

    .. math:: \frac{\lVert \bar x \rVert^2}{\lVert \bar x \rVert^2 + \operatorname{tr} S}

    where S is the sample covariance. It lies between 0 and 1 and does not change when the features are scaled or
    rotated. When it is near 1, an uncentred rank is about 1 whatever the other directions do. Features that are all
    zero give 0.

    Args:
        moments: sums over rows with leading dimensions ``*``.

    Returns:
        ``(*,)`` shares, float64.
    """
    mean = moments.mean.square().sum(-1)
    whole = mean + moments.trace / (moments.rows - 1).clamp(min=1)
    return torch.where(whole > 0, mean / torch.where(whole > 0, whole, 1), 0.0)


DEFINITION = Definition(
    name="mean-share",
    centred=False,
    function=mean_share,
    reads="moments",
    formula="|mean|^2 / (|mean|^2 + tr S)",
    citation="Mu & Viswanath, All-but-the-top, ICLR 2018 (arXiv 1702.01417), on why it matters",
    high="1",
    most=1.0,
    bias="rises by tr S / n with few rows",
    unit="share of energy",
)
