"""The demo, small: it leaves what it says, continues, and says which run is which."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import rankscope
from rankscope.demo import run_demo
from rankscope.registry import DEFAULT_COMPARED


def test_the_demo_leaves_checkpoints_runs_tables_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int, str]] = []
    found = run_demo(tmp_path, steps=2, samples=24, progress=lambda *said: steps.append(said))
    assert found.contrast.names == ("lora", "pt-lora", "pre-trained")
    assert list(found.losses) == ["pre-trained", "lora", "pt-lora"]
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    assert steps[-1] == (9, 9, "done")
    assert {p.name for p in tmp_path.iterdir()} == {
        "lora", "pt-lora", "lora.pt", "pt-lora.pt", "pre-trained.pt",
        "compare.svg", "compare.pdf", "compare.png", "compare.csv", "compare.json",
    }  # fmt: skip
    assert rankscope.load(tmp_path / "lora.pt").sites == rankscope.load(tmp_path / "pre-trained.pt").sites
    table = pd.read_csv(tmp_path / "compare.csv")
    assert set(DEFAULT_COMPARED) <= set(table["measure"])
    told = json.loads((tmp_path / "compare.json").read_text())
    assert told["held_out_loss"] == found.losses
    assert told["verdict"]["headline"] == found.contrast.verdict.headline
    assert {"rankscope", "torch"} <= set(told["versions"])

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}
    monkeypatch.setattr("rankscope.demo.save", lambda *what: ())
    again = run_demo(tmp_path, steps=2, samples=24)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")} == before
    assert again.contrast.to_records() == found.contrast.to_records()
