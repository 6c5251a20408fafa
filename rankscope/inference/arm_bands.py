r"""Many sites at once where both samples and trainings vary: bands that hold simultaneously.

As in :mod:`rankscope.inference.bands` the largest :math:`|t|` over sites gives one level for all. Few trainings cannot be
shuffled, so it is drawn: the samples' part with the dependence that the sites have over groups of samples, the
trainings' part independently at each site, for three trainings do not tell how sites depend and independence gives the
widest bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.inference.jackknife import critical_t


class ArmBands(NamedTuple):
    """Simultaneous inference over sites for an arm, or for the difference of two."""

    low: Tensor
    """``(s,)`` lower ends; NaN where the site has no number."""
    high: Tensor
    """``(s,)`` upper ends."""
    p: Tensor
    """``(s,)`` p-value of no difference from 0, adjusted for all sites."""


def arm_bands(
    value: Tensor,
    se: Tensor,
    df: Tensor,
    parts: Sequence[Tensor],
    *,
    level: float = 0.95,
    draws: int = 4999,
    generator: torch.Generator | None = None,
) -> ArmBands:
    """Simultaneous bands over sites, with samples and trainings both in them.

    Args:
        value: ``(s,)`` the estimate at each site.
        se: ``(s,)`` its standard error, of samples and trainings together.
        df: ``(s,)`` degrees of freedom of that.
        parts: ``(R, G, s)`` pseudo-values of each arm in the estimate, with the sign that they have in it.
        level: simultaneous confidence.
        draws: number of draws of the largest |t|.
        generator: source of randomness; seeded where nothing is given.

    Raises:
        UsageError: for a level outside 0…1.
    """
    if not 0 < level < 1:
        raise UsageError(f"a confidence level is between 0 and 1; got {level}")
    generator = torch.Generator().manual_seed(draws) if generator is None else generator
    known = value.isfinite() & se.isfinite()
    low, high, p = (torch.full_like(value, torch.nan) for _ in range(3))
    if not known.any():
        return ArmBands(low, high, p)
    largest = _largest([part[..., known] for part in parts], draws, generator)
    z = float(torch.quantile(largest, level, interpolation="higher")) if largest.any() else 0.0
    alone = max(level, 2 * float(stats.norm.cdf(z)) - 1)
    reach = critical_t(df[known], alone) * se[known]
    low[known], high[known] = value[known] - reach, value[known] + reach
    p[known] = _adjusted(value[known], se[known], df[known], largest)
    return ArmBands(low, high, p)


def _largest(parts: Sequence[Tensor], draws: int, generator: torch.Generator) -> Tensor:
    """``(B,)`` the largest |z| over sites when nothing differs."""
    paired = torch.stack([part.mean(0) for part in parts]).sum(0)
    groups, sites = paired.shape
    spread = (paired - paired.mean(0)) / (groups * (groups - 1)) ** 0.5
    z = torch.randn(draws, groups, generator=generator, dtype=torch.float64) @ spread
    variance = spread.square().sum(0)
    for part in (part for part in parts if len(part) > 1):
        seeds = part.mean(1).var(0) / len(part)
        z = z + torch.randn(draws, sites, generator=generator, dtype=torch.float64) * seeds.sqrt()
        variance = variance + seeds
    return (z / variance.where(variance > 0, 1).sqrt()).abs().amax(1)


def _adjusted(value: Tensor, se: Tensor, df: Tensor, largest: Tensor) -> Tensor:
    t = (value.abs() / se.where(se > 0, 1)).where(se > 0, torch.where(value == 0, 0.0, torch.inf))
    alone = torch.as_tensor(2 * stats.t.sf(t.numpy(), df.numpy()), dtype=torch.float64)
    z = torch.as_tensor(stats.norm.isf(alone.numpy() / 2), dtype=torch.float64)
    reached = (largest[:, None] >= z * (1 - 1e-12)).double().mean(0)
    return torch.maximum(reached, alone)
