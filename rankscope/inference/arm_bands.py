r"""Many sites at once when both samples and trainings vary: simultaneous bands.

As in :mod:`rankscope.inference.bands`, the largest :math:`|t|` over sites gives one level for all. A few trainings
cannot be shuffled, so its distribution is simulated: the samples' part with the dependence between sites over groups of
samples, and the trainings' part independently at each site. Three trainings do not reveal the dependence between sites,
and independence gives the widest bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from rankscope.inference.jackknife import critical_t, require_level


class ArmBands(NamedTuple):
    """Simultaneous inference over sites, for an arm or for the difference of two arms."""

    low: Tensor
    """``(s,)`` lower ends; NaN at a site without a number."""
    high: Tensor
    """``(s,)`` upper ends."""
    p: Tensor
    """``(s,)`` p-value of no difference from 0, adjusted for all sites."""
    critical: Tensor
    """``(s,)`` standard errors from the estimate to either end."""


def arm_bands(
    value: Tensor,
    se: Tensor,
    df: Tensor,
    parts: Sequence[Tensor],
    *,
    within: Tensor | float = 0.0,
    level: float = 0.95,
    draws: int = 4999,
    generator: torch.Generator | None = None,
) -> ArmBands:
    """Simultaneous bands over sites that account for both samples and trainings.

    Args:
        value: ``(s,)`` the estimate at each site.
        se: ``(s,)`` its standard error, due to samples and trainings together.
        df: ``(s,)`` degrees of freedom of the standard error.
        parts: ``(R, G, s)`` pseudo-values of each arm in the estimate, with the sign of the arm in it.
        within: ``(s,)`` how far from 0 an estimate may lie and count as 0; only p asks for it. See
            :func:`rankscope.inference.bands.max_t`.
        level: simultaneous confidence.
        draws: number of draws of the largest |t|.
        generator: source of randomness; by default a generator with a fixed seed.

    Raises:
        UsageError: for a level outside 0…1.
    """
    require_level(level)
    generator = torch.Generator().manual_seed(draws) if generator is None else generator
    known = value.isfinite() & se.isfinite()
    low, high, p, critical = (torch.full_like(value, torch.nan) for _ in range(4))
    if not known.any():
        return ArmBands(low, high, p, critical)
    largest = _largest([part[..., known] for part in parts], draws, generator)
    z = float(torch.quantile(largest, level, interpolation="higher")) if largest.any() else 0.0
    # The level at which a single z would reach as far as the largest of all, applied to Student's t of each site
    alone = max(level, 2 * float(stats.norm.cdf(z)) - 1)
    critical[known] = critical_t(df[known], alone)
    reach = critical[known] * se[known]
    low[known], high[known] = value[known] - reach, value[known] + reach
    beyond = (value.abs() - within).clamp(min=0)
    p[known] = _adjusted(beyond[known], se[known], df[known], largest)
    return ArmBands(low, high, p, critical)


def _largest(parts: Sequence[Tensor], draws: int, generator: torch.Generator) -> Tensor:
    """``(B,)`` draws of the largest |z| over sites under the hypothesis of no difference."""
    paired = torch.stack([part.mean(0) for part in parts]).sum(0)
    groups, sites = paired.shape
    # Normal weights on the groups' residuals have the covariance of the mean over groups, at all sites together
    spread = (paired - paired.mean(0)) / (groups * (groups - 1)) ** 0.5
    z = torch.randn(draws, groups, generator=generator, dtype=torch.float64) @ spread
    variance = spread.square().sum(0)
    for part in (part for part in parts if len(part) > 1):
        seeds = part.mean(1).var(0) / len(part)
        z = z + torch.randn(draws, sites, generator=generator, dtype=torch.float64) * seeds.sqrt()
        variance = variance + seeds
    return (z / variance.where(variance > 0, 1).sqrt()).abs().amax(1)


def _adjusted(value: Tensor, se: Tensor, df: Tensor, largest: Tensor) -> Tensor:
    """``(s,)`` p-values of magnitudes, adjusted for all sites: the share of draws that reach a site's |t|, mapped to |z|."""
    t = (value / se.where(se > 0, 1)).where(se > 0, torch.where(value == 0, 0.0, torch.inf))
    alone = torch.as_tensor(2 * stats.t.sf(t.numpy(), df.numpy()), dtype=torch.float64)
    z = torch.as_tensor(stats.norm.isf(alone.numpy() / 2), dtype=torch.float64)
    reached = (largest[:, None] >= z * (1 - 1e-12)).double().mean(0)
    return torch.maximum(reached, alone)
