"""What changed: words that were tuned are told from those that were left, and a lead is what is promoted less what is suppressed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from rankscope.results.examples import ExampleRecord
from rankscope.results.record import Estimate


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("what_changed")


def test_words_that_tuning_spells_out_were_tuned_and_numerals_were_left(script: ModuleType) -> None:
    tuned, left = script.taught(200)
    assert {"seven", "two", "pink"} <= tuned
    assert {"7", "2", "black"} <= left
    assert not tuned & left


def test_a_direction_without_meaning_has_no_lead_on_average(script: ModuleType) -> None:
    def record(up: tuple[str, ...], down: tuple[str, ...]) -> ExampleRecord:
        return ExampleRecord("mean", "decoder.3", "drift", Estimate(1.0), "", promotes=up, suppresses=down)

    words = frozenset({"seven", "two"})
    assert script.lead(record((" seven", " two"), (" 7", " 2")), words) == 1.0
    assert script.lead(record((" seven", " 7"), (" two", " 2")), words) == 0.0
    one = record((" seven", " 7", " of"), (" 2", " a", " an"))
    other = record(one.suppresses, one.promotes)
    assert script.lead(one, words) == -script.lead(other, words) > 0
