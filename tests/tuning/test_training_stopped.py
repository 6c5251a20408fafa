"""Training that stops: killed and continued, a loss that is no number, a full disk; and what is not begun again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from tuning_data import SMALL, examples, same, weights

from rankscope.errors import (
    CheckpointError,
    NonFinite,
    OutputExists,
    StorageError,
    UsageError,
)
from rankscope.models.load import load_model
from rankscope.tuning import train
from rankscope.tuning.output import check_free

IDS = torch.arange(10, 20)[None]


class Killed(Exception):
    """The run was killed."""


class Kill(TrainerCallback):
    """Kills the run after a step of a stage."""

    def __init__(self, stage: int, step: int) -> None:
        self.at = (f"stage-{stage}", step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (Path(args.output_dir).name, state.global_step) == self.at:
            raise Killed


class Poison(TrainerCallback):
    """Makes the loss of one step, or its gradient, no number; the weights are not the cause."""

    def __init__(self, step: int, *, gradient: bool = False) -> None:
        self.step, self.gradient = step, gradient

    def on_step_begin(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            trained = next(p for p in model.parameters() if p.requires_grad)
            if self.gradient:
                trained.register_hook(lambda grad: grad * float("nan"))
            else:
                self.hook = model.lm_head.register_forward_hook(self.spoil)

    def spoil(self, module: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
        self.hook.remove()
        return logits * float("nan")


class Diverge(TrainerCallback):
    """Makes what is trained so large after a step of a stage that every loss is no number."""

    def __init__(self, stage: int, step: int) -> None:
        self.at = (f"stage-{stage}", step)

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        if (Path(args.output_dir).name, state.global_step) == self.at:
            for p in model.parameters():
                p.data.fill_(3e38) if p.requires_grad else None


RUN: dict[str, Any] = {
    **SMALL,
    "method": "pt-lora",
    "epochs": 2,
    "lora_dropout": 0.1,
    "save_steps": 2,
    "weight_decay": 0.01,
}


@pytest.fixture(scope="module")
def undisturbed(base: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "undisturbed"
    train(base("gpt2"), data=examples("gpt2", 12), out=out, **RUN)
    return out


def test_one_seed_repeats_and_two_differ(base: Callable[[str], Path], undisturbed: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(base("gpt2"), data=examples("gpt2", 12), out=tmp_path / str(seed), seed=seed, **RUN)
    assert same(tmp_path / "0", undisturbed)
    assert not same(tmp_path / "1", undisturbed)
    told = json.loads((undisturbed / "1-lora" / "adapter_config.json").read_text())
    assert told["target_modules"] == [f"{block}.attn.c_attn" for block in (f"transformer.h.{i}" for i in range(3))], (
        "the order of a set is chance"
    )


@pytest.mark.parametrize(("stage", "step"), [(0, 1), (0, 3), (0, 6), (1, 1), (1, 5)])
def test_a_killed_run_ends_as_if_it_had_not_been(
    base: Callable[[str], Path], undisturbed: Path, stage: int, step: int, tmp_path: Path
) -> None:
    data, out = examples("gpt2", 12), tmp_path / "o"
    with pytest.raises(Killed):
        train(base("gpt2"), data=data, out=out, callbacks=[Kill(stage, step)], **RUN)
    with pytest.raises(OutputExists, match="an unfinished run: continue it with resume"):
        train(base("gpt2"), data=data, out=out, **RUN)
    done = train(base("gpt2"), data=data, out=out, resume=True, **RUN)
    assert same(out, undisturbed)
    assert [entry["steps"] for entry in done.training] == [6, 6]


def test_a_state_that_a_kill_cut_short_is_passed_over(
    base: Callable[[str], Path], undisturbed: Path, tmp_path: Path
) -> None:
    data, out = examples("gpt2", 12), tmp_path / "o"
    with pytest.raises(Killed):
        train(base("gpt2"), data=data, out=out, callbacks=[Kill(1, 5)], **RUN)
    last = out / ".training" / "stage-1" / "checkpoint-4"
    (last / "complete").unlink()
    (last / "optimizer.pt").write_bytes(b"cut")
    train(base("gpt2"), data=data, out=out, resume=True, **RUN)
    assert same(out, undisturbed)


def test_only_the_same_run_is_continued(base: Callable[[str], Path], tmp_path: Path) -> None:
    data, out, own = examples("gpt2", 12), tmp_path / "o", tmp_path / "base"
    shutil.copytree(base("gpt2"), own)
    with pytest.raises(Killed):
        train(own, data=data, out=out, callbacks=[Kill(0, 3)], **RUN)
    for change, message in [
        ({"seed": 3}, "begun with seed 0, not 3"),
        ({"lora_rank": 5}, r"begun with recipe\.lora\.rank 2, not 5"),
        ({"data": examples("gpt2", 4)}, "begun with data"),
    ]:
        with pytest.raises(UsageError, match=message):
            train(own, **{"data": data, **RUN, **change}, out=out, resume=True)
    tiny.save_base("gpt2", own, seed=7)
    with pytest.raises(CheckpointError, match="it is another base, or was changed since"):
        train(own, data=data, out=out, resume=True, **RUN)


def test_a_finished_run_is_not_done_again(base: Callable[[str], Path], undisturbed: Path) -> None:
    """Not even where a kill came while its working folder was removed."""
    before = weights(undisturbed)
    (undisturbed / ".training" / "stage-0").mkdir(parents=True)
    done = train(
        base("gpt2"), data=examples("gpt2", 12), out=undisturbed, resume=True, callbacks=[Kill(0, 1)], **RUN
    )  # fmt: skip
    assert not (undisturbed / ".training").exists()
    assert [entry["steps"] for entry in done.training] == [6, 6]
    assert all(torch.equal(before[k], v) for k, v in weights(undisturbed).items())
    with pytest.raises(OutputExists, match="there already"):
        train(base("gpt2"), data=examples("gpt2", 12), out=undisturbed, **RUN)


def test_overwriting_removes_checkpoints_only(base: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(OutputExists, match="not a rankscope checkpoint"):
        train(base("gpt2"), method="lora", data=examples("gpt2"), out=tmp_path, overwrite=True, steps=1, **SMALL)
    assert (tmp_path / "notes.txt").read_text() == "keep"
    (tmp_path / ".training").mkdir()  # as another program's could be called
    for asked in ({"resume": False, "overwrite": True}, {"resume": True, "overwrite": False}):
        with pytest.raises(OutputExists, match="not a rankscope checkpoint"):
            check_free(tmp_path, **asked)
    out = tmp_path / "o"
    train(base("gpt2"), method="lora", data=examples("gpt2"), out=out, keep_epochs=True, steps=1, **SMALL)
    assert {path.name for path in out.iterdir()} == {"0-lora", "epochs", "rankscope.json"}
    mine = ("notes.txt", "0-notes", "epochs.txt", "last-good-luck")
    for name in mine:
        (out / name).write_text("mine")
    for name in (".training", "last-good-step-3", "last-good-stage-0"):
        (out / name).mkdir()
    (out / "1-lora").symlink_to(tmp_path)
    train(base("gpt2"), method="adapter", data=examples("gpt2"), out=out, overwrite=True, steps=1, **SMALL)
    assert {path.name for path in out.iterdir()} == {"0-adapter", "rankscope.json", "1-lora", *mine}
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("gradient", [False, True])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(
    base: Callable[[str], Path], gradient: bool, tmp_path: Path
) -> None:
    data, out = examples("gpt2", 12), tmp_path / "o"
    what = "the gradient of" if gradient else "the loss is nan"
    with pytest.raises(
        NonFinite, match=rf"stage 0: {what}.* at step 3; training stopped, the state after step 2 is kept in"
    ):
        train(
            base("gpt2"), method="lora", data=data, out=out, steps=6, callbacks=[Poison(3, gradient=gradient)], **SMALL
        )
    assert torch.isfinite(load_model(out / "last-good-step-2")(IDS).logits).all()
    assert not (out / "rankscope.json").exists()


@pytest.mark.parametrize(
    ("at", "kept"), [((0, 3), "last-good-step-2"), ((1, 3), "last-good-step-2"), ((1, 1), "last-good-stage-0")]
)
def test_the_state_that_is_kept_gives_numbers(
    base: Callable[[str], Path], at: tuple[int, int], kept: str, tmp_path: Path
) -> None:
    """The weights that a run diverged to are finite, and not good."""
    told = {**SMALL, "method": "pt-lora", "steps": 6, "save_steps": 2}
    with pytest.raises(NonFinite, match=f"stage {at[0]}: the loss is nan at step {at[1] + 1}; .* is kept in .*{kept}"):
        train(base("gpt2"), data=examples("gpt2", 12), out=tmp_path / "o", callbacks=[Diverge(*at)], **told)
    found = tmp_path / "o" / kept
    assert torch.isfinite(load_model(found)(IDS).logits).all()
    record = json.loads((found / "rankscope.json").read_text())
    assert [s["kind"] for s in record["stages"]] == ["prefix", "lora"][: 2 if at == (1, 3) else 1]


def test_a_run_that_diverges_at_once_has_nothing_to_keep(base: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match=r"at step 2; no good state was kept before\. Lower"):
        train(
            base("gpt2"), method="lora", data=examples("gpt2", 12), out=tmp_path / "o", steps=6, save_steps=1,
            callbacks=[Diverge(0, 1)], **SMALL,
        )  # fmt: skip
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").glob("last-good*"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 88832 vs 88724"),
    ],
)
def test_a_full_disk_is_told_and_the_run_continues(
    base: Callable[[str], Path], undisturbed: Path, error: Exception, tmp_path: Path
) -> None:
    class Full(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if (Path(args.output_dir).name, state.global_step) == ("stage-1", 4):
                raise error

    data, out = examples("gpt2", 12), tmp_path / "o"
    with pytest.raises(StorageError, match=r"cannot write .*bytes are free; .* is continued with resume") as told:
        train(base("gpt2"), data=data, out=out, callbacks=[Full()], **RUN)
    assert told.value.__cause__ is error
    train(base("gpt2"), data=data, out=out, resume=True, **RUN)
    assert same(out, undisturbed)


def test_other_errors_are_no_fault_of_the_disk(base: Callable[[str], Path], tmp_path: Path) -> None:
    class Wrong(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            raise RuntimeError("sizes differ")

    with pytest.raises(RuntimeError, match="sizes differ"):
        train(base("gpt2"), data=examples("gpt2", 4), out=tmp_path / "o", callbacks=[Wrong()], **RUN)


def test_a_run_that_kept_nothing_leaves_nothing(base: Callable[[str], Path], tmp_path: Path) -> None:
    """So that the corrected command is not told of an unfinished run."""
    data = examples("gpt2", 12)
    with pytest.raises(NonFinite, match="step 1"):
        train(base("gpt2"), method="lora", data=data, out=tmp_path / "o", steps=3, callbacks=[Poison(1)], **SMALL)
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["last-good-step-0"]


def test_a_tuned_model_is_no_base(base: Callable[[str], Path], undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is already tuned"):
        train(undisturbed, method="lora", data=examples("gpt2"), out=tmp_path / "o")
