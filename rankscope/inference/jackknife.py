r"""Delete-a-group jackknife: intervals from leaving out each of G groups of samples in turn.

With sums that subtract, it costs one evaluation per group. A bootstrap of rows would be wrong for ranks: rows drawn
twice are copies of each other, and a copy adds no direction.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from scipy import stats
from torch import Tensor

from rankscope.errors import NotComparable, UsageError

Scale = Literal["identity", "log"]
"""The scale on which an interval is computed: the value itself, or its logarithm (for positive measures such as ranks)."""


class Interval(NamedTuple):
    """A number with its sampling uncertainty."""

    value: Tensor
    """``(*,)`` the number on all rows."""
    low: Tensor
    """``(*,)`` lower end."""
    high: Tensor
    """``(*,)`` upper end."""
    se: Tensor
    """``(*,)`` standard error on the scale of the interval: of the natural logarithm if the scale is ``log``."""
    level: float
    """Confidence, 0.95 for instance."""
    groups: int
    """Number of groups of samples left out in turn; Student's distribution has one degree of freedom less."""


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
    spread = (left_out - left_out.mean(0)).square().sum(0)
    return ((groups - 1) / groups * spread).sqrt()


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


def interval(value: Tensor, left_out: Tensor, *, scale: Scale = "identity", level: float = 0.95) -> Interval:
    """Student's confidence interval from a delete-a-group jackknife.

    Args:
        value: ``(*,)`` the number on all rows.
        left_out: ``(G, *)`` the number without each group in turn.
        scale: ``log`` for positive measures; the ends are NaN if a number is then not positive.
        level: confidence.

    Returns:
        The interval, with G - 1 degrees of freedom. If no group changes the value, both ends are the value itself.

    Raises:
        NotComparable: with fewer than two groups.
        UsageError: for a level outside 0…1 or another scale.
    """
    if scale not in ("identity", "log"):
        raise UsageError(f"an interval is computed on the scale identity or log; got {scale!r}")
    value, left_out = value.double(), left_out.double()
    constant = (left_out == value).all(0)
    # The interval of ln θ is symmetric about ln θ; its ends are exponentiated, hence multiplied
    se = standard_error(left_out if scale == "identity" else left_out.log()).where(~constant, 0)
    reach = critical_t(len(left_out) - 1, level).to(value.device) * se
    ends = (value - reach, value + reach) if scale == "identity" else (value * (-reach).exp(), value * reach.exp())
    return Interval(value, *ends, se, level, len(left_out))
