"""Transfer: a lead has the sign of being better, each question asks what it says, and questions are limited as captions are."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("transfer")


def runs(script: ModuleType, better: str, by: float) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Five seeds of each method; PT-X is better on one thing that is asked, by loss and by score."""

    def one(method: str, seed: int) -> dict[str, Any]:
        ahead = {name: by * (method.startswith("pt-") and name == better) for name in script.ASKED}
        return {
            "losses": {name: 1 + 0.01 * seed - x for name, x in ahead.items()},
            "scores": {name: 50 + 0.01 * seed + x for name, x in ahead.items()},
        }

    return {tuned: {m: [one(m, seed) for seed in range(5)] for m in script.METHODS} for tuned in script.TASKS}


def test_a_lead_is_better_whether_it_is_a_loss_or_a_score(script: ModuleType) -> None:
    found = script.questions_of_the_study(runs(script, "questions", 0.5))
    assert [len(of) for of in found.values()] == [4, 4, 8]
    for question in ("the other task, by loss", "the other task, by score"):
        above = {name for name, lead in found[question].items() if lead.low > 0}
        assert above == {f"{kind}, tuned on captions, asked questions" for kind in ("full", "lora")}, question
    assert not any(lead.low > 0 for lead in found["what pre-training knew, by loss"].values())


def test_what_pre_training_knew_is_asked_in_its_own_look(script: ModuleType) -> None:
    found = script.questions_of_the_study(runs(script, "old captions", -0.5))["what pre-training knew, by loss"]
    below = {name for name, lead in found.items() if lead.high < 0}
    assert len(below) == 4
    assert all(name.endswith("asked old captions") for name in below)


def test_a_tuning_that_learnt_too_much_has_learnt(script: ModuleType) -> None:
    def run(*losses: float) -> dict[str, Any]:
        return {"looks": [{"validation": loss} for loss in losses]}

    assert script.learnt(run(0.6, 0.4, 0.7))
    assert not script.learnt(run(0.6, 0.6, 0.7))


def test_what_moves_before_training_or_never_is_found_out(script: ModuleType) -> None:
    def run(*drifts: float) -> dict[str, Any]:
        return {"looks": [{"drift": drift} for drift in drifts]}

    script.check({"lora": [run(0.0, 0.2)], "pt-lora": [run(0.3, 0.2)]})
    with pytest.raises(AssertionError, match="before it is trained"):
        script.check({"lora": [run(0.1, 0.2)]})
    with pytest.raises(AssertionError, match="moves nothing"):
        script.check({"prefix": [run(0.1, 0.1)]})


def test_questions_are_about_scenes_limited_alike(script: ModuleType, analysis: Callable[[str], ModuleType]) -> None:
    news = analysis("limited_scenes").news
    for name in ("train", "validation", "test"):
        there = script.questions(name, 30)
        assert not set().union(*(news(example.image) for example in there)), name
        assert {example.about["task"] for example in there} == {"question"}
    assert {example.about["look"] for example in script.questions(script.BEFORE, 3)} == {"plain"}
    assert {example.about["task"] for example in script.data("train", 3)} == {"caption"}
