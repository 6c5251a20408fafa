"""What a prefix is: the rules say what they were written to say, and the identity of an attention with a prefix holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("what_a_prefix_is")


def test_rows_are_used_or_collapsed(script: ModuleType, analysis: Callable[[str], ModuleType]) -> None:
    interval = analysis("findings").Interval
    assert script.used(interval(12.0, 11.0, 13.0), 16) == "used"
    assert script.used(interval(1.1, 1.0, 1.2), 16) == "collapsed"
    assert script.used(interval(7.0, 5.0, 9.0), 16) == "partly used"


@pytest.mark.parametrize(
    ("nearness", "verdict"), [(0.9, "supported in miniature"), (0.1, "contradicted"), (0.5, "not decided")]
)
def test_a_prefix_is_made_of_words_if_it_is_nearer_than_chance(
    script: ModuleType, nearness: float, verdict: str
) -> None:
    assert script.made_of_words([{"nearness": nearness, "null": {"low": 0.4, "high": 0.6}}] * 3) == verdict


def test_a_row_is_worth_what_goes_with_it(script: ModuleType) -> None:
    assert script.share_of_one({"all": 0.4, "none": 0.8, "without": [0.4, 0.7, 0.5]}) == pytest.approx(0.75)
    assert script.share_of_one({"all": 0.8, "none": 0.4, "without": [0.8]}) == 0.0  # a prefix that harms has no worth


def test_the_identity_holds_and_shares_are_shares(script: ModuleType) -> None:
    study = replace(script.STUDY, samples=4, watched=4)
    found = script.attended(script.begun(study, script.Setting("prefix", 16, 2)), study, 4)
    assert found["error"] < 1e-5
    for name in script.LOOKING:
        assert all(0 < share < 1 for share in found["attention"][name])
        assert 0 < found["equal"][name] < 1
