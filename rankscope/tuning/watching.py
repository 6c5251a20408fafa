"""What looks on while a stage trains, and disturbs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from rankscope.tuning.config import Recipe


class EpochEnd(TrainerCallback):
    """Calls something at the end of every epoch, with the number of the epoch; again where a run goes on from there."""

    def __init__(self, call: Callable[[int], None]) -> None:
        self.call = call

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the Trainer: the state may be older than a kill that came before the call was done."""
        if state.global_step and (epoch := round(state.epoch, 6)).is_integer():
            self.call(int(epoch))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the Trainer."""
        self.call(math.ceil(round(state.epoch, 6)))


class Progress(TrainerCallback):
    """Tells how far a training is, stage by stage."""

    def __init__(self, tell: Callable[[int, int, str], None], recipe: Recipe) -> None:
        self.tell, self.stages, self.at = tell, recipe.stages, -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the Trainer."""
        self.at = int(str(args.output_dir).rpartition("-")[2])
        self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by the Trainer."""
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        which = f"stage {self.at + 1} of {len(self.stages)} ({self.stages[self.at].name})"
        told = f"{which}, loss {losses[-1]:.4g}" if losses else which
        if state.is_world_process_zero:
            self.tell(state.global_step, state.max_steps, told)
