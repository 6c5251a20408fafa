r"""Seeds as a level of their own, and equivalence as a finding.

Rows say how well a number of *this* checkpoint is known; only several trainings say what a *method* does. An arm is
several runs of one recipe on the same samples, a table of pseudo-values with a row a run and a column a group of
samples. A two-way analysis of variance separates the runs' spread from the samples'.

"Preserves" is never the absence of a significant difference: two one-sided tests against a margin make it a finding, and
the margin is the *retraining floor*, how far two trainings of one recipe lie apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from rankscope.errors import NotComparable, UsageError
from rankscope.inference.jackknife import critical_t


class Components(NamedTuple):
    """What an arm's mean is uncertain from."""

    mean: Tensor
    """``(*,)`` mean over runs."""
    seed_sd: Tensor
    """``(*,)`` standard deviation between trainings, row noise taken out; NaN with one run."""
    sample_se: Tensor
    """``(*,)`` standard error of the mean that the samples leave, common to all runs included."""
    seed_se: Tensor
    """``(*,)`` standard error of the mean that the trainings leave; NaN with one run."""
    se: Tensor
    """``(*,)`` both together; of the samples alone with one run."""
    df: Tensor
    """``(*,)`` degrees of freedom of ``se`` (Satterthwaite)."""
    runs: int
    """Trainings in the arm."""
    groups: int
    """Groups of samples."""


def components(pseudo: Tensor) -> Components:
    r"""Separate row noise from seed noise in one arm.

    With :math:`P_{rg} = \mu + s_r + c_g + e_{rg}`, the variance of the mean over runs and groups is
    :math:`\sigma_s^2/R + \sigma_c^2/G + \sigma_e^2/(RG)`, estimated by the mean squares of the two-way table.

    Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics 2, 1946.

    Args:
        pseudo: ``(R, G, *)`` pseudo-values of each run, the same groups of samples in each.

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
        degrees = torch.full_like(by_samples, groups - 1)
        return Components(per_group.mean(0), nothing, by_samples.sqrt(), nothing, by_samples.sqrt(), degrees, 1, groups)
    within = _residual(pseudo)
    by_seeds = per_run.var(0) / runs
    total = _joined(by_samples, by_seeds, within / (runs * groups))
    degrees = total.square() / (by_samples.square() / (groups - 1) + by_seeds.square() / (runs - 1))
    spread = (per_run.var(0) - within / groups).clamp(min=0).sqrt()
    degrees = degrees.nan_to_num(nan=float(groups - 1))
    return Components(
        per_group.mean(0), spread, by_samples.sqrt(), by_seeds.sqrt(), total.sqrt(), degrees, runs, groups
    )


def _shape(pseudo: Tensor) -> tuple[int, int]:
    if pseudo.ndim < 2 or not pseudo.shape[0] or pseudo.shape[1] < 2:
        raise NotComparable(
            f"an arm is (runs, groups) pseudo-values with a run and 2 groups at least; got shape {tuple(pseudo.shape)}"
        )
    return pseudo.shape[0], pseudo.shape[1]


def _residual(pseudo: Tensor) -> Tensor:
    """``(*,)`` mean square of what neither the run nor the group explains."""
    runs, groups = pseudo.shape[:2]
    rest = pseudo - pseudo.mean(1, keepdim=True) - pseudo.mean(0, keepdim=True) + pseudo.mean((0, 1))
    return rest.square().sum((0, 1)) / ((runs - 1) * (groups - 1))


def _joined(samples: Tensor, seeds: Tensor, twice: Tensor) -> Tensor:
    """Variances of both sources together; each holds the residual once, so it is taken away, but never below either."""
    return torch.maximum(samples + seeds - twice, torch.maximum(samples, seeds))


class ArmDifference(NamedTuple):
    """How two arms differ."""

    value: Tensor
    """``(*,)`` mean of the second arm minus that of the first."""
    low: Tensor
    """``(*,)`` lower end of its interval."""
    high: Tensor
    """``(*,)`` upper end."""
    se: Tensor
    """``(*,)`` standard error, of samples and trainings together."""
    df: Tensor
    """``(*,)`` degrees of freedom (Satterthwaite)."""
    seed_se: Tensor
    """``(*,)`` the part of the trainings; NaN where an arm has one run, and the rest then speaks of these runs only."""
    sample_se: Tensor
    """``(*,)`` the part of the samples, paired across arms."""
    level: float
    """Confidence."""


def arm_difference(a: Tensor, b: Tensor, *, level: float = 0.95) -> ArmDifference:
    """The difference of two arms on the same samples, with seed noise and row noise both in its interval.

    Where an arm has one run, its seed noise is unknown: the interval then speaks of that run, not of the method, and
    ``seed_se`` is NaN.

    Args:
        a: ``(R_a, G, *)`` pseudo-values of the first arm.
        b: ``(R_b, G, *)`` pseudo-values of the second arm, the same groups of samples.
        level: confidence.

    Returns:
        ``b - a`` with its interval.

    Raises:
        NotComparable: with fewer than two groups, or different groups.
    """
    (runs_a, groups), (runs_b, other) = _shape(a), _shape(b)
    if groups != other:
        raise NotComparable(f"arms are compared on the same groups of samples; one has {groups} and the other {other}")
    arms = [(x.double(), runs) for x, runs in ((a, runs_a), (b, runs_b))]
    paired = arms[1][0].mean(0) - arms[0][0].mean(0)
    by_samples = paired.var(0) / groups
    seeds, twice, denominator = (
        torch.zeros_like(by_samples),
        torch.zeros_like(by_samples),
        by_samples.square() / (groups - 1),
    )
    for x, runs in arms:
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
    r"""How far two trainings of one recipe may lie apart, :math:`t_{R-1}\sqrt2\,s`.

    A difference between methods that is smaller than this is one that the same method shows against itself. It is the
    margin of :func:`equivalence`.

    Args:
        values: ``(R, *)`` the number of each training of one recipe, differing in seed only.
        level: the share of pairs of trainings that lie closer.

    Returns:
        ``(*,)`` distances in the unit of the number.

    Raises:
        NotComparable: with fewer than three trainings.
    """
    if len(values) < 3:
        raise NotComparable(f"a retraining floor needs at least 3 runs of one recipe; there are {len(values)}")
    return critical_t(len(values) - 1, level).to(values.device) * 2**0.5 * values.double().std(0)


class Equivalence(NamedTuple):
    """Whether a difference is shown to be smaller than a margin."""

    equivalent: Tensor
    """``(*,)`` bool: whether both one-sided tests reject, so that the difference lies inside the margin."""
    p: Tensor
    """``(*,)`` the larger p of the two one-sided tests."""
    low: Tensor
    """``(*,)`` lower end of the interval of confidence 2·level - 1, which lies inside the margin when equivalent."""
    high: Tensor
    """``(*,)`` its upper end."""
    margin: Tensor
    """``(*,)`` the margin."""


def equivalence(
    value: Tensor, se: Tensor, df: float | Tensor, *, margin: float | Tensor, level: float = 0.95
) -> Equivalence:
    """Two one-sided t tests (TOST) that a difference lies inside ±margin.

    Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987.

    Args:
        value: ``(*,)`` the difference.
        se: ``(*,)`` its standard error.
        df: degrees of freedom of the standard error.
        margin: what counts as no difference, in the unit of the difference; positive.
        level: one minus the probability of calling a difference at the margin equivalent.

    Returns:
        The verdict with its p-value and interval.

    Raises:
        UsageError: if the margin is not positive or the level not between one half and 1.
    """
    margin = torch.as_tensor(margin, dtype=torch.float64).expand_as(value)
    if not (margin > 0).all() or not 0.5 < level < 1:
        raise UsageError("an equivalence test needs a positive margin and a level between 0.5 and 1")
    degrees = torch.as_tensor(df, dtype=torch.float64).cpu().numpy()
    worst = (value.abs() - margin) / se
    p = torch.as_tensor(stats.t.cdf(worst.cpu().numpy(), degrees), dtype=torch.float64, device=value.device)
    p = p.where(se > 0, (value.abs() >= margin).double())
    reach = critical_t(torch.as_tensor(df, dtype=torch.float64), 2 * level - 1).to(value.device) * se
    return Equivalence(p < 1 - level, p, value - reach, value + reach, margin)
