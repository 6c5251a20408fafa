"""What a training would do, stage by stage, without training: steps, trained numbers, and the untrained prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rankscope.checkpoint import Checkpoint
from rankscope.tuning.batches import samples
from rankscope.tuning.planning import attach_stage, check_plan, on_cpu, planned, recipe_of
from rankscope.tuning.stages import numbers_by_kind, set_trainable
from rankscope.tuning.trainer import steps_of
from rankscope.tuning.untrained import watched


def preview(
    model: str | Path | Checkpoint,
    *,
    method: str | None = None,
    data: Any,
    task: str | None = None,
    seed: int = 0,
    **options: Any,
) -> list[dict[str, Any]]:
    """What :func:`~rankscope.tuning.training.train` would do with the same arguments, stage by stage; nothing is written.

    Returns:
        For each stage its name, objective, learning rate, optimiser steps, samples (one for each reference caption), how many numbers
        are trained, in all and by kind, and what a prefix that it attaches does before it is trained
        (:class:`~rankscope.tuning.untrained.Untrained`, or None).

    Raises:
        CheckpointError, DataError, UnknownName, UsageError: as training would.
    """
    device, trust = options.pop("device", None), bool(options.pop("trust_remote_code", False))
    made = recipe_of(method, options)
    on_cpu(device, made)
    network, plan = planned(model, made, data, task=task, seed=seed, trust_remote_code=trust)
    check_plan(network, plan)
    told = []
    for place, stage in enumerate(made.stages):
        with watched(network, plan, stage.attach) as found:
            attach_stage(network, plan, place)
        trained = numbers_by_kind(set_trainable(network, stage.train, made, head=plan.task == "classification"))
        count = len(plan.data) if stage.objective == "scst" else len(samples(plan.data, plan.task))
        told.append(
            {
                "stage": stage.name, "objective": stage.objective, "learning_rate": stage.learning_rate,
                "steps": steps_of(stage, count), "batch_size": stage.batch_size * stage.accumulation, "samples": count,
                "trained": sum(trained.values()), "by_kind": trained,
                "share": sum(trained.values()) / sum(p.numel() for p in network.parameters()),
                "untrained_prefix": found[0] if found else None,
            }
        )  # fmt: skip
    return told
