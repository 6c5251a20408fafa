"""Intervals stay inside the range of their number: on the scale of the range, and none where that says nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.definition import Range
from rankscope.inference.jackknife import interval
from rankscope.inference.ranges import bounded_interval, difference_interval, from_scale, to_scale


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("within", [Range(0, 1), Range(-1, 1), Range(1, 48), Range(0), Range(most=1), Range()], ids=str)
def test_the_scale_of_a_range_goes_there_and_back(within: Range) -> None:
    x = numbers(0.001, 0.3, 0.999) + (within.least if within.least == 1 else 0)
    assert_close(from_scale(to_scale(x, within), within), x)


def test_between_minus_one_and_one_it_is_fishers() -> None:
    value, left_out = numbers(0.9)[0], numbers(0.88, 0.9, 0.91, 0.93, 0.87)
    found = bounded_interval(value, left_out, within=Range(-1, 1)).interval
    fisher = interval(value.atanh(), left_out.atanh())
    assert_close((found.low, found.high), (fisher.low.tanh(), fisher.high.tanh()))
    assert found.low < 0.9 < found.high < 1


def test_a_positive_number_gets_its_logarithm_and_one_below_an_end_the_mirror_image() -> None:
    value, left_out = numbers(0.5)[0], numbers(0.3, 0.5, 0.9, 0.6)
    positive = bounded_interval(value, left_out, within=Range(0)).interval
    logarithm = interval(value, left_out, scale="log")
    assert_close((positive.low, positive.high), (logarithm.low, logarithm.high))
    below = bounded_interval(1 - value, 1 - left_out, within=Range(most=1)).interval
    assert_close((below.low, below.high), (1 - positive.high, 1 - positive.low))


def test_one_outlier_leaves_no_interval_rather_than_the_whole_range() -> None:
    left_out = torch.cat([numbers(*([1.02] * 19)), numbers(17.0)])
    found = bounded_interval(numbers(1.02)[0], left_out, within=Range(1, 48), scale="log")
    assert found.interval is None
    assert found.reason == "a few samples decide it: leaving them out leaves all of 1…48 open"


CASES: tuple[tuple[Callable[[], Tensor], Tensor, Range, str], ...] = (
    (lambda: numbers(0.0)[0], numbers(0, 0, 1, 0), Range(0, 12), "at an end of 0…12 without some of the samples"),
    (lambda: numbers(1.2)[0], numbers(1.1, 1.2, 1.3), Range(0, 1), "outside 0…1, as an unbiased estimate may be"),
    (lambda: numbers(1.0)[0], numbers(1, math.inf, 2), Range(0), "without a finite number once some of the samples"),
    (lambda: numbers(-3.0)[0], numbers(-3, 1, -2), Range(most=1), "at an end of 1 and below"),
)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_where_there_is_none_the_reason_is_told(case: int) -> None:
    value, left_out, within, reason = CASES[case]
    found = bounded_interval(value(), left_out, within=within)
    assert found.interval is None
    assert found.reason.startswith(reason)


def test_the_rounding_of_an_end_is_no_departure_from_the_range() -> None:
    one = 1 + 1e-12
    found = bounded_interval(numbers(one)[0], numbers(one, 1, 1 - 1e-13, 1), within=Range(-1, 1)).interval
    assert found.low <= 1
    assert found.high == pytest.approx(1, abs=1e-11)


def test_a_difference_may_not_leave_what_two_numbers_can_differ_by() -> None:
    narrow = difference_interval(numbers(0.1)[0], numbers(0.1, 0.12, 0.09), within=Range(0, 1)).interval
    plain = interval(numbers(0.1)[0], numbers(0.1, 0.12, 0.09))
    assert (narrow.low, narrow.high) == (plain.low, plain.high)
    wide = difference_interval(numbers(0.1)[0], numbers(0.1, 0.9, -0.9), within=Range(0, 1))
    assert wide.interval is None
    assert "leaves what numbers in 0…1 can differ by" in wide.reason
