"""Trains with FSDP2 on CPUs, kills itself in the second stage, and goes on; run by torchrun with two processes.

accelerate shards on accelerators only: it is told here that the processes, which talk over gloo, have one each. All that
comes after, in accelerate, transformers and torch, is what runs on GPUs.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

from accelerate.state import DistributedType, PartialState
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

from rankscope.tuning import train

warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
begin = PartialState.__init__


def sharded_too(self: Any, *args: Any, **options: Any) -> None:
    begin(self, *args, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


class Kill(TrainerCallback):
    """Stops every process in the second stage, after a state was kept."""

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        assert isinstance(model, FSDPModule)
        if args.output_dir.endswith("stage-1") and state.global_step == 3:
            raise KeyboardInterrupt


def main(base: str, given: str) -> None:
    PartialState.__init__ = sharded_too  # type: ignore[method-assign]
    options = json.loads(given)
    try:
        train(base, callbacks=[Kill()], **options)
    except KeyboardInterrupt:
        done = train(base, resume=True, **options)
        if os.environ["RANK"] == "0":
            print(json.dumps([stage["steps"] for stage in done.training]))


if __name__ == "__main__":
    main(*sys.argv[1:])
