"""The script that measures a device runs on any, compares it with the CPU, and stops in time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scripts import benchmark_script

from rankscope.registry import DEFAULT_COMPARED


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with benchmark_script("gpu") as module:
        yield module


@pytest.fixture
def run(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """The script's exit code and record, of sites of 192 rows."""

    def ran(sites: int = 1) -> tuple[int, dict[str, Any]]:
        out = tmp_path / "gpu.json"
        words = f"gpu.py --device {device} --sites {sites} --rows 192 --width 24 --out {out}"
        monkeypatch.setattr(sys, "argv", words.split())
        monkeypatch.setattr(benchmark, "WIDTHS", {"cuda": (), "cpu": ()})
        return benchmark.main(), json.loads(out.read_text())

    return ran


def test_it_checks_and_measures_every_part(
    run: Callable[..., tuple[int, dict[str, Any]]], capsys: pytest.CaptureFixture[str], device: torch.device
) -> None:
    code, record = run()
    said = capsys.readouterr().out
    assert code == 0
    assert ("nothing about a GPU" in said) == (device.type == "cpu")
    assert {"device", "torch"} <= {*record}
    assert record["sizes"] == {"sites": 1, "sites run": 1, "rows": 192, "width": 24, "dtype": "bfloat16"}
    compared = record["differences from the CPU"]
    for name in DEFAULT_COMPARED:
        assert any(one.startswith(f"{name} (") for one in compared), name
    assert len(record["steps"]) == 6
    for step, one in record["steps"].items():
        assert one["seconds"] > 0, step
        assert one["floor"] > 0, step
        assert f"{step}: " in said
    errors = {route: one["relative error"] for route, one in record["products"].items()}
    assert errors.pop("float64") == 0
    assert errors
    assert all(0 < error < 1e-5 for error in errors.values())


def test_a_device_that_is_wrong_is_told(
    benchmark: ModuleType, run: Callable[..., tuple[int, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    right, calls = benchmark.View.evaluate, []

    def wrong(self: Any, what: Any, *runs: int) -> Any:
        found = right(self, what, *runs)
        if what.name == "drift":
            calls.append(runs)
            # The CPU's two come first
            return found._replace(left_out=found.left_out * (1 + 1e-6 * (len(calls) > 2)))
        return found

    monkeypatch.setattr(benchmark.View, "evaluate", wrong)
    code, record = run()
    assert code == 1
    assert "WRONG: drift" in capsys.readouterr().out
    off = [name for name, one in record["differences from the CPU"].items() if one > benchmark.TOLERANCE]
    assert len(off) == 4
    assert all(name.startswith("drift") for name in off)


def test_numbers_that_exist_on_one_side_alone_differ(benchmark: ModuleType) -> None:
    one = torch.tensor([1.0, torch.nan])
    assert benchmark.relative(one, one) == 0
    assert benchmark.relative(torch.ones(2), one) == torch.inf
    assert benchmark.relative(torch.ones(1), torch.ones(2)) == torch.inf


def test_no_site_is_begun_for_which_there_is_no_time(
    benchmark: ModuleType, run: Callable[..., tuple[int, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(benchmark, "LIMIT", 0.0)
    _, record = run(3)
    assert (record["sizes"]["sites"], record["sizes"]["sites run"]) == (3, 1)
    assert "all 3 sites" in capsys.readouterr().out
