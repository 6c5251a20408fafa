"""What a training would do, stage by stage, without training: steps, trained numbers, and the untrained prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rankscope.checkpoint import Checkpoint
from rankscope.errors import public
from rankscope.tuning.batches import training_pairs
from rankscope.tuning.config import Recipe
from rankscope.tuning.planning import make_plan, trains_on_cpu
from rankscope.tuning.stages import numbers_by_kind, set_trainable
from rankscope.tuning.trainer import steps_of
from rankscope.tuning.untrained import attach_and_try


@public
def preview(
    model: str | Path | Checkpoint,
    recipe: Recipe,
    *,
    data: Any,
    task: str | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """What :func:`~rankscope.tuning.training.train` would do by a recipe, stage by stage; nothing is written.

    Args:
        model: the base: a folder, a name in the local Hub cache, or a checkpoint that was read.
        recipe: how it would be tuned, as :func:`~rankscope.tuning.recipes.recipe` builds it.
        data: the training data, as :func:`rankscope.open_data` takes them.
        task: one of :data:`~rankscope.tuning.batches.TASKS`; by default the one that suits the model and the data.
        seed: the seed of initial weights, order and dropout; 0 by default.
        device: ``"cpu"`` or ``"cuda"``; by default the GPU if there is one.
        trust_remote_code: whether Python files that come with the checkpoint may run; False by default.

    Returns:
        For each stage its name, objective, learning rate, optimiser steps, samples in a step, samples (one for each reference
        caption), the number of trained numbers, in all and by kind, their share of all numbers, and what a prefix that it attaches
        does before it is trained (:class:`~rankscope.tuning.untrained.Untrained`, or None).

    Raises:
        WrongCall: for an option that does not exist.
        CheckpointError, DataError, UnknownName, UsageError: as training would.
    """
    trains_on_cpu(device, recipe)
    network, plan = make_plan(model, recipe, data, task=task, seed=seed, trust_remote_code=trust_remote_code)
    previews = []
    for place, stage in enumerate(recipe.stages):
        untrained = attach_and_try(network, plan, place)
        trained = numbers_by_kind(set_trainable(network, stage.train, recipe, head=plan.task == "classification"))
        samples = len(plan.data) if stage.objective == "scst" else len(training_pairs(plan.data, plan.task))
        previews.append(
            {
                "stage": stage.name, "objective": stage.objective, "learning_rate": stage.learning_rate,
                "steps": steps_of(stage, samples), "batch_size": stage.batch_size * stage.accumulation, "samples": samples,
                "trained": sum(trained.values()), "by_kind": trained,
                "share": sum(trained.values()) / sum(p.numel() for p in network.parameters()),
                "untrained_prefix": untrained,
            }
        )  # fmt: skip
    return previews
