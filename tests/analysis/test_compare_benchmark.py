"""The script that times comparing runs, at a small size, and its record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from scripts import BENCHMARKS, benchmark_script


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with benchmark_script("compare") as module:
        yield module


def test_every_case_is_compared_and_timed_beside_its_floor(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"SITE": (1, 64, 12), "SPECTRA": (1, 64, 8), "STACK": (2, 64, 8), "ARMS": (2, 96, 8), "WIDE": (1, 96, 16)}
    for name, shape in small.items():
        monkeypatch.setattr(benchmark, name, shape)
    found = benchmark.cases(tmp_path, wide=True)
    assert [name.partition(":")[0] for name in found] == ["site", "wide", "spectra", "stack", "arms"]
    assert all(one["seconds"] > 0 and one["floor"] > 0 for one in found.values())


def test_the_record_is_of_the_cases_of_the_script(benchmark: ModuleType) -> None:
    cases = json.loads((BENCHMARKS / "compare.json").read_text())["cases"]
    shapes = {name.lower(): getattr(benchmark, name) for name in ("SITE", "SPECTRA", "STACK", "ARMS", "WIDE")}
    assert {"site", "spectra", "stack", "arms"} <= {name.partition(":")[0] for name in cases}
    assert all(benchmark.words(shapes[name.partition(":")[0]]) in name for name in cases)
