"""Intervals stay inside the range of their number: on the scale of the range, and none where that says nothing."""

from __future__ import annotations

import math

import pytest

from rankscope.definition import Range
from rankscope.inference.ranges import Bounded, Scale, inside, interval_inside, on_grid

RANGES = (Range(0, 1), Range(-1, 1), Range(1, 48), Range(0), Range(most=1), Range())
INF = math.inf


def to_scale(x: float, within: Range) -> float:
    """The definition of the scale: logit, logarithm, or the number itself."""
    below, above = x - within.least, within.most - x
    return (math.log(below) if below < INF else 0 if above < INF else x) - (math.log(above) if above < INF else 0)


@pytest.mark.parametrize("within", RANGES, ids=str)
@pytest.mark.parametrize("reach", [1e-9, 1e-3, 0.05])
def test_an_interval_is_symmetric_on_the_scale_and_first_order_on_the_number(within: Range, reach: float) -> None:
    value = 1.7 if within.least == 1 else 0.3
    low, high, reason = interval_inside(value, reach / 2, 2.0, within=within)
    assert not reason
    assert within.least < low < value < high < within.most
    centre = to_scale(value, within)
    assert to_scale(high, within) - centre == pytest.approx(centre - to_scale(low, within), rel=1e-4)
    if reach < 0.01:  # the delta method: h'(θ) s on the scale is s on the number
        assert high - value == pytest.approx(reach, rel=0.01)


def test_between_minus_one_and_one_it_is_fishers() -> None:
    found = interval_inside(0.9, 0.02, 2.0, within=Range(-1, 1))
    reach = 0.04 / (1 - 0.9**2)
    ends = math.tanh(math.atanh(0.9) - reach), math.tanh(math.atanh(0.9) + reach)
    assert (found.low, found.high) == pytest.approx(ends)


def test_a_positive_number_gets_its_logarithm_and_one_below_an_end_the_mirror_image() -> None:
    positive = interval_inside(0.5, 0.1, 2.0, within=Range(0))
    assert (positive.low, positive.high) == pytest.approx((0.5 * math.exp(-0.4), 0.5 * math.exp(0.4)))
    below = interval_inside(0.5, 0.1, 2.0, within=Range(most=1))
    assert (below.low, below.high) == pytest.approx((1 - positive.high, 1 - positive.low))


DECIDE = "a few samples decide it: an interval would leave nearly all of"
CASES: tuple[tuple[float, float, Range, Scale, str], ...] = (
    (1.02, 15.0, Range(1, 48), "log", f"{DECIDE} 1…48 open"),
    (-906.0, 507.0, Range(most=1), "range", f"{DECIDE} 1 and below open"),
    (0.5, 9.0, Range(0), "range", f"{DECIDE} 0 and above open"),
    (0.1, 3.0, Range(-1, 1), "range", f"{DECIDE} -1…1 open"),
    (0.1, 3.0, Range(-1, 1), "plain", f"{DECIDE} -1…1 open"),
    (1.2, 0.1, Range(0, 1), "range", "outside 0…1, as an unbiased estimate may be"),
    (1.0, math.inf, Range(0), "range", "not finite once some samples"),
)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_where_there_is_none_the_reason_is_told(case: int) -> None:
    value, se, within, scale, reason = CASES[case]
    low, high, found = interval_inside(value, se, 12.7 if value < -1 else 2.09, within=within, scale=scale)
    assert low is high is None
    assert found.startswith(reason)


def test_on_an_end_the_interval_is_that_of_the_number_cut_at_the_end() -> None:
    assert interval_inside(0.0, 0.01, 2.0, within=Range(0, 12))[:2] == (0.0, 0.02)
    assert interval_inside(1 + 1e-12, 1e-13, 2.0, within=Range(-1, 1)) == Bounded(1 - 2e-13, 1.0)
    assert interval_inside(48.0, 0.0, 2.0, within=Range(1, 48)) == Bounded(48.0, 48.0)


def test_so_near_an_end_that_the_scale_is_not_straight_it_is_that_of_the_number_too() -> None:
    """On its logarithm a recoverability of 0.99999 ± 0.00004 would reach down by a factor of 3000 in what is lost."""
    assert interval_inside(0.99999, 2e-5, 4.0, within=Range(most=1))[:2] == pytest.approx((0.99991, 1.0))
    assert interval_inside(0.99999, 2e-5, 4.0, within=Range(-1, 1))[:2] == pytest.approx((0.99991, 1.0))
    assert interval_inside(0.083, 0.06, 2.57, within=Range(0))[:2] == pytest.approx((0.0129, 0.532), rel=1e-2)
    assert interval_inside(0.083, 0.14, 2.57, within=Range(0))[:2] == pytest.approx((0, 0.4428), rel=1e-3)


def test_a_difference_is_cut_where_two_numbers_can_differ_by_no_more() -> None:
    within = Range(0, 1).of_differences
    assert interval_inside(0.1, 0.02, 2.0, within=within, scale="plain")[:2] == pytest.approx((0.06, 0.14))
    assert interval_inside(0.8, 0.3, 2.0, within=within, scale="plain")[:2] == pytest.approx((0.2, 1.0))


@pytest.mark.parametrize("within", RANGES, ids=str)
def test_no_interval_leaves_its_range_however_large_the_error(within: Range) -> None:
    swept = 0
    for value in (-1e9, -1.0, -1e-12, 0.0, 1e-300, 0.5, 1.0, 1 + 1e-12, 47.9, 48.0, 1e9):
        for se in (0.0, 1e-300, 1e-9, 0.3, 1e4, 1e300, INF, math.nan):
            for scale in ("range", "log", "plain"):
                low, high, reason = interval_inside(value, se, 2.0, within=within, scale=scale)
                assert (low is None) is (high is None) is bool(reason)
                if low is not None:
                    assert inside(value, within)
                    assert within.least <= low <= high <= within.most
                swept += 1
    assert swept == 11 * 8 * 3


def test_the_interval_of_a_number_in_steps_holds_the_steps_that_the_continuous_number_touches() -> None:
    """Rounding up is monotone, so the steps between the rounded ends hold the rounded truth as often."""
    assert on_grid(Bounded(2.2, 3.9), 1.0) == Bounded(3.0, 4.0)
    assert on_grid(Bounded(2.2, 3.9), 0.0) == Bounded(2.2, 3.9)
    assert on_grid(Bounded(-0.3, 0.2), 0.5, difference=True) == Bounded(-0.5, 0.5)
    assert on_grid(Bounded(1.0, 1.0), 1.0, difference=True) == Bounded(1.0, 1.0)
    assert on_grid(Bounded(2.2, 3.9), 1.0, reached=False) == pytest.approx((2.2, 4.9, ""))
    assert on_grid(Bounded(2.2, 3.9), 1.0, difference=True, reached=False) == pytest.approx((1.2, 4.9, ""))
    assert on_grid(Bounded(reason="none"), 1.0) == Bounded(reason="none")
