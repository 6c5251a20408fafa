"""SCST: both arms have the same number of steps, each question has its sign, and the last steps are told by themselves."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("scst")


def test_both_arms_have_the_same_number_of_steps(script: ModuleType, analysis: Callable[[str], ModuleType]) -> None:
    made = script.settings(script.SIZES["full"])
    assert len({setting.name for setting in made.values()}) == len(made) == 7
    of = {name: analysis("runs").recipe_of(setting).stages for name, setting in made.items()}
    assert [stage.steps for stage in of["pt-lora: scst"]] == [150, 150, 100]
    assert [stage.objective for stage in of["pt-lora: scst"]] == ["cross-entropy", "cross-entropy", "scst"]
    usual, faster = of["lora: scst"], of["lora, 10 times the rate: scst"]
    assert faster[0] == usual[0]
    assert faster[1].learning_rate == pytest.approx(10 * usual[1].learning_rate)
    orders = analysis("order").settings(analysis("order").SIZES["full"])
    assert made["pt-lora: cross-entropy"] == orders["lora, sequential"]  # so that it is made once


def test_a_question_has_its_sign(script: ModuleType) -> None:
    def runs(score: float) -> list[dict[str, float]]:
        return [{"score": score + 0.01 * i} for i in range(5)]

    ends = {"lora: cross-entropy": runs(1.0), "lora: scst": runs(1.5), "lora, 10 times the rate: scst": runs(0.5)}
    found = script.differences(ends, "score")
    assert found["lora"].low > 0 > found["lora, 10 times the rate"].high
    assert found["lora"].value == pytest.approx(0.5)
    assert script.differences(ends, "score", -1)["lora"].value == pytest.approx(-0.5)


def test_the_last_steps_are_told_from_where_they_begin(script: ModuleType) -> None:
    looks = [{"step": s, "validation": v} for s, v in ((0, 1.0), (200, 0.7), (300, 0.5), (400, 0.6))]
    run = {"setting": {"steps": 400}, "looks": looks}
    assert script.last_steps(run)["validation"] == pytest.approx(0.1)
    setting = script.settings(script.SIZES["full"])["lora: scst"]
    script.check({"lora: scst": setting}, {"lora: scst": [run]})
    looks[2]["validation"] = 1.1
    with pytest.raises(AssertionError, match="learnt nothing"):
        script.check({"lora: scst": setting}, {"lora: scst": [run]})
