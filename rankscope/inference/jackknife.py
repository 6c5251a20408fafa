r"""Delete-a-group jackknife: standard errors from leaving out each of G groups of samples in turn.

With sums that subtract, it costs one evaluation per group. A bootstrap of rows would be wrong for ranks: rows drawn
twice are copies of each other, and a copy adds no direction.
"""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor

from rankscope.errors import NotComparable, UsageError


def standard_error(left_out: Tensor) -> Tensor:
    r"""Jackknife standard error, :math:`\{\tfrac{G-1}{G}\sum_g(\theta_{(g)}-\bar\theta)^2\}^{1/2}`.

    Tukey 1958; Efron & Stein, "The jackknife estimate of variance", Ann. Statist. 9, 1981.

    Args:
        left_out: ``(G, *)`` the number without each group in turn.

    Returns:
        ``(*,)`` standard errors in the unit of the number.

    Raises:
        NotComparable: with fewer than two groups.
    """
    groups = len(left_out)
    if groups < 2:
        raise NotComparable(f"an interval needs at least 2 groups of samples; there are {groups}: collect more samples")
    apart, size = _scaled(left_out - left_out.mean(0))
    return ((groups - 1) / groups * apart.square().sum(0)).sqrt() * size


def _scaled(apart: Tensor) -> tuple[Tensor, Tensor]:
    """``(G, *)`` deviations in units of the largest, and that unit ``(*,)``, as squares of what is small may be 0."""
    size = apart.abs().amax(0)
    return apart / size.where(size > 0, 1), size


def degrees_of_freedom(parts: Tensor) -> Tensor:
    r"""Degrees of freedom of :func:`standard_error`, from how unequally the groups contribute to it.

    .. math:: \min\Bigl(G - 1,\; \frac{2 G}{\kappa - 1}\Bigr)

    A mean square of G parts with kurtosis κ has the relative variance :math:`(\kappa - 1)/G`, which is that of a χ² over
    so many degrees of freedom. For normal parts κ is 3, and nothing is taken from G - 1. Where few samples have most of the
    rows, or of the variance, the error is known less well than G groups suggest. κ is estimated without bias for normal
    parts, from k-statistics.

    Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics 2, 1946; Joanes & Gill,
    "Comparing measures of sample skewness and kurtosis", The Statistician 47, 1998, equation for G2.

    Args:
        parts: ``(G, *)`` the number without each group in turn, or its pseudo-values.

    Returns:
        ``(*,)`` degrees of freedom, at least 1.
    """
    groups = len(parts)
    squares = _scaled((parts - parts.mean(0)).double())[0].square()
    total = squares.sum(0)
    if groups < 4:
        return torch.full_like(total, max(groups - 1, 1))
    plain = groups * squares.square().sum(0) / total.square().where(total > 0, 1) - 3
    # With fewer groups than ten the correction is larger than what it corrects, and the plain estimate stands
    unbiased = (groups - 1) / ((groups - 2) * (groups - 3)) * ((groups + 1) * plain + 6)
    excess = plain if groups < 10 else unbiased
    degrees = 2 * groups / (excess + 2).clamp(min=torch.finfo(torch.float64).tiny)
    return degrees.where(total > 0, groups - 1).clamp(min=1, max=groups - 1)


def pseudo_values(value: Tensor, left_out: Tensor) -> Tensor:
    r"""Contribution of each group, :math:`G\theta - (G-1)\theta_{(g)}`: nearly independent, with mean about :math:`\theta`.

    Args:
        value: ``(*,)`` the number on all rows.
        left_out: ``(G, *)`` the number without each group in turn.

    Returns:
        ``(G, *)`` pseudo-values in the unit of the number.
    """
    groups = len(left_out)
    return groups * value - (groups - 1) * left_out


def centred_pseudo(value: Tensor, left_out: Tensor) -> Tensor:
    """:func:`pseudo_values` shifted to have the value on all rows as their mean, without the jackknife's bias correction.

    Args:
        value: ``()`` the number on all rows.
        left_out: ``(G,)`` the number without each group in turn.

    Returns:
        ``(G,)`` float64 on the CPU, whose mean is the value.
    """
    value, left_out = value.double().cpu(), left_out.double().cpu()
    pseudo = pseudo_values(value, left_out)
    return pseudo - pseudo.mean() + value


def in_groups(pseudo: Tensor, groups: int) -> Tensor:
    """Pseudo-values of fewer, larger groups, from those of units in order: the mean of those that lie in each.

    Args:
        pseudo: ``(*, U)`` pseudo-values about one mean; unit u lies in group ``u G // U``.
        groups: G, at most U.

    Returns:
        ``(*, G)`` pseudo-values with the same mean.
    """
    units = pseudo.shape[-1]
    if units == groups:
        return pseudo
    mean = pseudo.mean(-1, keepdim=True)
    total = (pseudo.new_zeros(*pseudo.shape[:-1], groups)).index_add_(
        -1, torch.arange(units, device=pseudo.device) * groups // units, pseudo - mean
    )
    return mean + total * (groups / units)


def critical_t(degrees: float | Tensor, level: float) -> Tensor:
    """Two-sided critical value of Student's distribution.

    Args:
        degrees: ``(*,)`` degrees of freedom.
        level: confidence.

    Returns:
        ``(*,)`` critical values, float64 on the CPU.

    Raises:
        UsageError: if the level is not between 0 and 1.
    """
    require_level(level)
    return torch.as_tensor(stats.t.ppf((1 + level) / 2, torch.as_tensor(degrees).cpu().numpy()), dtype=torch.float64)


def require_level(level: float) -> None:
    """Refuse a confidence level outside 0…1 with a :class:`UsageError`."""
    if not 0 < level < 1:
        raise UsageError(f"a confidence level is between 0 and 1, as in 0.95; got {level}")
