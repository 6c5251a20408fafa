r"""Intervals that stay inside the range of the number they are of.

An interval is made on a scale on which the number has no ends: the logit between two ends (for -1…1 this is Fisher's, up
to a factor of two), the logarithm of the distance from the only end, the number itself where there is none. With scale h
and standard error s the delta method gives :math:`h^{-1}(h(\theta) \pm t\,h'(\theta)\,s)`. So near an end that the scale is
not straight within the reach of the interval, it is made on the number itself and cut at the end. Where the standard
error comes from is not known here.
"""

from __future__ import annotations

from math import ceil, copysign, exp, floor, inf, isfinite, log, sqrt
from typing import Literal, NamedTuple

from rankscope.definition import Range

Scale = Literal["range", "log", "square", "plain"]
"""The scale of an interval: that which the number's range asks for; the logarithm of the number, for ranks; its square with
its sign, for the root of an unbiased estimate; or the number itself, for differences."""
ROUNDING = 1e-9
"""The share of an end, or of 1, by which the rounding of float64 sums may carry a number beyond it."""
WHOLE = 0.05
"""An interval that misses no more than this share of the range says what not having looked would say."""
FAR = -log(WHOLE)
"""Where the ends of an interval lie further than this on its scale, their distances from an end of the range are less than
that share of the value's, or more than its inverse: the scale is not straight there, and the delta method not valid."""


class Bounded(NamedTuple):
    """The ends of an interval inside a range, or why there is none."""

    low: float | None = None
    """The lower end; None without an interval."""
    high: float | None = None
    """The upper end; None without an interval."""
    reason: str = ""
    """Why there is none; empty where there is one."""


def inside(x: float, within: Range) -> bool:
    """Whether a number lies in a range, up to the rounding of float64 sums."""
    below, above = (ROUNDING * max(1.0, abs(end)) if isfinite(end) else 0.0 for end in within)
    return within.least - below <= x <= within.most + above


def interval_inside(value: float, se: float, critical: float, *, within: Range, scale: Scale = "range") -> Bounded:
    """The interval of a number with a range: every interval of this library is made here.

    Args:
        value: the number.
        se: its standard error, in the unit of the number.
        critical: standard errors to either side: Student's quantile, or that of the largest |t| over sites for a band.
        within: the range of the number.
        scale: on which scale the interval is symmetric.

    Returns:
        An interval that holds the value and lies inside the range; none, with the reason, where the value lies outside
        or the interval would leave the whole range open.
    """
    if not isfinite(se):
        return Bounded(reason="not finite once some samples are left out, so there is no interval")
    if not inside(value, within):
        return Bounded(reason=f"outside {words(within)}, as an unbiased estimate may be, so there is no interval")
    value = min(max(value, within.least), within.most)
    if not se:
        return Bounded(value, value)
    ends, reach = {"range": within, "log": Range(0.0)}.get(scale, Range()), critical * se
    slope = _slope(value, ends)
    straight = reach * slope <= FAR
    if scale == "square":
        # h = x|x|, so h' = 2|x|
        low, high = (_root(value * abs(value) + 2 * abs(value) * by) for by in (-reach, reach))
    elif slope and straight:
        low, high = (_moved(value, by * slope, ends) for by in (-reach, reach))
    else:
        low, high = value - reach, value + reach
    low, high = max(low, within.least), min(high, within.most)
    # A rank is never near 0: what takes its logarithm so far is a few samples
    if (scale == "log" and not straight) or _says_nothing(low, high, within):
        return Bounded(
            reason=f"a few samples decide it: an interval would leave nearly all of {words(within)} open, so none is given"
        )
    return Bounded(low, high)


def _root(square: float) -> float:
    """The number whose square has this size, with its sign."""
    return copysign(sqrt(abs(square)), square)


def _slope(value: float, ends: Range) -> float:
    """The slope of the scale of a range at a number, infinite on an end and beyond; 0 without ends, where none is needed."""
    # h = ln(x - a) - ln(b - x), so h' = 1/(x - a) + 1/(b - x); without an end its term is 0
    return sum(1 / distance if distance > 0 else inf for distance in (value - ends.least, ends.most - value))


def _moved(value: float, by: float, ends: Range) -> float:
    """The number whose place on the scale of a range lies so far, at most :data:`FAR`, from that of the value."""
    above, below = value - ends.least, ends.most - value
    if isfinite(above) and isfinite(below):
        # The distances from both ends have the ratio above/below · e^by, and the width as their sum
        return ends.least + (ends.most - ends.least) / (1 + below / above * exp(-by))
    return ends.least + above * exp(by) if isfinite(above) else ends.most - below * exp(-by)


def _says_nothing(low: float, high: float, within: Range) -> bool:
    """Whether an interval leaves the whole range open, up to a share of :data:`WHOLE`; with one end, more than one unit."""
    width = within.most - within.least
    if isfinite(width):
        return width > 0 and high - low > (1 - WHOLE) * width
    # Numbers with one end are ratios and shares of a whole, for which 1 is much
    return (low == within.least or high == within.most) and high - low > 1


def on_grid(found: Bounded, step: float, *, difference: bool = False, reached: bool = True) -> Bounded:
    """The interval of a number that moves in steps, from that of the continuous number which it rounds up.

    A number rounded up lies less than a step above the continuous one; the difference of two lies less than a step to
    either side of theirs.

    Args:
        found: the interval of the continuous number.
        step: the step; 0 for a number that does not move in steps.
        difference: whether it is the difference of two such numbers.
        reached: whether the number itself is a multiple of the step, as the mean of several is not.
    """
    if not step or found.low is None or found.high is None:
        return found
    low, high = found.low / step, found.high / step
    if reached:
        return found._replace(low=step * (floor(low) if difference else ceil(low)), high=step * ceil(high))
    return found._replace(low=step * (low - difference), high=step * (high + 1))


def words(within: Range) -> str:
    """The range as written."""
    least, most = (f"{end:g}" if isfinite(end) else "" for end in within)
    return f"{least}…{most}" if least and most else f"{least} and above" if least else f"{most} and below"
