"""Callbacks that watch a stage train, and disturb nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from rankscope.progress import Progress
from rankscope.tuning.config import Recipe


class EpochEnd(TrainerCallback):
    """Calls a function at the end of every epoch with the number of the epoch, and again if a run continues from there."""

    def __init__(self, call: Callable[[int], None]) -> None:
        self.call = call

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the Trainer: the kill may have come after the state was kept and before the call was done."""
        if state.global_step and (epoch := round(state.epoch, 6)).is_integer():
            self.call(int(epoch))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the Trainer."""
        self.call(math.ceil(round(state.epoch, 6)))


class ReportProgress(TrainerCallback):
    """Reports how far a training is, stage by stage."""

    def __init__(self, report: Progress, recipe: Recipe) -> None:
        self.report, self.stages, self.place = report, recipe.stages, -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the Trainer."""
        self.place = int(str(args.output_dir).rpartition("-")[2])  # the folder is stage-<place>
        self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the Trainer."""
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        stage = f"stage {self.place + 1} of {len(self.stages)} ({self.stages[self.place].name})"
        if state.is_world_process_zero:
            self.report(state.global_step, state.max_steps, f"{stage}, loss {losses[-1]:.4g}" if losses else stage)
