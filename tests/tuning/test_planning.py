"""What is found out before a training begins and told while it runs, and batches that are accumulated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch.testing import assert_close
from tuning_data import SMALL, examples, made_recipe, weights

from rankscope.data import Example
from rankscope.errors import DataError
from rankscope.tuning import preview, train


def test_what_would_be_trained_is_told_and_nothing_is_written(base: Callable[[str], Path], tmp_path: Path) -> None:
    data, options = examples("blip2-opt", 5), {**SMALL, "method": "pt-lora", "epochs": [3, 1], "accumulation": [1, 2]}
    plain = {name: value for name, value in options.items() if name != "device"}
    told = preview(base("blip2-opt"), made_recipe(**plain), data=data, device="cpu")
    done = train(base("blip2-opt"), data=data, out=tmp_path / "o", **options)
    assert [s["by_kind"] for s in told] == [s["trained"] for s in done.training]
    assert [s["steps"] for s in told] == [s["steps"] for s in done.training] == [9, 2]  # ten captions, four at once
    assert [s["samples"] for s in told] == [10, 10]


def test_a_sample_that_does_not_fit_is_told_before_training(base: Callable[[str], Path], tmp_path: Path) -> None:
    """Whatever its place in the data, and with the prefix of a later stage."""
    data, steps = [*examples("gpt2", 40), Example("late", text="five " * 24)], []
    with pytest.raises(DataError, match="'late'"):
        train(
            base("gpt2"), method="lora-prefix", data=data, out=tmp_path / "o", steps=1,
            progress=lambda *told: steps.append(told), **{**SMALL, "prefix_length": 120},
        )  # fmt: skip
    assert steps == []


def test_progress_is_told_step_by_step(base: Callable[[str], Path], tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    train(
        base("gpt2"), method="pt-lora", data=examples("gpt2"), out=tmp_path / "o", steps=[2, 1],
        progress=lambda *now: told.append(now), **SMALL,
    )  # fmt: skip
    assert [(done, total) for done, total, _ in told] == [(0, 2), (1, 2), (2, 2), (0, 1), (1, 1)]
    assert told[0][2] == "stage 1 of 2 (prefix)"
    assert told[2][2].startswith("stage 1 of 2 (prefix), loss ")
    assert told[-1][2].startswith("stage 2 of 2 (lora)")


@pytest.mark.parametrize("name", ["opt", "t5", "llava", "vit"])
def test_accumulated_batches_train_as_one(base: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    """Whatever the number of labels in each: a step is a mean over all of them."""
    options = {**SMALL, "method": "prefix+lora", "steps": 2, "learning_rate": 1e-2, "prefix_dropout": 0.0}
    done = {}
    for size, times in ((8, 1), (2, 4)):
        told = {**options, "batch_size": size, "accumulation": times, "max_grad_norm": 0}
        done[size] = train(base(name), data=examples(name, 8), out=tmp_path / str(size), **told).training[0]["losses"]
    assert done[2] == pytest.approx(done[8], rel=1e-4)
    one, other = weights(tmp_path / "8"), weights(tmp_path / "2")
    for key, tensor in one.items():
        assert_close(other[key], tensor, rtol=1e-3, atol=3e-4)
