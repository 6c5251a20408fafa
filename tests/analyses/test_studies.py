"""The studies from runs to verdict, JSON and figure: one tiny training in earnest, and each study on runs that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

LOOKED = (
    "validation",
    "old look",
    "participation-ratio-clustered",
    "roy-vetterli",
    "recoverability",
    "overlap",
    "drift",
)


def made_up(setting: Any, seed: int) -> dict[str, Any]:
    """What could have come of a training: it learns, and moves nothing before."""
    random = np.random.default_rng([seed, len(setting.method)])
    steps = sorted({0, setting.steps - setting.steps // 4, setting.steps})
    looks = [{"step": s} | {n: float(1 + 0.01 * random.normal() - (s > 0) * 0.5) for n in LOOKED} for s in steps]
    looks[0]["drift"] = 0.0
    losses = dict.fromkeys(("validation", "test", "old look", "questions"), 0.4 + 0.01 * random.normal())
    return {
        "setting": {"method": setting.method, "steps": setting.steps},
        "looks": looks,
        "losses": losses,
        "scores": {"test": 3 + 0.01 * random.normal()},
    }


def by_name(
    study: Any, home: Path, settings: Mapping[str, Any], seeds: Sequence[int], what: str
) -> dict[str, list[dict[str, Any]]]:
    return {name: [made_up(setting, seed) for seed in seeds] for name, setting in settings.items()}


@pytest.mark.parametrize("name", ["order", "prefix_length", "scst", "transfer"])
def test_a_study_writes_what_it_decides(
    name: str, analysis: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = analysis(name)
    monkeypatch.setattr(script, "by_name", by_name)
    monkeypatch.setattr(script, "outcomes", lambda study, home, settings, what: [made_up(s, 0) for s in settings])
    if name == "prefix_length":
        monkeypatch.setattr(script, "effective_rows", lambda model: 1.5)
        monkeypatch.setattr(script, "begun", lambda study, setting: None)
        monkeypatch.setattr(script.rankscope, "load_model", lambda checkpoint: None)
    if name == "transfer":
        asked = {n: dict.fromkeys(script.ASKED, 0.5) for n in ("losses", "scores")}
        monkeypatch.setattr(script, "matrix", lambda *_: asked)
        monkeypatch.setattr(script, "in_processes", lambda *_: None)
        monkeypatch.setattr(script, "losses", lambda study, model: asked["losses"])
        monkeypatch.setattr(script, "begun", lambda study, setting: None)
    found = script.main("full", tmp_path / "runs", tmp_path / name)
    told = json.loads((tmp_path / f"{name}.json").read_text())
    verdicts = [told["verdict"]] if name == "prefix_length" else list(told["verdicts"].values())
    assert verdicts
    assert set(verdicts) <= {"supported in miniature", "contradicted", "not decided"}
    assert told["untrained_prefix" if name == "transfer" else "untrained"]
    assert {"value", "low", "high"} in _keys(told)
    assert (tmp_path / f"{name}.svg").read_text().count("<svg") == 1
    assert found["size"]["seeds"] == (0, 1, 2, 3, 4)


def _keys(told: Any) -> list[set[str]]:
    """The keys of every mapping in a JSON."""
    inside = told.values() if isinstance(told, dict) else told if isinstance(told, list) else ()
    own = [set(told)] if isinstance(told, dict) else []
    return own + [keys for value in inside for keys in _keys(value)]


def test_steps_can_be_shared_otherwise(analysis: Callable[[str], ModuleType], tmp_path: Path) -> None:
    runs, study = analysis("runs"), replace(analysis("claim").STUDY, losses=(), samples=4, watched=4, groups=2)
    setting = runs.Setting("lora,scst", 4, 4, options=(("lora_rank", 2), ("scst_samples", 2), ("steps", (3, 1))))
    runs.watched_base(study, tmp_path)
    found = runs.outcome(study, tmp_path, setting)
    assert [look["step"] for look in found["looks"]] == [0, 1, 2, 3, 4]
    assert found["looks"][0]["drift"] < 1e-9 < found["looks"][3]["drift"]
    recipe = json.loads((tmp_path / setting.name / "checkpoint" / "rankscope.json").read_text())["recipe"]
    assert [stage["steps"] for stage in recipe["stages"]] == [3, 1]
    assert runs.shares(7, 2) == (3, 4)
