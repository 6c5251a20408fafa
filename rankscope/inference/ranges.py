r"""Intervals that stay inside the range of the number they are of.

An interval is made on a scale on which the number has no ends: the logit between two ends (for -1…1 this is Fisher's, up
to a factor of two), the logarithm of the distance from the only end, the number itself where there is none. With scale h
and standard error s the delta method gives :math:`h^{-1}(h(\theta) \pm t\,h'(\theta)\,s)`. Where the standard error comes
from is not known here.
"""

from __future__ import annotations

from math import ceil, exp, floor, inf, isfinite, log, log1p
from typing import Literal, NamedTuple

from rankscope.definition import Range

Scale = Literal["range", "log", "plain"]
"""The scale of an interval: that which the number's range asks for; the logarithm of the number, for ranks; or the number
itself, for differences."""
ROUNDING = 1e-9
"""The share of an end, or of 1, by which the rounding of float64 sums may carry a number beyond it."""
WHOLE = 0.05
"""An interval that misses no more than this share of the range says what not having looked would say. With one end only,
the distances of its two ends from that of the range then differ by more than the square of the inverse."""


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
        return Bounded(reason="without a finite number once some of the samples are left out, so without an interval")
    if not inside(value, within):
        return Bounded(reason=f"outside {words(within)}, as an unbiased estimate may be, so without an interval")
    value = min(max(value, within.least), within.most)
    low, high = _symmetric(value, critical * se, _scale_range(within, scale)) if se else (value, value)
    low, high = max(low, within.least), min(high, within.most)
    if _says_nothing(low, high, within):
        return Bounded(
            reason=f"a few samples decide it: the interval leaves all of {words(within)} open, so there is none"
        )
    return Bounded(low, high)


def _scale_range(within: Range, scale: Scale) -> Range:
    """The range from whose ends the scale is infinitely far."""
    return {"range": within, "log": Range(0.0), "plain": Range()}[scale]


def _symmetric(value: float, reach: float, ends: Range) -> tuple[float, float]:
    """value ± reach, symmetric on the scale of a range; on the number itself where the value lies on an end."""
    above, below = value - ends.least, ends.most - value
    if not (above > 0 and below > 0):
        return value - reach, value + reach
    # h = ln(x - a) - ln(b - x), so h' = 1/(x - a) + 1/(b - x); without an end its term is missing
    slope = (1 / above if isfinite(above) else 0.0) + (1 / below if isfinite(below) else 0.0)
    if not slope:
        return value - reach, value + reach
    return _moved(value, -reach * slope, ends), _moved(value, reach * slope, ends)


def _moved(value: float, by: float, ends: Range) -> float:
    """The number whose place on the scale lies so far from that of the value, infinite where no float is so large."""
    above, below = value - ends.least, ends.most - value
    if isfinite(above) and isfinite(below):
        logit = log(above) - log(below) + by
        share = exp(-log1p(exp(-logit))) if logit > -700 else 0.0  # 1/(1 + e^-u), which must not overflow
        return ends.least + (ends.most - ends.least) * share
    if isfinite(above):
        return ends.least + (above * exp(by) if by < 700 else inf)
    return ends.most - (below * exp(-by) if by > -700 else inf)


def _says_nothing(low: float, high: float, within: Range) -> bool:
    """Whether an interval leaves the whole range open, up to a share of :data:`WHOLE`."""
    width = within.most - within.least
    if isfinite(width):
        return width > 0 and high - low > (1 - WHOLE) * width
    if isfinite(within.least):
        return (low - within.least) < WHOLE**2 * (high - within.least)
    return isfinite(within.most) and (within.most - high) < WHOLE**2 * (within.most - low)


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
