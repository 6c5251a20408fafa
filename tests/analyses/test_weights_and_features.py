"""Weights and features: the verdicts follow their rules, and only runs whose weights changed are taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("weights_and_features")


@pytest.mark.parametrize(
    ("turn", "forgetting", "beyond", "verdict"),
    [
        (-0.8, 0.8, 0.5, "supported in miniature"),
        (0.8, -0.8, -0.5, "contradicted"),
        (0.0, 0.0, 0.0, "not decided"),
    ],
)
def test_verdicts_follow_the_rules(
    script: ModuleType, turn: float, forgetting: float, beyond: float, verdict: str
) -> None:
    def around(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    told = {
        "overlap": {script.SIZE: {"rho": around(turn)}, script.SHARE: {"beyond": around(beyond)}},
        script.BEFORE: {script.INTRUDERS: {"rho": around(forgetting)}},
    }
    assert set(script.verdicts(told).values()) == {verdict}


def test_only_runs_whose_weights_changed_are_taken(script: ModuleType, tmp_path: Path) -> None:
    methods = ("full", "lora", "pt-lora", "prefix+lora", "lora-prefix", "adapter", "prefix", "pt-adapter", "base")
    for method in methods:
        (tmp_path / method).mkdir()
        of = {"setting": {"method": method, "searched": False}}
        (tmp_path / method / "outcome.json").write_text(json.dumps(of))
    assert {path.name for path in script.changed(tmp_path)} == set(methods[:5])
