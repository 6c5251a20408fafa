"""The committed coverage figures are within their bounds, and the script that made them runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scripts import BENCHMARKS, benchmark_script
from torch.testing import assert_close

from rankscope.analysis import second_pass
from rankscope.registry import DEFAULT_COMPARED

SCRIPT = BENCHMARKS / "coverage.py"
NEEDED = ("participation-ratio", "participation-ratio-clustered", "roy-vetterli, difference", "cka")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with benchmark_script("coverage") as module:
        yield module


def test_the_recorded_intervals_cover(benchmark: ModuleType) -> None:
    record = json.loads(SCRIPT.with_suffix(".json").read_text())
    covered = {name: benchmark.Share(**one) for name, one in record["coverage of 95 % intervals"].items()}
    family = {name: benchmark.Share(**one) for name, one in record["family error at 0.05"].items()}
    assert benchmark.faults(covered, family) == []
    assert set(NEEDED) < set(covered)
    assert all(covered[name].error < 0.01 for name in NEEDED), "the figures carry a small Monte-Carlo error"
    assert covered["participation-ratio, tokens as the unit"].share < 0.92, "tokens as the unit do not cover"
    assert all(family[name].error < 0.01 for name in ("max-T", "max-T bands"))
    assert family["uncorrected"].share > 0.2, "sites looked at one by one do not keep the family error"


def test_every_default_measure_covers_or_says_so_on_every_population(benchmark: ModuleType) -> None:
    record = json.loads(SCRIPT.with_suffix(".json").read_text())["default measures by population"]
    assert {*record} == {"design", *benchmark.POPULATIONS}
    for name in benchmark.POPULATIONS:
        assert benchmark.shortfalls(record[name]["influence"]) == [], name
        assert name == benchmark.OUTLIERS or benchmark.worse(record[name]) == [], name
        assert {*DEFAULT_COMPARED} <= {*record[name]["influence"], "pt-peft"}
    silent = {"cka": {"share": 0.8, "error": 0.02, "says so": 0.1}}
    assert benchmark.shortfalls(silent) == ["cka covers 0.8, below 0.92, and says so in 10% of the draws"]
    two = {"influence": silent, "jackknife": {"cka": {"share": 0.9, "error": 0.02, "says so": 0.1}}}
    assert benchmark.worse(two) == ["cka covers 0.8 by influence and 0.9 by the jackknife"]


def test_the_rules_for_first_order_are_those_that_the_figures_show(benchmark: ModuleType) -> None:
    record = json.loads(SCRIPT.with_suffix(".json").read_text())
    shares = record["without asking whether first order is enough"]
    assert shares["40 rows of 32 features"]["influence"]["recoverability"] < 0.9, "too few rows for first order"
    assert shares["64 rows of 32 features"]["jackknife"]["recoverability"] < 0.9, "and for the jackknife"
    enough = f"{second_pass.ROWS_A_FEATURE * 2 * 32} rows of 32 features"
    assert shares[enough]["influence"]["recoverability"] > 0.92
    assert shares["1024 rows of 256 features"]["influence"]["overlap"] > 0.92, "a tie among 32 directions is little"
    assert all(share < 0.1 for share in record["p at most 0.05 of unrelated ragged runs"].values())


def test_faults_are_named(benchmark: ModuleType) -> None:
    covered = {
        "cka": benchmark.Share(0.90, 0.005, 2000),
        "roy-vetterli, difference": benchmark.Share(0.95, 0.005, 2000),
    }
    family = {"max-T": benchmark.Share(0.2, 0.01, 600), "max-T bands": benchmark.Share(0.06, 0.01, 600)}
    found = benchmark.faults(covered, family)
    assert len(found) == 2
    assert found[1] == "max-T errs in 0.2 of families, more than 0.05 by over 2 x 0.01"
    assert "cka covers 0.9, not between 0.92 and 0.98" in found[0]


def test_the_truths_are_those_of_many_rows(benchmark: ModuleType) -> None:
    design = benchmark.Design(samples=6000, tokens=2, width=6, groups=6)
    truth = benchmark.truths(design)
    found = benchmark.intervals(design, torch.Generator().manual_seed(0))
    for name, expected in truth.items():
        assert_close(found[name].value, expected, rtol=0.04, atol=0.02)


def test_the_script_writes_its_record(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out = tmp_path / "coverage.json"
    monkeypatch.setattr(
        sys,
        "argv",
        f"coverage.py --repetitions 2 --family-repetitions 1 --population-repetitions 2 --null-repetitions 1 --out {out}".split(),
    )
    assert benchmark.main() == 0
    assert json.loads(out.read_text())["design"]["repetitions"] == 2
    assert "max-T" in capsys.readouterr().out
