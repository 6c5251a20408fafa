"""What is to be trained and on what, checked before anything is written: the recipe, the device, the base, the task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankscope.checkpoint import Checkpoint
from rankscope.data.open import open_data
from rankscope.errors import CheckpointError, UsageError
from rankscope.features import ANSWER, TEXT
from rankscope.models.inputs.reader import Reader, inputs_of, reader as open_reader
from rankscope.models.load import load_model
from rankscope.models.tunings.prefix_start import Tokens
from rankscope.tuning.answers import answers_for
from rankscope.tuning.batches import PairEncoder, TrainingData, collate, settle_task, training_pairs
from rankscope.tuning.config import Recipe
from rankscope.tuning.record import SEEDS, Plan
from rankscope.tuning.stages import attach_kinds, attached_for_a_moment, head_keeper


def trains_on_cpu(device: Any, recipe: Recipe) -> bool:
    """Whether the CPU trains.

    Raises:
        UsageError: if there is no such device, or it cannot train in the recipe's precision.
    """
    has_gpu = torch.cuda.is_available()
    if device is not None and str(device) not in ("cpu", *(["cuda"] if has_gpu else ())):
        raise UsageError(
            f"training runs on {'cuda or cpu' if has_gpu else 'the cpu here'}, not on {str(device)!r}; CUDA_VISIBLE_DEVICES "
            "chooses among GPUs, and torchrun trains on several"
        )
    cpu = not has_gpu or str(device) == "cpu"
    if cpu and recipe.precision == "fp16":
        raise UsageError("fp16 is for GPUs; a CPU trains in float32 or bf16")
    return cpu


def make_plan(
    model: str | Path | Checkpoint,
    recipe: Recipe,
    data: Any,
    *,
    task: str | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> tuple[nn.Module, Plan]:
    """The base, loaded, and what is to be made of it, checked; the base is as it was, and nothing is written.

    Raises:
        CheckpointError, DataError, UnknownName, UsageError: as :func:`~rankscope.tuning.training.train`.
    """
    if not 0 <= seed < SEEDS:
        raise UsageError(f"a seed is a whole number from 0 to {SEEDS - 1}; got {seed}")
    base = Checkpoint.read(model)
    if base.tunings:
        tuned = ", ".join(tuning.kind for tuning in base.tunings)
        raise CheckpointError(
            f"{base.path} is already tuned ({tuned}); give its base {base.base}, and all stages in one recipe"
        )
    network = load_model(base, dtype=torch.float32, trust_remote_code=trust_remote_code)
    reader, probes = open_reader(network, base), open_data(data)
    task = settle_task(task, network, probes, reader)
    kinds = [kind for stage in recipe.stages for kind in stage.attach]
    if any(stage.objective == "scst" for stage in recipe.stages) and reader.inputs.family.frames_prompts:
        raise UsageError(
            f"{type(network).__name__} frames its prompt again when it generates, so SCST would score other captions than it samples; "
            "train it on its labels"
        )
    if any(stage.objective == "scst" for stage in recipe.stages) and task != "captioning":
        raise UsageError(f"SCST rewards captions; the task is {task}")
    if task == "classification":
        head_keeper(kinds)
    answers = answers_for(base, network.config, probes) if task == "classification" else None
    plan = Plan(base.weights.resolve(), recipe, probes, task, seed, reader.inputs.processor, answers)
    # A stage that cannot begin, or a sample that is too long, is found now and not after hours of earlier stages.
    with attached_for_a_moment(network, kinds, recipe):
        training_data(reader_of(network, plan), plan).check()
    return network, plan


def reader_of(model: nn.Module, plan: Plan) -> Reader:
    """The reader of a model as it is now, with the prefix that is attached."""
    return Reader(model, inputs_of(model, plan.processor))


def training_data(reader: Reader, plan: Plan) -> TrainingData:
    """The samples of a cross-entropy stage."""
    encode = PairEncoder(reader, plan.task, plan.recipe.max_length, plan.answers)
    return TrainingData(training_pairs(plan.data, plan.task), encode)


def attach_stage(model: nn.Module, plan: Plan, place: int) -> None:
    """Attach what a stage attaches, drawn from the stage's seed; a prefix may start from training samples."""
    seed = plan.seed_of_stage(place)
    torch.manual_seed(seed)
    attach_kinds(model, plan.recipe.stages[place].attach, plan.recipe, _start_tokens(model, plan, seed))


def _start_tokens(model: nn.Module, plan: Plan, seed: int) -> Iterator[Tokens]:
    """Training samples in an order drawn from a seed, with the text in them chosen: what is read and what is to be said."""
    reader = reader_of(model, plan)
    data = training_data(reader, plan)
    device = next(model.parameters()).device
    for index in torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist():
        encoding = data[index]
        is_text = {stack: (roles == TEXT) | (roles == ANSWER) for stack, roles in encoding.roles.items()}
        inputs = {name: tensor.to(device) for name, tensor in collate(reader, [encoding]).items()}
        yield Tokens(inputs, {stack: chosen for stack, chosen in is_text.items() if chosen.any()})
