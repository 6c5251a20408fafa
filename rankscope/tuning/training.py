"""train: from a base, a recipe and data to a tuned checkpoint, stage by stage; continues where it was killed."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import TrainerCallback

from rankscope.checkpoint import STAGES, Checkpoint
from rankscope.data.open import open_data
from rankscope.errors import CheckpointError, NonFinite, UsageError
from rankscope.models.inputs import Inputs
from rankscope.models.load import load_model, quiet
from rankscope.models.reader import Reader, inputs_of, reader
from rankscope.models.stacks import stacks
from rankscope.tuning.answers import answers_for
from rankscope.tuning.batches import Encoder, TrainingData, collate, samples, settle_task
from rankscope.tuning.config import Recipe, Stage
from rankscope.tuning.generation import prompt_reader
from rankscope.tuning.masked import fills_masks, hide_words
from rankscope.tuning.options import read_options
from rankscope.tuning.recipes import recipe
from rankscope.tuning.record import WORK, Plan, prepare, write_checkpoint
from rankscope.tuning.scst import ScstTrainer, prompts
from rankscope.tuning.stages import attach_kinds, head_keeper, kind_of, set_trainable
from rankscope.tuning.trainer import (
    EpochEnd,
    StageTrainer,
    all_finite,
    arguments,
    last_complete,
    load_trained,
    save_memory,
    save_trained,
)

END, TOLD = "end.safetensors", "stage.json"


@dataclass(frozen=True)
class TrainResult:
    """What came of a training."""

    path: Path
    """The checkpoint."""
    recipe: Recipe
    """The resolved recipe."""
    training: tuple[dict[str, Any], ...]
    """What happened, stage by stage, as in ``rankscope.json``."""

    @property
    def loss(self) -> float:
        """The loss at the end of the last stage (over its last tenth)."""
        return float(self.training[-1]["last_loss"])


def train(
    model: str | Path | Checkpoint,
    *,
    method: str | None = None,
    data: Any,
    out: str | Path,
    task: str | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> TrainResult:
    """Tune a base and write the checkpoint.

    Args:
        model: the base: a folder, a name in the local Hub cache, or what was read from it.
        method: one of :data:`~rankscope.tuning.recipes.METHODS`, or stages written out (``prefix,lora``).
        data: the training data, as :func:`~rankscope.data.open.open_data` takes it.
        out: the folder of the checkpoint.
        task: one of :data:`~rankscope.tuning.batches.TASKS`; told by the model and the data unless given.
        seed: of initial weights, order and dropout. One seed repeats bit for bit on a CPU.
        resume: continue an unfinished run with the same arguments; it ends as if it had not been stopped.
        overwrite: replace an earlier checkpoint.
        options: ``stages``, and every option of a recipe (:func:`~rankscope.tuning.options.options`); ``config``, a TOML file
            of them, which options given here go before; ``device`` (``"cpu"`` leaves an accelerator alone); ``callbacks``, for
            the Trainer; ``trust_remote_code``.

    Raises:
        CheckpointError: if the base is tuned already, damaged, or (when resuming) another than the one begun with.
        DataError: if the data lacks what the task needs, or a sample does not fit the model's positions with the prefix.
        NonFinite: if a loss or gradient is no number; the last good state is kept in ``out`` and the message says where.
        OutputExists: if there is something at ``out``.
        UnknownName: if there is no such method, option, task, stack or target.
        UsageError: if the method does not fit the model.
    """
    run = {name: options.pop(name, None) for name in ("device", "callbacks", "trust_remote_code")}
    told = read_options(Path(options.pop("config"))) if options.get("config") else {}
    options = {**told, **{k: v for k, v in options.items() if v is not None and k != "config"}}
    written = {name: options.pop(name, None) for name in ("method", "stages")}
    asked = {"method": method} if method is not None or written["method"] is None else written
    if method is None and written["stages"] is not None:
        asked = {"stages": written["stages"]}
    made = recipe(**asked, **options)
    base = _base(model)
    network = load_model(base, dtype=torch.float32, trust_remote_code=bool(run["trust_remote_code"]))
    reading = reader(network, base)
    probes = open_data(data)
    chosen = settle_task(task, network, probes, reading)
    _check_recipe(made, chosen)
    answers = answers_for(base, network.config, probes) if chosen == "classification" else None
    plan = Plan(base.weights.resolve(), made, probes, chosen, seed, reading.inputs.processor, answers)
    work = Path(out) / WORK
    together = PartialState(cpu=run["device"] == "cpu" or not torch.cuda.is_available())
    if together.is_main_process:
        work = prepare(Path(out), plan.told(), resume=resume, overwrite=overwrite)
    together.wait_for_everyone()
    if not work.exists():
        record = json.loads((Path(out) / STAGES).read_text())
        return TrainResult(Path(out), made, tuple(record["training"]))
    return _Run(network, plan, Path(out), work, run["device"], tuple(run["callbacks"] or ())).go()


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


@dataclass
class _Run:
    """A training under way."""

    model: nn.Module
    plan: Plan
    out: Path
    work: Path
    device: str | None
    callbacks: Sequence[TrainerCallback]

    def go(self) -> TrainResult:
        training: list[dict[str, Any]] = []
        kinds: list[str] = []
        for place, stage in enumerate(self.plan.recipe.stages):
            kinds += stage.attach
            training.append(self._stage(place, stage, tuple(kinds), training))
        self.model.to("cpu")
        if PartialState().is_main_process:
            write_checkpoint(self.model, kinds, self.out, self.plan, training=training)
            shutil.rmtree(self.work)
        PartialState().wait_for_everyone()
        return TrainResult(self.out, self.plan.recipe, tuple(training))

    def _stage(self, place: int, stage: Stage, kinds: tuple[str, ...], before: list[dict[str, Any]]) -> dict[str, Any]:
        folder = self.work / f"stage-{place}"
        torch.manual_seed(self.plan.seed * 1000 + place)
        attach_kinds(self.model, stage.attach, self.plan.recipe)
        head = self.plan.task == "classification"
        trained = set_trainable(self.model, stage.train, self.plan.recipe, head=head)
        if (folder / TOLD).is_file():
            load_trained(trained, folder / END)
            return dict(json.loads((folder / TOLD).read_text()))
        folder.mkdir(parents=True, exist_ok=True)
        if self.plan.recipe.gradient_checkpointing:
            save_memory(self.model)
        trainer = self._trainer(place, stage, folder, trained)
        if self.plan.recipe.keep_epochs:
            trainer.add_callback(EpochEnd(partial(self._keep, place, kinds, before)))
        begun = time.monotonic()
        try:
            state = last_complete(folder)
            with quiet():
                trainer.train(resume_from_checkpoint=str(state) if state else None)
            if not all_finite(trained):
                raise NonFinite(f"weights are not finite after step {trainer.state.global_step}")
        except NonFinite as error:
            raise self._stopped(error, place, kinds, before, trainer) from error
        told = _told(stage, trainer, time.monotonic() - begun)
        if PartialState().is_main_process:
            save_trained(trained, folder / END)
            (folder / TOLD).write_text(json.dumps(told))
            for old in folder.glob("checkpoint-*"):
                shutil.rmtree(old)
        PartialState().wait_for_everyone()
        return told

    def _trainer(self, place: int, stage: Stage, folder: Path, trained: dict[str, nn.Parameter]) -> StageTrainer:
        plan, scst = self.plan, stage.objective == "scst"
        reading = Reader(self.model, self._inputs())
        reading = prompt_reader(self.model, reading) if scst else reading
        chosen = samples(plan.data, plan.task)
        dataset: Any = (
            prompts(plan.data, reading)
            if scst
            else TrainingData(chosen, Encoder(reading, plan.task, plan.recipe.max_length, plan.answers))
        )
        told = arguments(
            stage, plan.recipe, folder, seed=plan.seed * 1000 + place, samples=len(dataset), cpu=self.device == "cpu"
        )  # fmt: skip
        shared: dict[str, Any] = {
            "model": self.model,
            "args": told,
            "train_dataset": dataset,
            "callbacks": list(self.callbacks),
        }
        with quiet():
            if scst:
                return ScstTrainer(trained=trained, reader=reading, data=plan.data, options=plan.recipe.scst, **shared)
            hide = (lambda batch, drawn: hide_words(reading, batch, seed=drawn)) if fills_masks(reading) else None
            return StageTrainer(trained=trained, prepared=hide, data_collator=partial(collate, reading), **shared)

    def _inputs(self) -> Inputs:
        return inputs_of(self.model)(
            self.plan.processor, self.model.config, stacks(self.model), generates=hasattr(self.model, "generate")
        )

    def _keep(self, place: int, kinds: tuple[str, ...], before: list[dict[str, Any]], epoch: int) -> None:
        if not PartialState().is_main_process:
            return
        into = self.out / "epochs" / f"stage-{place}-epoch-{epoch}"
        shutil.rmtree(into, ignore_errors=True)
        into.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self.model, kinds, into, self.plan, training=[*before, {"stage": place, "epoch": epoch}])

    def _stopped(
        self, error: NonFinite, place: int, kinds: tuple[str, ...], before: list[dict[str, Any]], trainer: StageTrainer
    ) -> NonFinite:
        """The error to raise, after the last good state was written."""
        step = trainer.state.global_step
        if not all_finite(trainer.trained):
            state = last_complete(self.work / f"stage-{place}")
            if state is None:
                return NonFinite(f"stage {place}: {error}; there is no earlier state. Lower the learning rate")
            load_trained(trainer.trained, state / "trained.safetensors")
            step = int(state.name.rpartition("-")[2])
        into = self.out / f"last-good-step-{step}"
        write_checkpoint(self.model, kinds, into, self.plan, training=[*before, {"stage": place, "steps": step}])
        return NonFinite(
            f"stage {place}: {error}; training stopped, the state after step {step} is kept in {into}. Lower the rate"
        )


def _told(stage: Stage, trainer: StageTrainer, seconds: float) -> dict[str, Any]:
    """What happened in a stage, for the record."""
    counts = Counter[str]()
    for name, parameter in trainer.trained.items():
        counts[kind_of(name)] += parameter.numel()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = logged[-max(1, len(logged) // 10) :]
    steps = len(trainer.losses) / stage.accumulation
    return {
        "name": stage.name,
        "objective": stage.objective,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "first_loss": logged[0],
        "last_loss": sum(tail) / len(tail),
        "losses": logged,
        "trained": dict(counts),
        "seconds": seconds,
        "seconds_per_step": seconds / steps if steps else None,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """The most memory taken so far: of the accelerator where there is one, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
