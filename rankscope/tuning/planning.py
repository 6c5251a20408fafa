"""What is to be trained of what, found out before anything is written: the recipe, the device, the base, the task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankscope.checkpoint import Checkpoint
from rankscope.data.open import open_data
from rankscope.errors import CheckpointError, UsageError
from rankscope.features import ANSWER, TEXT
from rankscope.models.inputs.reader import Reader, inputs_of, reader
from rankscope.models.load import load_model
from rankscope.models.tunings.prefix_start import Tokens
from rankscope.tuning.answers import answers_for
from rankscope.tuning.batches import Encoder, TrainingData, collate, samples, settle_task
from rankscope.tuning.config import Recipe
from rankscope.tuning.options import read_options
from rankscope.tuning.recipes import recipe
from rankscope.tuning.record import SEEDS, Plan
from rankscope.tuning.stages import attach_kinds, attached_for_a_moment, head_keeper


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


def start_tokens(model: nn.Module, plan: Plan, seed: int) -> Iterator[Tokens]:
    """Training samples in an order of the seed, for a prefix to start from: the text that is read and that is to be said."""
    reading = reading_of(model, plan)
    data = training_data(reading, plan)
    device = next(model.parameters()).device
    for index in torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist():
        made = data[index]
        text = {name: (roles == TEXT) | (roles == ANSWER) for name, roles in made.roles.items()}
        inputs = {name: tensor.to(device) for name, tensor in collate(reading, [made]).items()}
        yield Tokens(inputs, {name: chosen for name, chosen in text.items() if chosen.any()})


def attach_stage(model: nn.Module, plan: Plan, place: int) -> None:
    """Attach what a stage attaches, drawn from the stage's seed; a prefix may start from training samples."""
    seed = plan.seed_of_stage(place)
    torch.manual_seed(seed)
    attach_kinds(model, plan.recipe.stages[place].attach, plan.recipe, start_tokens(model, plan, seed))


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
