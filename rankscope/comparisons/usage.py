r"""Usage of the base's basis: how the tuned run's variance is distributed over the base's principal directions.

Usage cannot demonstrate preservation. The diagonal of a covariance in *any* basis is majorised by its eigenvalues, so
:math:`\exp H(u)` is never below the tuned run's own effective rank, and a collapse onto one random direction still
"uses" 0.482 d directions. Read it together with the effective rank and the variance captured.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from rankscope.comparisons.directions import at_direction
from rankscope.comparisons.requirements import require_pairs
from rankscope.definition import Comparison, width_of
from rankscope.linalg.forms import column_forms
from rankscope.linalg.moments import PairMoments


def usage_shares(fit: PairMoments, evaluate: PairMoments) -> Tensor:
    r"""Share of the tuned run's variance along each principal direction of the base, cross-fitted.

    .. math:: u_i = v_i^\top S_1 v_i / \operatorname{tr} S_1

    where :math:`v_i` comes from the base on the rows of ``fit``, the leading one first, and :math:`S_1` from the tuned
    run on those of ``evaluate``. The shares sum to 1. NaN if the tuned run does not vary.

    Args:
        fit: moments of the rows that determine the basis, leading dimensions ``*``.
        evaluate: moments of other samples.

    Returns:
        ``(*, d)`` shares, float64.

    Raises:
        NotComparable: for runs of different width, or with fewer than 4 rows on either side.
    """
    require_pairs("usage of the base's basis", fit, evaluate, same_width=True)
    basis = torch.linalg.eigh(fit.a.scatter).eigenvectors.flip(-1)
    used = column_forms(basis, evaluate.b.scatter, basis).clamp(min=0)
    return used / evaluate.b.variation[..., None]


def relative_usage(fit: PairMoments, evaluate: PairMoments) -> Tensor:
    """Usage of the tuned run over that of the base on the same held-out rows; 1 where nothing changed.

    Args and errors as :func:`usage_shares`.

    Returns:
        ``(*, d)`` ratios; infinite if the base has no variance along a direction and the tuned run has some.
    """
    return usage_shares(fit, evaluate) / usage_shares(fit, replace(evaluate, b=evaluate.a))


def usage_entropy(fit: PairMoments, evaluate: PairMoments, *, width: int | None = None) -> Tensor:
    r"""Effective number of the base's directions in use, :math:`\exp(-\sum_i u_i\ln u_i)`.

    It lies between the effective rank of the tuned run and d. If the rows of ``fit`` span fewer than d directions, the
    remaining ones have no order, and the variance outside the span counts as spread over them evenly. NaN if the tuned
    run does not vary.

    Args:
        fit: moments of the rows that determine the basis, leading dimensions ``*``.
        evaluate: moments of other samples.
        width: d, if the moments are over fewer coordinates in which all rows lie.

    Returns:
        ``(*,)`` numbers of dimensions, float64.

    Raises:
        NotComparable: for runs of different width, or with fewer than 4 rows on either side.
    """
    d = fit.a.width if width is None else width
    used = usage_shares(fit, evaluate)
    values = torch.linalg.eigvalsh(fit.a.scatter).flip(-1)
    spanned = values > fit.a.width * torch.finfo(values.dtype).eps * values[..., :1]
    others = d - spanned.sum(-1)
    outside = (used * ~spanned).sum(-1) / others.clamp(min=1)
    # -Σ u ln u over the directions spanned, plus the d - k others at an equal share each
    within = torch.special.entr(used).where(spanned, 0).sum(-1)
    return (within + others * torch.special.entr(outside)).exp()


def of_direction(direction: int, *, relative: bool = False) -> Comparison:
    """The usage of one direction as a named number of two runs: ``usage-1``, ``relative-usage-12``."""
    share = f"v' S1 v / tr S1, v the base's principal direction {direction} on other samples"
    return Comparison(
        linear=False,
        name=f"{'relative-' * relative}usage-{direction}",
        directed=True,
        function=at_direction(relative_usage if relative else usage_shares, direction),
        reads="folds",
        formula=f"u1 / u0, u = {share}; u0 that of the base itself" if relative else share,
        citation="Jolliffe, Principal Component Analysis, 2002, cross-fitted, a direction at a time",
        high="unbounded" if relative else "1",
        most=math.inf if relative else 1.0,
        bias="none in S1 (cross-fitted); towards 1/d as long as the direction is uncertain, which the base itself shows; "
        f"any direction can be named: {'relative-' * relative}usage-2",
        noise="1/(d u0)" if relative else "1/d",
        unit="shares of the base" if relative else "share of variance",
        same_width=True,
    )


ENTROPY = Comparison(
    name="usage-entropy",
    directed=True,
    function=usage_entropy,
    takes=("width",),
    reads="folds",
    formula="exp(-sum_i u_i ln u_i), u_i = vi' S1 vi / tr S1, vi the base's principal directions on other samples",
    citation="Shannon entropy of the usage shares; the lower bound is Schur's (1923)",
    low="the effective rank of the tuned run",
    high="d",
    least=1.0,
    most=width_of,
    of_nothing=0.0,
    bias="downwards with 1/n, like any entropy of a spectrum",
    noise="near d: a random rotation gives nearly d whatever the rank, a random single direction 0.482 d",
    unit="dimensions",
    same_width=True,
)

COMPARISONS = (ENTROPY, of_direction(1), of_direction(1, relative=True))
