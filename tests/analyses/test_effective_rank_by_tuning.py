"""The first analysis: its rule says what it was written to say, and it runs from end to end and continues."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("effective_rank_by_tuning")


def told(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


@pytest.mark.parametrize(
    ("value", "half", "expected"),
    [
        (-2.0, 0.5, "falls"),
        (2.0, 0.5, "rises"),
        (-0.9, 0.5, "inconclusive"),  # below zero, yet retrainings lie as far apart
        (0.1, 0.2, "kept"),
        (0.0, 3.0, "inconclusive"),  # an absence of a finding is none
        (-2.0, 3.0, "inconclusive"),
    ],
)
def test_a_change_is_called_by_the_rule(script: ModuleType, value: float, half: float, expected: str) -> None:
    assert script.finding(told(value, half), 1.0) == expected


def test_the_verdict_takes_all_methods_to_support_and_one_to_contradict(script: ModuleType) -> None:
    claimed = dict.fromkeys(script.FALLING, "falls") | dict.fromkeys(script.KEEPING, "kept")
    assert script.verdict(claimed) == "supported in miniature"
    assert script.verdict(claimed | {"prefix": "rises"}) == "supported in miniature"
    assert script.verdict(claimed | {"lora": "inconclusive"}) == "not decided"
    assert script.verdict(claimed | {"lora": "rises"}) == "contradicted"
    assert script.verdict(claimed | {"pt-lora": "falls"}) == "contradicted"


def test_it_runs_from_end_to_end_and_trains_nothing_twice(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, methods in (("METHODS", ("lora", "pt-lora")), ("FALLING", ("lora",)), ("KEEPING", ("pt-lora",))):
        monkeypatch.setattr(script, name, methods)
    tiny = {"steps": 2, "seeds": (0, 1, 2), "training": 32, "samples": 12, "groups": 4}
    monkeypatch.setitem(script.SIZES, "tiny", tiny)
    found = script.main("tiny", tmp_path / "runs", tmp_path / "figure")
    assert set(found["verdicts"].values()) <= {"supported in miniature", "contradicted", "not decided"}
    assert json.loads((tmp_path / "figure.json").read_text())["findings"] == found["findings"]
    assert (tmp_path / "figure.svg").read_text().count("<svg") == 1

    monkeypatch.setattr(script.rankscope, "train", None, raising=False)
    before = (tmp_path / "figure.svg").read_bytes()
    again = script.main("tiny", tmp_path / "runs", tmp_path / "figure")
    assert again["findings"] == found["findings"]
    assert (tmp_path / "figure.svg").read_bytes() == before
