r"""Many sites at once: which differences remain significant when all sites are tested together.

The sites of one network are tested on the same samples and are strongly dependent. Flipping the sign of a whole group's
pseudo-values, at all sites alike, preserves that dependence under the hypothesis of no difference; the largest
:math:`|t|` over sites in each flip gives p-values adjusted for all sites. Bands flip the residuals after subtracting
each site's mean, because a large difference, which flips alike everywhere, would make them too narrow.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.errors import NotComparable, UsageError


class Bands(NamedTuple):
    """Simultaneous inference over sites."""

    mean: Tensor
    """``(s,)`` mean of the pseudo-values at each site."""
    se: Tensor
    """``(s,)`` its standard error."""
    t: Tensor
    """``(s,)`` mean over standard error; 0 where both are 0."""
    p: Tensor
    """``(s,)`` p-value adjusted for all sites."""
    low: Tensor
    """``(s,)`` lower end of the simultaneous band."""
    high: Tensor
    """``(s,)`` upper end of the simultaneous band."""
    critical: float
    """The value that the largest |t| about the true differences exceeds with probability 1 - level."""
    level: float
    """Simultaneous confidence."""


def max_t(
    pseudo: Tensor,
    *,
    within: Tensor | None = None,
    level: float = 0.95,
    flips: int = 4999,
    generator: torch.Generator | None = None,
    signs: Tensor | None = None,
    tested: bool = True,
) -> Bands:
    """Sign-flip max-T test and simultaneous bands over sites.

    Westfall & Young, "Resampling-based multiple testing", 1993; Nichols & Holmes, Hum. Brain Mapp. 15, 2002.

    Args:
        pseudo: ``(G, s)`` pseudo-values of a difference, one row per group of samples and one column per site; see
            :func:`rankscope.inference.jackknife.pseudo_values`.
        within: ``(s,)`` how far from 0 a difference may lie and count as none, as two numbers less than a step apart may round to
            the same one; only p asks for it. None for 0.
        level: simultaneous confidence.
        flips: number of random sign flips; if no more exist, all of them are used.
        generator: source of randomness.
        signs: ``(B, G)`` the sign flips, as :func:`sign_flips` draws them, where several tests share them.
        tested: whether p is asked for; without it, it is NaN.

    Returns:
        Adjusted p-values and bands. A site whose pseudo-values do not vary has p = 1 if they are 0, else an infinite t.

    Raises:
        NotComparable: with fewer than six groups, as five have only 16 different flips and no p below 0.06.
        UsageError: for a level outside 0…1, or pseudo-values that are not ``(G, s)``.
    """
    if pseudo.ndim != 2 or not 0 < level < 1:
        raise UsageError(f"max-T needs (G, s) pseudo-values and a level in 0..1; got {tuple(pseudo.shape)} and {level}")
    groups = len(pseudo)
    if groups < 6:
        raise NotComparable(f"sign flips need at least 6 groups of samples; there are {groups}: collect more samples")
    pseudo = pseudo.double()
    mean = pseudo.mean(0)
    t, se = _student(mean, pseudo.square().sum(0), groups)
    signs = (sign_flips(groups, flips, generator) if signs is None else signs).to(pseudo)
    p = _p(signs, pseudo, mean, within) if tested else torch.full_like(t, torch.nan)
    critical = float(torch.quantile(_largest(signs, pseudo - mean), level, interpolation="higher"))
    return Bands(
        mean, se, t, p.where(~t.isnan(), torch.nan), mean - critical * se, mean + critical * se, critical, level
    )


def _p(signs: Tensor, pseudo: Tensor, mean: Tensor, within: Tensor | None) -> Tensor:
    """``(s,)`` the share of flips in which the largest |t| reaches that of a site."""
    # Of all differences that count as none, the one nearest to what was found is the hardest to reject
    null = pseudo - (0 if within is None else mean.clamp(-within, within))
    beyond, _ = _student(null.mean(0), null.square().sum(0), len(null))
    largest = _largest(signs, null)
    # Ties count as reached; the factor absorbs the rounding of equal sums in another order
    reached = (largest[:, None] >= beyond.abs() * (1 - 1e-12)).sum(0).double()
    return reached / len(largest)


def _largest(signs: Tensor, pseudo: Tensor) -> Tensor:
    """``(B,)`` the largest |t| over sites in each flip."""
    groups = len(pseudo)
    flipped, _ = _student(signs @ pseudo / groups, pseudo.square().sum(0), groups)
    return flipped.abs().nan_to_num(nan=0.0).amax(-1)


def _student(mean: Tensor, squares: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """t and the standard error, from ``(*, s)`` means and ``(s,)`` sums of squares, which no flip changes."""
    se = ((squares / groups - mean.square()).clamp(min=0) / (groups - 1)).sqrt()
    return torch.where(mean == 0, 0, mean / se).where(mean.isfinite(), torch.nan), se


def sign_flips(groups: int, flips: int = 4999, generator: torch.Generator | None = None) -> Tensor:
    """``(B, G)`` signs, the first row all positive: every pattern up to a common sign, or random ones."""
    if groups <= 32 and 2 ** (groups - 1) <= flips + 1:
        return torch.tensor([(1.0, *rest) for rest in product((1.0, -1.0), repeat=groups - 1)])
    drawn = torch.randint(0, 2, (flips, groups), generator=generator) * 2.0 - 1.0
    return torch.cat([torch.ones(1, groups), drawn])
