"""A run compared with itself: what the best possible tuned run would score."""

from __future__ import annotations

from rankscope.linalg.moments import Moments, PairMoments


def itself(moments: Moments) -> PairMoments:
    """The moments of a run paired with the very same rows of the same run.

    Any comparison that reads folds, given ``itself(fit.a)`` and ``itself(evaluate.a)``, returns its split-half ceiling:
    the value of a run that did not change at all, at this number of rows.

    Args:
        moments: moments of one run.

    Returns:
        The pair, with the same leading dimensions; nothing is copied.
    """
    m = moments
    return PairMoments(a=m, b=m, cross=m.second, a_weighted=m.third, b_weighted=m.third, norms=m.fourth)
