"""The scripts that show how memory and time grow, at a small size."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from scripts import benchmark_script

from rankscope.store import open_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="both read the peaks that Linux keeps of a process")


@pytest.fixture(scope="module")
def growth() -> Iterator[ModuleType]:
    with benchmark_script("growth") as module:
        yield module


@pytest.fixture(scope="module")
def memory() -> Iterator[ModuleType]:
    with benchmark_script("memory") as module:
        yield module


def test_a_slope_is_the_exponent_of_a_power(growth: ModuleType) -> None:
    sizes = [2, 4, 8, 16]
    assert growth.slope(sizes, [3 * size**1.7 for size in sizes]) == pytest.approx(1.7)


def test_a_call_costs_the_memory_that_it_takes(growth: ModuleType) -> None:
    found = growth.cost(lambda: b"x" * (64 << 20))
    assert found["MB"] == pytest.approx(64, abs=4)


def test_every_command_is_drawn_against_every_quantity(
    growth: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {"n": 64, "d": 4, "sites": 1, "runs": 1}
    monkeypatch.setattr(growth.rankscope, "compare", partial(growth.rankscope.compare, measures=["cka"]))
    found = growth.grown({"n": (64, 128)}, usual)
    commands = {name for name, _ in growth.PREDICTED}
    assert all(at["commands"].keys() == commands for at in found.values())
    assert growth.table(found).count("\n") == len(growth.PREDICTED) + 1
    growth.draw(found, tmp_path / "growth")
    assert (tmp_path / "growth.svg").stat().st_size > 0
    json.dumps(found)


def test_a_large_site_is_written_shard_by_shard(
    memory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, small in {"WIDTH": 8, "TOKENS": 4, "TOGETHER": 3}.items():
        monkeypatch.setattr(memory, name, small)
    assert memory.write(tmp_path / "0", 4 * 3 * 4 * 8 * 2 / 1e9, 0) == 48
    run = open_run(tmp_path / "0")
    assert run.features(memory.SITE).shape == (48, 8)
    assert run.rows.samples == 12


def test_a_command_beyond_its_limit_is_reported_with_what_it_said(memory: ModuleType) -> None:
    found = memory.under(4e9, "--version")
    assert 0 < found["peak GB"] <= found["peak of addresses GB"] < 4
    with pytest.raises(RuntimeError, match="measure nowhere ended with"):
        memory.under(4e9, "measure", "nowhere")
