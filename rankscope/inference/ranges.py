r"""Intervals that stay inside the range of the number they are of.

The scale follows from the range: the logit between two ends (for -1…1 this is Fisher's, up to a factor of two), the
logarithm of the distance from the only end, and the number itself where there is none. Where a value or a replicate lies on
an end, or the interval on the number itself leaves the range, leaving out samples says nothing of use, and there is none.
"""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from rankscope.definition import Range
from rankscope.inference.jackknife import Interval, Scale, interval

ROUNDING = 1e-9
"""The share of an end, or of 1, by which the rounding of float64 sums may carry a number beyond it."""


class Bounded(NamedTuple):
    """An interval inside a range, or why there is none."""

    interval: Interval | None
    """The interval; None where there is none of use."""
    reason: str = ""
    """Why not; empty where there is one."""


def to_scale(x: Tensor, within: Range) -> Tensor:
    """``(*,)`` numbers on the scale of their range; infinite on an end and NaN beyond it."""
    if isfinite(within.least) and isfinite(within.most):
        return (x - within.least).log() - (within.most - x).log()
    if isfinite(within.least):
        return (x - within.least).log()
    return -(within.most - x).log() if isfinite(within.most) else x


def from_scale(u: Tensor, within: Range) -> Tensor:
    """``(*,)`` numbers from the scale of their range, the inverse of :func:`to_scale`."""
    if isfinite(within.least) and isfinite(within.most):
        return within.least + (within.most - within.least) * u.sigmoid()
    if isfinite(within.least):
        return within.least + u.exp()
    return within.most - (-u).exp() if isfinite(within.most) else u


def inside(x: Tensor, within: Range) -> Tensor:
    """``(*,)`` bool: whether numbers lie in a range, up to the rounding of float64 sums."""
    slack = [ROUNDING * max(1.0, abs(end)) if isfinite(end) else 0.0 for end in within]
    return (x >= within.least - slack[0]) & (x <= within.most + slack[1])


def bounded_interval(
    value: Tensor, left_out: Tensor, *, within: Range, scale: Scale = "identity", level: float = 0.95
) -> Bounded:
    """The jackknife's interval of a number with a range.

    Args:
        value: ``()`` the number on all rows.
        left_out: ``(G,)`` the number without each group in turn.
        within: its range.
        scale: ``log`` to use the logarithm of the number; otherwise the scale of the range.
        level: confidence.

    Returns:
        An interval inside the range that holds the value, or why there is none.

    Raises:
        NotComparable: with fewer than two groups.
    """
    value, left_out = value.double(), left_out.double()
    if not bool(value.isfinite() & left_out.isfinite().all()):
        return Bounded(None, "without a finite number once some of the samples are left out, so without an interval")
    if not bool(inside(value, within)):
        return Bounded(
            None, f"outside {_words(within)}, as an unbiased estimate may be by chance, so without an interval"
        )
    if bool((left_out == value).all()):
        return Bounded(interval(value, left_out, level=level))
    if scale == "log":
        if not bool((left_out > 0).all() & (value > 0)):
            return Bounded(None, "not positive without some of the samples, so without an interval")
        found = interval(value, left_out, scale="log", level=level)
    elif bool(to_scale(torch.cat([value.reshape(1), left_out]), within).isfinite().all()):
        on_scale = interval(to_scale(value, within), to_scale(left_out, within), level=level)
        low, high = (from_scale(end, within) for end in (on_scale.low, on_scale.high))
        found = on_scale._replace(value=value, low=low, high=high)
    else:
        # On an end the scale is infinite: the interval is that of the number itself, if the range has room for it.
        found = interval(value, left_out, level=level)
        if not bool(inside(found.low, within) & inside(found.high, within)):
            return Bounded(None, f"at an end of {_words(within)} without some of the samples, so without an interval")
    return _kept(found, within)


def _kept(found: Interval, within: Range) -> Bounded:
    """The part of the interval inside the range, which holds the truth as often; none where that is the whole range."""
    low, high = found.low.clamp(min=within.least), found.high.clamp(max=within.most)
    width = within.most - within.least
    if isfinite(width) and width > 0 and float(high - low) > (1 - WHOLE) * width:
        return Bounded(None, f"a few samples decide it: leaving them out leaves all of {_words(within)} open")
    low, high = torch.minimum(low, found.value), torch.maximum(high, found.value)
    return Bounded(found._replace(low=low, high=high))


WHOLE = 0.05
"""An interval that misses no more than this share of the range says nothing: it is what not having looked would say."""


def difference_interval(value: Tensor, left_out: Tensor, *, within: Range, level: float = 0.95) -> Bounded:
    """The interval of a difference, on the difference itself; none where it leaves the range of differences.

    Args:
        value: ``()`` the difference on all rows.
        left_out: ``(G,)`` the difference without each group in turn.
        within: the range of the two numbers.
        level: confidence.

    Raises:
        NotComparable: with fewer than two groups.
    """
    if not bool(value.isfinite() & left_out.isfinite().all()):
        return Bounded(None, "without a finite number once some of the samples are left out, so without an interval")
    found = interval(value, left_out, level=level)
    if not bool(inside(found.low, within.of_differences) & inside(found.high, within.of_differences)):
        return Bounded(
            None, f"a few samples decide it: the interval leaves what numbers in {_words(within)} can differ by"
        )
    return Bounded(found)


def _words(within: Range) -> str:
    """The range as written."""
    least, most = (f"{end:g}" if isfinite(end) else "" for end in within)
    return f"{least}…{most}" if least and most else f"{least} and above" if least else f"{most} and below"
