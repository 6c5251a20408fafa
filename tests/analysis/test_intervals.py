"""Intervals of numbers that move in steps, and those of arms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import rankscope
from rankscope.analysis.cautions import cautions
from rankscope.analysis.guards import GuardedView
from rankscope.analysis.intervals import Limits, bounds_of, limits_of
from rankscope.analysis.view import View
from rankscope.features import TEXT, Rows
from rankscope.registry import definition
from rankscope.results.record import Estimate, Shape, Table
from rankscope.results.runs import RunRecord
from rankscope.store import import_features


def two_draws(seed: int, decay: float) -> View:
    """Two draws of one population, 24 samples of 2 to 12 rows, whose k-th feature has the deviation k^-decay."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 13, (24,), generator=draw)
    sample = torch.arange(24).repeat_interleave(lengths)
    position = torch.cat([torch.arange(n) for n in lengths.tolist()])
    rows = Rows(sample, position, torch.full_like(sample, TEXT), tuple(map(str, range(24))))
    deviations = torch.arange(1, 17, dtype=torch.float64) ** -decay
    runs = [torch.randn(len(sample), 16, generator=draw, dtype=torch.float64) * deviations for _ in range(2)]
    return View(runs, rows, groups=12)


@pytest.mark.parametrize("name", ["pt-peft", "pt-peft-pooled", "energy-90"])
def test_two_draws_of_one_population_differ_by_no_step(name: str) -> None:
    """A step apart by chance, they were told apart: the paper's ratio gave -9.4 [-10.6, -8.2]."""
    what, apart, missed = definition(name), 0, 0
    for seed in range(40):
        view = two_draws(seed, 1.0)
        a, b = view.evaluate(what, 0), view.evaluate(what, 1)
        bounds = bounds_of(what, view)
        (value, low, high), _ = parts(limits_of(b - a, bounds.difference, 0.95))
        assert value == pytest.approx(round(value / a.step) * a.step), "a difference is whole steps"
        apart += value != 0
        missed += not low <= 0 <= high
        (value, low, high), _ = parts(limits_of(a, bounds, 0.95))
        assert low <= value <= high
        assert all(end == pytest.approx(round(end / a.step) * a.step) for end in (low, high))
    assert apart >= 2, "the steps are what this is about"
    assert missed <= 3


@pytest.mark.parametrize("name", ["pt-peft-pooled", "energy-90"])
def test_runs_that_show_the_same_number_have_no_small_p(tmp_path: Path, name: str) -> None:
    """The continuous number moves surely, by less than a step: what is shown is 0, and its p says the same."""
    shown, small = 0, 0
    for seed in range(12):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(240, 16, generator=draw, dtype=torch.float64) * torch.arange(1, 17) ** -1.0
        for run, features in (("x", x), ("y", x * torch.linspace(1, 1.03, 16))):
            np.save(tmp_path / f"{run}{seed}.npy", features.numpy())
        places = ((tmp_path / f"{run}{seed}.npy", tmp_path / f"{run}{seed}.pt") for run in "xy")
        x_y = (import_features(read, out, sites={read.stem: "decoder.0"}) for read, out in places)
        (record,) = rankscope.compare(*x_y, measures=[name], groups=12).records
        shown += record.value == 0
        small += record.p < 0.05
        assert (record.band.low <= 0 <= record.band.high) == (record.p >= 0.05)
    assert shown >= 6
    assert small <= 12 - shown


def test_a_number_on_its_first_step_has_an_interval() -> None:
    """One direction holds nine tenths; the continuous number that energy-90 rounds up lies below 1, where no rank does."""
    view, what = two_draws(0, 3.0), definition("energy-90")
    assert parts(limits_of(view.evaluate(what, 0), bounds_of(what, view), 0.95))[0] == (1.0, 1.0, 1.0)


def test_a_number_that_few_samples_decide_says_so_beside_it() -> None:
    """One channel is a hundred times the rest in one row of sixty: most draws would not have it."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=draw, dtype=torch.float64)
    spiked = x.clone()
    spiked[7, 2] += 30.0
    sample = torch.arange(60)
    rows = Rows(sample, torch.zeros_like(sample), torch.full_like(sample, TEXT), tuple(map(str, range(60))))
    view, what = GuardedView([x, spiked], rows, groups=20), definition("participation-ratio")
    said = [cautions(what, view, view.evaluate(what, run)) for run in (0, 1)]
    words = "a few samples make up most of its error, so the interval may cover the truth less often than stated"
    assert [words in notes for notes in said] == [False, True]


def parts(limits: Limits) -> tuple[tuple[float, float, float], tuple[str, ...]]:
    estimate, notes = limits
    return (estimate.value, estimate.low, estimate.high), notes


def test_a_frame_of_numbers_without_intervals_can_be_calculated_with() -> None:
    record = RunRecord("decoder.0", "stable-rank", Estimate(1.5), None, Shape(3, 3, 2, "float32"), "", "dimensions")
    frame = Table((record, record)).to_frame()
    assert [str(frame[name].dtype) for name in ("value", "low", "high", "noise")] == ["float64"] * 4
    assert frame.low.round(2).isna().all()
