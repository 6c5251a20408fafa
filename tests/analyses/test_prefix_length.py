"""Prefix length: where a score saturates, what the paper's number makes of it, and how many rows a prefix has in effect."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

import rankscope


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("prefix_length")


def scores(*means: float) -> dict[int, list[float]]:
    """Five seeds of each length 1, 2, 4, … with a range of 0.04."""
    return {2**i: [m + d for d in (-0.02, -0.01, 0.0, 0.01, 0.02)] for i, m in enumerate(means)}


def test_a_score_saturates_where_more_rows_no_longer_help(script: ModuleType) -> None:
    rising = scores(1.0, 1.5, 1.8, 1.9, 1.995, 2.0, 2.0)
    assert script.spread_of(rising) == pytest.approx(0.04)
    found = script.saturates(rising)
    assert found.value == 16
    assert (found.low, found.high) == (16, 16)
    assert script.saturates(scores(1.0, 1.0, 1.0)).value == 1
    assert script.saturates(scores(1.0, 1.5, 2.0)).value == 4


def test_the_verdict_is_about_the_paper_s_number(script: ModuleType, analysis: Callable[[str], ModuleType]) -> None:
    interval = analysis("findings").Interval
    within, below, astride = interval(16, 8, 16), interval(1, 1, 2), interval(8, 4, 16)
    assert script.verdict([within, within]) == "supported in miniature"
    assert script.verdict([within, astride]) == "not decided"
    assert script.verdict([below, astride]) == "contradicted"
    assert script.verdict([below, within]) == "not decided"
    assert script.verdict([interval(16, None, None)] * 2) == "not decided"


def test_equal_rows_count_as_one(script: ModuleType, analysis: Callable[[str], ModuleType]) -> None:
    quick = script.SIZES["quick"]
    setting = script.settings(quick)["pt-lora", 4]
    model = analysis("runs").begun(quick["study"], setting)
    assert 2 < script.effective_rows(model) <= 4
    (embedding,) = [
        p for n, p in model.named_parameters() if ".rankscope_prefix." in f".{n}" and n.endswith(".embedding")
    ]
    with torch.no_grad():
        embedding[:] = embedding[:1]
    assert script.effective_rows(model) == pytest.approx(1)
    with pytest.raises(AssertionError):
        script.effective_rows(rankscope.load_model(quick["study"].base))


def test_the_default_length_is_the_setting_of_other_studies(
    script: ModuleType, analysis: Callable[[str], ModuleType]
) -> None:
    orders = analysis("order").settings(analysis("order").SIZES["full"])
    assert script.settings(script.SIZES["full"])["pt-lora", 16] == orders["lora, sequential"]
