"""The embedded checkpoint bears a shift of positions and an untrained prefix, and a table that never saw other places is found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

import rankscope

SAMPLES = 64


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("position_shift")


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return rankscope.embedded_checkpoint()


def by_shift(script: ModuleType, checkpoint: Path, model: torch.nn.Module) -> dict[int, dict[str, float]]:
    return {s: script.shifted(checkpoint, SAMPLES, s, model) for s in script.SHIFTS}


def test_losses_are_flat_in_the_shift(script: ModuleType, checkpoint: Path) -> None:
    model = rankscope.load_model(checkpoint)
    found = by_shift(script, checkpoint, model)
    assert script.bears_a_shift(found), found
    assert found[0]["old look"] < 0.2
    # A control: with the places that unshifted text does not reach as they were before training, the shift is noticed.
    table = model.language_model.model.decoder.embed_positions.weight
    with torch.no_grad():
        table[2 + 42 :] = 0.06 * torch.randn(table[2 + 42 :].shape, generator=torch.Generator().manual_seed(0))
    broken = script.shifted(checkpoint, SAMPLES, 16, model)
    assert script.losses(checkpoint, SAMPLES, model) == pytest.approx(found[0], rel=1e-6)
    assert broken["old look"] > 1.05 * found[16]["old look"]
    assert not script.bears_a_shift({0: found[0], 16: broken})


def test_an_untrained_prefix_stays_within_its_bound(script: ModuleType, checkpoint: Path) -> None:
    model = rankscope.load_model(checkpoint)
    base = script.losses(checkpoint, SAMPLES, model)
    start = script.recipe("prefix").options["prefix"].init
    found = {n: [script.untrained(checkpoint, SAMPLES, n, start, 0, model)] for n in script.LENGTHS}
    assert script.bears_a_prefix(base, found), found
    assert script.losses(checkpoint, SAMPLES, model) == base  # each prefix leaves no trace


def test_neighbours_and_padding_do_not_matter(script: ModuleType, checkpoint: Path, tmp_path: Path) -> None:
    found = script.neighbours(checkpoint, 24, tmp_path)
    assert set(found) == {"padding on the left", "alone in the batch"}
    assert max(found.values()) < 1e-5


def test_the_start_is_chosen_by_the_rule(script: ModuleType) -> None:
    def runs(*tasks: float, old: float = 0.2) -> list[dict[str, float]]:
        return [{"task": t, "old look": old} for t in tasks]

    before = {"random": runs(0.7, old=0.3), "tokens": runs(0.7, old=0.9)}
    assert script.better_start(before, {"random": runs(0.5, 0.52), "tokens": runs(0.4, 0.41)}) == "tokens"
    assert script.better_start(before, {"random": runs(0.5, 0.52), "tokens": runs(0.49, 0.51)}) == "random"
