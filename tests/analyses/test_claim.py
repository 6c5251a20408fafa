"""The claim: its rules say what they were written to say, and the study runs from end to end and trains nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("claim")


@pytest.fixture(scope="module")
def scripts(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("findings")


def test_a_training_is_told_where_it_first_has_a_number(script: ModuleType) -> None:
    path = [{"validation": v, "kept": k} for v, k in ((1.0, 1.0), (0.5, 0.8), (0.4, 0.2), (0.6, 0.1))]
    found = script.reached(path, "validation", 0.45)
    assert found["kept"] == pytest.approx(0.5)  # half way between 0.8 and 0.2, on the way down and not on the way back
    assert script.reached(path, "validation", 1.0)["kept"] == 1.0
    assert script.reached(path, "validation", 0.3) is None


def test_the_same_task_loss_is_one_that_every_training_reaches(script: ModuleType) -> None:
    def run(*losses: float) -> dict[str, object]:
        looks = [{"validation": v, "drift": 1 - v} for v in losses]
        return {"looks": looks, "scores": {"test": 1.0}}

    runs = {"lora": [run(1.0, 0.4)], "pt-lora": [run(1.0, 0.7, 0.6)]}
    for way in script.WAYS:
        told = script.told_by(way, runs)
        assert all(found is not None for several in told.values() for found in several), way
    assert script.told_by(script.WAYS[1], runs)["lora"][0]["validation"] == pytest.approx(0.6)
    assert script.told_by(script.WAYS[2], runs)["lora"][0]["drift"] == pytest.approx(0.4)


def test_a_claim_is_decided_by_where_its_leads_lie(script: ModuleType, scripts: ModuleType) -> None:
    def told(ahead: float) -> dict[int, dict[str, list[dict[str, float]]]]:
        runs = {kind: [{"score": 1.0 + 0.01 * i} for i in range(5)] for kind in script.KINDS}
        return {64: runs | {f"pt-{k}": [{"score": 1.0 + ahead + 0.01 * i} for i in range(5)] for k in script.KINDS}}

    assert script.decided(told(0.5), "score")["verdict"] == scripts.SUPPORTED
    assert script.decided(told(-0.5), "score")["verdict"] == scripts.CONTRADICTED
    assert script.decided(told(0.0), "score")["verdict"] == scripts.UNDECIDED
    mixed = {64: told(0.5)[64] | {"pt-lora": told(-0.5)[64]["pt-lora"]}}
    assert script.decided(mixed, "score")["verdict"] == scripts.UNDECIDED


def test_every_method_has_the_same_number_of_trials(script: ModuleType) -> None:
    for method in script.METHODS:
        tried = script.trials(method, 64, 100)
        assert len({trial.name for trial in tried}) == 6, method
        assert all(trial.searched for trial in tried)


def test_scenes_hold_back_one_thing_each(analysis: Callable[[str], ModuleType]) -> None:
    limited = analysis("limited_scenes")
    for name in limited.SPLITS:
        there = limited.data(name, 40)
        assert {frozenset(limited.news(e.image)) for e in there} == {frozenset({name} & set(limited.NEW))}, name
    drawn = {name: {s.image for e in limited.data(name, 200) for s in e.image.strokes} for name in ("train", "test")}
    assert not drawn["train"] & drawn["test"]


@pytest.mark.whole  # `dev.py study --quick` runs it too
def test_it_runs_and_trains_nothing_twice(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = script.main("quick", tmp_path / "runs", tmp_path / "claim")
    assert json.loads((tmp_path / "claim.json").read_text())["verdicts"].keys() == found["verdicts"].keys()
    before = (tmp_path / "claim.svg").read_bytes()
    monkeypatch.setattr(script.rankscope, "train", None, raising=False)
    script.main("quick", tmp_path / "runs", tmp_path / "claim")
    assert (tmp_path / "claim.svg").read_bytes() == before
