r"""Seeds as a separate level of variation, and equivalence as a positive finding.

Rows determine how precisely a number of *this* checkpoint is known; only several trainings show what a *method* does.
An arm is several runs of one recipe on the same samples: a table of pseudo-values with one row per run and one column
per group of samples. A two-way analysis of variance separates the variation between runs from that between samples.

"Preserves" never means the absence of a significant difference: two one-sided tests against a margin can establish it,
and the margin is the *retraining floor*, the distance between two trainings of one recipe.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from rankscope.errors import NotComparable, UsageError
from rankscope.inference.jackknife import critical_t, degrees_of_freedom


class Components(NamedTuple):
    """The sources of uncertainty of an arm's mean."""

    mean: Tensor
    """``(*,)`` mean over runs."""
    seed_sd: Tensor
    """``(*,)`` standard deviation between trainings, corrected for row noise; NaN with one run."""
    sample_se: Tensor
    """``(*,)`` standard error of the mean due to the samples, including what all runs share."""
    seed_se: Tensor
    """``(*,)`` standard error of the mean due to the trainings; NaN with one run."""
    se: Tensor
    """``(*,)`` standard error due to both; with one run, to the samples alone."""
    df: Tensor
    """``(*,)`` degrees of freedom of ``se`` (Satterthwaite)."""
    runs: int
    """Number of trainings in the arm."""
    groups: int
    """Number of groups of samples."""


def components(pseudo: Tensor) -> Components:
    r"""Separate row noise from seed noise in one arm.

    For :math:`P_{rg} = \mu + s_r + c_g + e_{rg}` the variance of the mean over runs and groups is
    :math:`\sigma_s^2/R + \sigma_c^2/G + \sigma_e^2/(RG)`, estimated from the mean squares of the two-way table.

    Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics 2, 1946.

    Args:
        pseudo: ``(R, G, *)`` pseudo-values of each run, over the same groups of samples.

    Returns:
        The mean with its standard error from each source.

    Raises:
        NotComparable: with fewer than two groups.
    """
    runs, groups = _shape(pseudo)
    pseudo = pseudo.double()
    per_run, per_group = pseudo.mean(1), pseudo.mean(0)
    by_samples = per_group.var(0) / groups
    if runs == 1:
        nothing = torch.full_like(by_samples, torch.nan)
        degrees = degrees_of_freedom(per_group)
        return Components(per_group.mean(0), nothing, by_samples.sqrt(), nothing, by_samples.sqrt(), degrees, 1, groups)
    within = _residual(pseudo)
    by_seeds = per_run.var(0) / runs
    total = _joined(by_samples, by_seeds, within / (runs * groups))
    # Satterthwaite: the degrees of freedom at which a χ² has the mean and variance of the estimate
    of_samples = by_samples.square() / degrees_of_freedom(per_group)
    degrees = total.square() / (of_samples + by_seeds.square() / (runs - 1))
    # Run means vary by σ_s² + σ_e²/G: take the second part away
    spread = (per_run.var(0) - within / groups).clamp(min=0).sqrt()
    degrees = degrees.nan_to_num(nan=float(groups - 1))
    return Components(
        per_group.mean(0), spread, by_samples.sqrt(), by_seeds.sqrt(), total.sqrt(), degrees, runs, groups
    )


def _shape(pseudo: Tensor) -> tuple[int, int]:
    """The numbers of runs and groups, R and G."""
    if pseudo.ndim < 2 or not pseudo.shape[0] or pseudo.shape[1] < 2:
        raise NotComparable(
            f"an arm is (runs, groups) pseudo-values of at least 1 run and 2 groups; got shape {tuple(pseudo.shape)}"
        )
    return pseudo.shape[0], pseudo.shape[1]


def _residual(pseudo: Tensor) -> Tensor:
    """``(*,)`` mean square of the residuals that neither run nor group explains, an estimate of σ_e²."""
    runs, groups = pseudo.shape[:2]
    rest = pseudo - pseudo.mean(1, keepdim=True) - pseudo.mean(0, keepdim=True) + pseudo.mean((0, 1))
    return rest.square().sum((0, 1)) / ((runs - 1) * (groups - 1))


def _joined(samples: Tensor, seeds: Tensor, twice: Tensor) -> Tensor:
    """Variance due to both sources. Each contains the residual once, so one is subtracted, but never below either source."""
    return torch.maximum(samples + seeds - twice, torch.maximum(samples, seeds))


class ArmDifference(NamedTuple):
    """The difference of two arms."""

    value: Tensor
    """``(*,)`` mean of the second arm minus that of the first."""
    low: Tensor
    """``(*,)`` lower end of its interval."""
    high: Tensor
    """``(*,)`` upper end."""
    se: Tensor
    """``(*,)`` standard error due to samples and trainings together."""
    df: Tensor
    """``(*,)`` degrees of freedom (Satterthwaite)."""
    seed_se: Tensor
    """``(*,)`` the part due to the trainings; NaN if an arm has one run, and the rest then describes these runs only."""
    sample_se: Tensor
    """``(*,)`` the part due to the samples, paired across arms."""
    level: float
    """Confidence."""


def arm_difference(a: Tensor, b: Tensor, *, level: float = 0.95) -> ArmDifference:
    """The difference of two arms on the same samples, with both seed noise and row noise in its interval.

    If an arm has only one run, its seed noise is unknown: the interval then describes that run, not the method, and
    ``seed_se`` is NaN.

    Args:
        a: ``(R_a, G, *)`` pseudo-values of the first arm.
        b: ``(R_b, G, *)`` pseudo-values of the second arm, over the same groups of samples.
        level: confidence.

    Returns:
        ``b - a`` with its interval.

    Raises:
        NotComparable: with fewer than two groups, or different groups.
    """
    (runs_a, groups), (runs_b, other) = _shape(a), _shape(b)
    if groups != other:
        raise NotComparable(f"arms are compared on the same groups of samples; one has {groups} and the other {other}")
    a, b = a.double(), b.double()
    paired = b.mean(0) - a.mean(0)
    by_samples = paired.var(0) / groups
    seeds = twice = torch.zeros_like(by_samples)
    denominator = by_samples.square() / degrees_of_freedom(paired)
    # The arms have independent trainings, so their variances add; Satterthwaite sums their squares over their degrees
    for x, runs in ((a, runs_a), (b, runs_b)):
        if runs > 1:
            part = x.mean(1).var(0) / runs
            seeds, denominator = seeds + part, denominator + part.square() / (runs - 1)
            twice = twice + _residual(x) / (runs * groups)
    variance = _joined(by_samples, seeds, twice)
    degrees = (variance.square() / denominator).nan_to_num(nan=float(groups - 1))
    reach = critical_t(degrees, level).to(variance.device) * variance.sqrt()
    value = paired.mean(0)
    known = seeds.sqrt() if min(runs_a, runs_b) > 1 else torch.full_like(seeds, torch.nan)
    return ArmDifference(value, value - reach, value + reach, variance.sqrt(), degrees, known, by_samples.sqrt(), level)


def retraining_floor(values: Tensor, *, level: float = 0.95) -> Tensor:
    r"""Distance that two trainings of one recipe may have by chance, :math:`t_{R-1}\sqrt2\,s`.

    A smaller difference between methods is one that a method also shows against itself. It is the margin of
    :func:`equivalence`.

    Args:
        values: ``(R, *)`` the number for each training of one recipe; only the seed differs.
        level: the share of pairs of trainings that are closer.

    Returns:
        ``(*,)`` distances in the unit of the number.

    Raises:
        NotComparable: with fewer than three trainings.
    """
    if len(values) < 3:
        raise NotComparable(
            f"a retraining floor needs at least 3 runs of one recipe; there are {len(values)}: train more seeds"
        )
    return critical_t(len(values) - 1, level).to(values.device) * 2**0.5 * values.double().std(0)


class Equivalence(NamedTuple):
    """The verdict whether a difference is smaller than a margin."""

    equivalent: Tensor
    """``(*,)`` bool: whether both one-sided tests reject, so that the difference lies within the margin."""
    p: Tensor
    """``(*,)`` the larger p of the two one-sided tests."""
    low: Tensor
    """``(*,)`` lower end of the interval of confidence 2·level - 1, which lies within the margin if equivalent."""
    high: Tensor
    """``(*,)`` its upper end."""
    margin: Tensor
    """``(*,)`` the margin."""


def equivalence(
    value: Tensor, se: Tensor, df: float | Tensor, *, margin: float | Tensor, level: float = 0.95
) -> Equivalence:
    """Two one-sided t tests (TOST) that a difference lies within ±margin.

    Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987.

    Args:
        value: ``(*,)`` the difference.
        se: ``(*,)`` its standard error.
        df: degrees of freedom of the standard error.
        margin: the largest difference that counts as none, in the unit of the difference; positive.
        level: one minus the probability of calling a difference equal to the margin equivalent.

    Returns:
        The verdict with its p-value and interval.

    Raises:
        UsageError: if the margin is not positive, or the level not between 0.5 and 1.
    """
    margin = torch.as_tensor(margin, dtype=torch.float64).expand_as(value)
    if not (margin > 0).all() or not 0.5 < level < 1:
        raise UsageError("an equivalence test needs a positive margin and a level between 0.5 and 1")
    degrees = torch.as_tensor(df, dtype=torch.float64).cpu().numpy()
    # Of the two one-sided tests the one against the nearer margin has the larger p
    worst = (value.abs() - margin) / se
    p = torch.as_tensor(stats.t.cdf(worst.cpu().numpy(), degrees), dtype=torch.float64, device=value.device)
    p = p.where(se > 0, (value.abs() >= margin).double())
    reach = critical_t(torch.as_tensor(df, dtype=torch.float64), 2 * level - 1).to(value.device) * se
    return Equivalence(p < 1 - level, p, value - reach, value + reach, margin)
