"""Run by torchrun with two processes: the command line's training, and then one with FSDP2 on CPUs that kills itself in the
second stage and goes on.

accelerate shards on accelerators only: it is told here that the processes, which talk over gloo, have one each. All that
comes after, in accelerate, transformers and torch, is what runs on GPUs.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any

from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

from rankscope.cli import main as command_line
from rankscope.tuning import train
from rankscope.tuning.watching import EpochEnd

FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}  # fmt: skip
"""What ``accelerate launch --use_fsdp --fsdp_version 2`` puts into the environment."""

warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
begin, ended = PartialState.__init__, EpochEnd.on_epoch_end


def sharded_too(self: Any, *args: Any, **options: Any) -> None:
    begin(self, *args, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def late(self: EpochEnd, *args: Any, **given: Any) -> None:
    """The second process comes to the end of an epoch when the first could have written the checkpoint and gone on."""
    time.sleep(float(os.environ["RANK"]))
    ended(self, *args, **given)


class Kill(TrainerCallback):
    """Stops every process in the second stage, after a state was kept."""

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        assert isinstance(model, FSDPModule)
        if args.output_dir.endswith("stage-1") and state.global_step == 3:
            raise KeyboardInterrupt


def from_the_command_line(words: str) -> None:
    sys.argv = ["rankscope", *json.loads(words)]
    try:
        command_line()
    except SystemExit as end:
        if end.code:
            raise


def sharded(base: str, given: str) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ.update(FSDP)
    PartialState.__init__ = sharded_too  # type: ignore[method-assign]
    options = json.loads(given)
    try:
        train(base, callbacks=[Kill()], **options)
    except KeyboardInterrupt:
        done = train(base, resume=True, **options)
        if os.environ["RANK"] == "0":
            print(json.dumps([stage["steps"] for stage in done.training]))


if __name__ == "__main__":
    EpochEnd.on_epoch_end = late  # type: ignore[method-assign]
    words, *rest = sys.argv[1:]
    from_the_command_line(words)
    sharded(*rest)
