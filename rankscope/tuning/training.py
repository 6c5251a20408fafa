"""train: from a base, a recipe and data to a tuned checkpoint, stage by stage; continues where it was killed."""

from __future__ import annotations

import json
import shutil
import time
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
from rankscope.errors import NonFinite, RankscopeError
from rankscope.models.load import quiet
from rankscope.tuning.batches import collate, counter
from rankscope.tuning.callback import SpectrumCallback
from rankscope.tuning.config import Recipe, Stage
from rankscope.tuning.generation import prompt_reader
from rankscope.tuning.masked import fills_masks, hide_words
from rankscope.tuning.planning import check_plan, on_cpu, planned, reading_of, recipe_of, training_data
from rankscope.tuning.record import WORK, Plan, check_free, forget, prepare, stage_record, write_checkpoint
from rankscope.tuning.scst import ScstTrainer, prompts
from rankscope.tuning.stages import attach_kinds, set_trainable
from rankscope.tuning.trainer import (
    StageTrainer,
    all_finite,
    arguments,
    last_complete,
    load_trained,
    save_memory,
    save_trained,
)
from rankscope.tuning.watching import EpochEnd, Progress

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
            the Trainer; ``progress``, called with (steps done, steps in all, text); ``trust_remote_code``.

    Raises:
        CheckpointError: if the base is tuned already, damaged, or (when resuming) another than the one begun with.
        DataError: if the data lacks what the task needs, or a sample does not fit the model's positions with the prefix.
        NonFinite: if a loss or gradient is no number; the last good state is kept in ``out`` and the message says where.
        OutputExists: if there is something at ``out``.
        UnknownName: if there is no such method, option, task, stack or target.
        UsageError: if the method does not fit the model, or the device is not there.
    """
    run = {name: options.pop(name, None) for name in ("device", "callbacks", "progress", "trust_remote_code")}
    made = recipe_of(method, options)
    cpu = on_cpu(run["device"], made)
    together = PartialState(cpu=cpu)
    if together.is_main_process:  # before a large model is loaded
        check_free(Path(out), resume=resume, overwrite=overwrite)
    network, plan = planned(model, made, data, task=task, seed=seed, trust_remote_code=bool(run["trust_remote_code"]))
    check_plan(network, plan)
    work = Path(out) / WORK
    if together.is_main_process:
        work = prepare(Path(out), plan.told(), resume=resume, overwrite=overwrite)
    together.wait_for_everyone()
    if not work.exists():
        record = json.loads((Path(out) / STAGES).read_text())
        return TrainResult(Path(out), made, tuple(record["training"]))
    watching = [*(run["callbacks"] or ()), *([Progress(run["progress"], made)] if run["progress"] else ())]
    try:
        return _Run(network, plan, Path(out), work, cpu, watching).go()
    except RankscopeError:
        if together.is_main_process:
            forget(Path(out))
        raise


@dataclass
class _Run:
    """A training under way."""

    model: nn.Module
    plan: Plan
    out: Path
    work: Path
    cpu: bool
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
        torch.manual_seed(self.plan.seed_of_stage(place))
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
        for callback in self.callbacks:
            if isinstance(callback, SpectrumCallback):
                callback.before = sum(told["steps"] for told in before)
        begun = time.monotonic()
        try:
            state = last_complete(folder)
            with quiet():
                trainer.train(resume_from_checkpoint=str(state) if state else None)
            if not all_finite(trained):
                raise NonFinite(f"weights are not finite after step {trainer.state.global_step}")
        except NonFinite as error:
            raise self._stopped(error, place, kinds, before, trainer) from error
        told = stage_record(stage, trainer, time.monotonic() - begun)
        if PartialState().is_main_process:
            save_trained(trained, folder / END)
            (folder / TOLD).write_text(json.dumps(told))
            for old in folder.glob("checkpoint-*"):
                shutil.rmtree(old)
        PartialState().wait_for_everyone()
        return told

    def _trainer(self, place: int, stage: Stage, folder: Path, trained: dict[str, nn.Parameter]) -> StageTrainer:
        plan, scst = self.plan, stage.objective == "scst"
        reading = reading_of(self.model, plan)
        reading = prompt_reader(self.model, reading) if scst else reading
        dataset: Any = prompts(plan.data, reading) if scst else training_data(reading, plan)
        told = arguments(
            stage, plan.recipe, folder, seed=plan.seed_of_stage(place), samples=len(dataset), cpu=self.cpu
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
            return StageTrainer(
                trained=trained,
                prepared=hide,
                counted=counter(reading, plan.task),
                data_collator=partial(collate, reading),
                **shared,
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
        if PartialState().is_main_process:
            write_checkpoint(self.model, kinds, into, self.plan, training=[*before, {"stage": place, "steps": step}])
        PartialState().wait_for_everyone()
        return NonFinite(
            f"stage {place}: {error}; training stopped, the state after step {step} is kept in {into}. Lower the rate"
        )
