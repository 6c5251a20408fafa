"""Order: each question is asked of the settings that it names, and its differences have the sign that it says."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("order")


def test_sixteen_settings_have_one_number_of_steps(script: ModuleType, analysis: Callable[[str], ModuleType]) -> None:
    made = script.settings(script.SIZES["full"])
    assert len({setting.name for setting in made.values()}) == len(made) == 16
    for name, setting in made.items():
        stages = analysis("runs").recipe_of(setting).stages
        assert sum(analysis("runs").shares(setting.steps, len(stages))) == 400, name
    (rate,) = {stage.learning_rate for stage in analysis("runs").recipe_of(made["lora, sequential, one rate"]).stages}
    assert [rate] == [stage.learning_rate for stage in analysis("runs").recipe_of(made["lora, parallel"]).stages]


def test_a_question_is_answered_by_its_own_settings(script: ModuleType) -> None:
    ends = {name: [{"score": 1.0 + 0.01 * i} for i in range(5)] for name in script.settings(script.SIZES["full"])}
    for kind in script.KINDS:
        ends[f"{kind}, parallel"] = [{"score": 0.5 + 0.01 * i} for i in range(5)]
    found = script.differences(ends, "score")
    assert sum(map(len, found.values())) == 13
    lying_above = {question for question, rows in found.items() if all(i.low > 0 for i in rows.values())}
    assert lying_above == {"parallel is worse", "parallel is worse at one rate"}
    assert found["parallel is worse"]["lora"].value == pytest.approx(0.5)
    assert list(found["the encoder helps"]) == ["lora", "lora, at once"]
    assert found["the encoder helps"]["lora, at once"].value == pytest.approx(-0.5)


def test_what_moves_before_training_is_found_out(script: ModuleType) -> None:
    def run(drift: float, old: float) -> dict[str, object]:
        looks = [{"step": 0, "drift": drift, script.BEFORE: old}, {"step": 4}]
        return {"looks": looks, "setting": {"steps": 4}}

    script.check({"lora, reversed": [run(0.0, 0.1)], "lora, sequential": [run(0.3, 0.5)]}, {script.BEFORE: 0.1})
    with pytest.raises(AssertionError, match="before it is trained"):
        script.check({"lora, reversed": [run(0.1, 0.1)]}, {script.BEFORE: 0.1})
    with pytest.raises(AssertionError, match="old look"):
        script.check({"lora, sequential": [run(0.3, 0.9)]}, {script.BEFORE: 0.1})
