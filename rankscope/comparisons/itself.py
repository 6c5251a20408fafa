"""A run compared with itself, on the same rows or on its two halves: the score of the best possible tuned run."""

from __future__ import annotations

import torch

from rankscope.linalg.moments import Moments, PairMoments


def itself(moments: Moments) -> PairMoments:
    """Moments of a run paired with itself, row by row.

    A comparison that reads folds returns its split-half ceiling for ``itself(fit.a)`` and ``itself(evaluate.a)``: the
    value of a run that did not change at all, at this number of rows.

    Args:
        moments: moments of one run.

    Returns:
        The pair, with the same leading dimensions; nothing is copied.
    """
    m = moments
    return PairMoments(a=m, b=m, cross=m.second, a_weighted=m.third, b_weighted=m.third, norms=m.fourth)


def unpaired(a: Moments, b: Moments) -> PairMoments:
    """Two sets of moments whose rows are not paired, for comparisons that do not need pairs.

    For two halves of one run such a comparison returns its split-half ceiling. The sums over pairs of rows are NaN.

    Args:
        a: moments of some rows of a run.
        b: moments of other rows, about the same shift.

    Returns:
        The pair, with the same leading dimensions.
    """
    cross = a.second.new_full((*a.second.shape[:-1], b.second.shape[-1]), torch.nan)
    nothing = torch.full_like(a.first, torch.nan), torch.full_like(b.first, torch.nan)
    return PairMoments(a=a, b=b, cross=cross, a_weighted=nothing[0], b_weighted=nothing[1], norms=cross[..., 0, 0])
