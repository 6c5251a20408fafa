"""The script that times collecting runs, its peers read the same rows, and its record is the script's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scripts import BENCHMARKS, benchmark_script
from torch.testing import assert_close

import rankscope

SCRIPT = BENCHMARKS / "collect.py"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with benchmark_script("collect") as module:
        yield module


@pytest.fixture
def work(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What every way is given, small."""
    for name, value in {"WIDTH": 24, "BLOCKS": 2, "WORDS": 50, "BATCH": 4}.items():
        monkeypatch.setattr(benchmark, name, value)
    return benchmark.Work.of(
        benchmark.checkpoint(tmp_path / "base"), benchmark.texts(10, tmp_path / "t.jsonl"), tmp_path
    )


def test_every_way_runs_and_the_peers_read_the_rows_that_the_library_reads(benchmark: ModuleType, work: Any) -> None:
    run = rankscope.collect(work.model, work.data, processor=work.base, rows="tokens", out=work.folder / "kept.pt")
    saved = {}
    for name, way in benchmark.WAYS.items():
        way(work)
        saved[name] = torch.load(work.folder / "peer.pt") if (work.folder / "peer.pt").exists() else None
    for layer, name in ((0, "plain hooks"), (1, "output_hidden_states")):
        assert_close(saved[name][f"layer.{layer}"], run.features("decoder.0"), rtol=1e-4, atol=1e-5)
    assert not any(m._forward_hooks for m in (work.model.transformer.ln_f, work.model.transformer))
    assert {path.name for path in work.folder.iterdir()} == {"base", "t.jsonl", "kept.pt", "peer.pt"}


def test_the_record_has_every_way_and_goal(benchmark: ModuleType) -> None:
    record = json.loads(SCRIPT.with_suffix(".json").read_text())
    assert set(benchmark.WAYS) <= set(record["times"])
    assert record["goals"] == benchmark.GOALS
    assert set(record["lenses"]) == set(benchmark.LENSES)
    assert len(benchmark.lines(record)) > len(benchmark.WAYS) + len(benchmark.MEASURED)
