"""What is to be trained of what, found out before anything is written: the recipe, the device, the base, the task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankscope.checkpoint import Checkpoint
from rankscope.data.open import open_data
from rankscope.errors import CheckpointError, UsageError
from rankscope.models.inputs.reader import Reader, inputs_of, reader
from rankscope.models.load import load_model
from rankscope.tuning.answers import answers_for
from rankscope.tuning.batches import Encoder, TrainingData, samples, settle_task
from rankscope.tuning.config import Recipe
from rankscope.tuning.options import read_options
from rankscope.tuning.recipes import recipe
from rankscope.tuning.record import SEEDS, Plan
from rankscope.tuning.stages import attach_kinds, attached_for_a_moment, head_keeper, numbers_by_kind, set_trainable
from rankscope.tuning.trainer import steps_of


def recipe_of(method: str | None, options: Mapping[str, Any]) -> Recipe:
    """The recipe that options and a file of them describe; what is given goes before what is in the file."""
    told = read_options(Path(options["config"])) if options.get("config") else {}
    options = {**told, **{k: v for k, v in options.items() if v is not None and k != "config"}}
    written = {name: options.pop(name, None) for name in ("method", "stages")}
    asked = {"method": method} if method is not None or written["method"] is None else written
    if method is None and written["stages"] is not None:
        asked = {"stages": written["stages"]}
    return recipe(**asked, **options)


def on_cpu(device: Any, made: Recipe) -> bool:
    """Whether the CPU trains.

    Raises:
        UsageError: if the device is not there, or does not do the precision.
    """
    there = torch.cuda.is_available()
    if device is not None and str(device) not in ("cpu", *(["cuda"] if there else ())):
        raise UsageError(
            f"training runs on {'cuda or cpu' if there else 'the cpu here'}, not on {str(device)!r}; which GPUs it sees is said by "
            "CUDA_VISIBLE_DEVICES, and torchrun trains on several"
        )
    cpu = not there or str(device) == "cpu"
    if cpu and made.precision == "fp16":
        raise UsageError("fp16 is for GPUs; a CPU trains in float32 or bf16")
    return cpu


def planned(
    model: str | Path | Checkpoint, made: Recipe, data: Any, *, task: str | None, seed: int, trust_remote_code: bool
) -> tuple[nn.Module, Plan]:
    """The base, loaded, and what is to be made of it; nothing is written.

    Raises:
        CheckpointError, DataError, UnknownName, UsageError: as :func:`train`.
    """
    if not 0 <= seed < SEEDS:
        raise UsageError(f"a seed is a whole number from 0 to {SEEDS - 1}; got {seed}")
    base = _base(model)
    network = load_model(base, dtype=torch.float32, trust_remote_code=trust_remote_code)
    reading = reader(network, base)
    probes = open_data(data)
    chosen = settle_task(task, network, probes, reading)
    _check_recipe(made, chosen)
    answers = answers_for(base, network.config, probes) if chosen == "classification" else None
    return network, Plan(base.weights.resolve(), made, probes, chosen, seed, reading.inputs.processor, answers)


def _base(model: str | Path | Checkpoint) -> Checkpoint:
    base = Checkpoint.read(model)
    if base.tunings:
        kinds = ", ".join(t.kind for t in base.tunings)
        raise CheckpointError(
            f"{base.path} is tuned already ({kinds}); give its base {base.base}, and all stages in one recipe"
        )
    return base


def _check_recipe(made: Recipe, task: str) -> None:
    if any(stage.objective == "scst" for stage in made.stages) and task != "captioning":
        raise UsageError(f"SCST rewards captions; the task is {task}")
    if task == "classification":
        head_keeper([kind for stage in made.stages for kind in stage.attach])


def reading_of(model: nn.Module, plan: Plan) -> Reader:
    """The reader of a model as it is now, with the prefix that is attached."""
    return Reader(model, inputs_of(model, plan.processor))


def training_data(reading: Reader, plan: Plan) -> TrainingData:
    """The samples of a cross-entropy stage."""
    return TrainingData(
        samples(plan.data, plan.task), Encoder(reading, plan.task, plan.recipe.max_length, plan.answers)
    )


def check_plan(model: nn.Module, plan: Plan) -> None:
    """See that every stage can begin and that the longest samples fit, before the first one takes its hours.

    The model is left as it was.

    Raises:
        UnknownName, UsageError: if a stage attaches what the architecture does not take.
        DataError: if a sample does not fit, with the prefix where there is one.
    """
    kinds = [kind for stage in plan.recipe.stages for kind in stage.attach]
    with attached_for_a_moment(model, kinds, plan.recipe):
        training_data(reading_of(model, plan), plan).check()


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
        For each stage its name, objective, learning rate, optimiser steps, samples (one for each reference caption), and
        how many numbers are trained, in all and by kind.

    Raises:
        CheckpointError, DataError, UnknownName, UsageError: as training would.
    """
    device, trust = options.pop("device", None), bool(options.pop("trust_remote_code", False))
    made = recipe_of(method, options)
    on_cpu(device, made)
    network, plan = planned(model, made, data, task=task, seed=seed, trust_remote_code=trust)
    check_plan(network, plan)
    told = []
    for stage in made.stages:
        attach_kinds(network, stage.attach, made)
        trained = numbers_by_kind(set_trainable(network, stage.train, made, head=plan.task == "classification"))
        count = len(plan.data) if stage.objective == "scst" else len(samples(plan.data, plan.task))
        told.append(
            {
                "stage": stage.name, "objective": stage.objective, "learning_rate": stage.learning_rate,
                "steps": steps_of(stage, count), "batch_size": stage.batch_size * stage.accumulation, "samples": count,
                "trained": sum(trained.values()), "by_kind": trained,
                "share": sum(trained.values()) / sum(p.numel() for p in network.parameters()),
            }
        )  # fmt: skip
    return told
