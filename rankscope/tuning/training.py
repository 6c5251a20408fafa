"""train: from a base, a recipe and data to a tuned checkpoint, stage by stage; continues where it was killed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import disable_fsdp_ram_efficient_loading
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from rankscope.checkpoint import STAGES, Checkpoint
from rankscope.errors import NonFinite, RankscopeError
from rankscope.models.load import load_model
from rankscope.models.quiet import quiet
from rankscope.tuning.batches import collate, counter
from rankscope.tuning.callback import SpectrumCallback
from rankscope.tuning.config import Recipe, Stage
from rankscope.tuning.generation import prompt_reader
from rankscope.tuning.masked import fills_masks, hide_words
from rankscope.tuning.planning import attach_stage, check_plan, on_cpu, planned, reading_of, recipe_of, training_data
from rankscope.tuning.record import WORK, Plan, check_free, forget, prepare, stage_record, write_checkpoint
from rankscope.tuning.scst import ScstTrainer, prompts
from rankscope.tuning.stages import set_trainable
from rankscope.tuning.trained import TRAINED, complete, gathered, load_tensors, on_disk, put_back, save_tensors, step_of
from rankscope.tuning.trainer import StageTrainer, arguments, save_memory
from rankscope.tuning.untrained import watched
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
        StorageError: if the disk is full or failing; the last state that was kept whole is continued with ``resume``.
        UnknownName: if there is no such method, option, task, stack or target.
        UsageError: if the method does not fit the model, or the device is not there.
    """
    run = {name: options.pop(name, None) for name in ("device", "callbacks", "progress", "trust_remote_code")}
    made = recipe_of(method, options)
    cpu = on_cpu(run["device"], made)
    together = PartialState(cpu=cpu)
    if together.is_main_process:  # before a large model is loaded
        check_free(Path(out), resume=resume, overwrite=overwrite)
    if together.num_processes > 1:
        disable_fsdp_ram_efficient_loading()  # every process checks what it loads
    trust = bool(run["trust_remote_code"])
    network, plan = planned(model, made, data, task=task, seed=seed, trust_remote_code=trust)
    check_plan(network, plan)
    work = Path(out) / WORK
    if together.is_main_process:
        with on_disk(Path(out)):
            work = prepare(Path(out), plan.told(), resume=resume, overwrite=overwrite)
    together.wait_for_everyone()
    if not work.exists():
        record = json.loads((Path(out) / STAGES).read_text())
        return TrainResult(Path(out), made, tuple(record["training"]))
    watching = [*(run["callbacks"] or ()), *([Progress(run["progress"], made)] if run["progress"] else ())]
    try:
        fresh = partial(load_model, plan.base, dtype=torch.float32, trust_remote_code=trust)
        with on_disk(Path(out)):
            return _Run(network, fresh, plan, Path(out), work, cpu, watching).go()
    except RankscopeError:
        if together.is_main_process:
            forget(Path(out))
        raise


@dataclass
class _Run:
    """A training under way."""

    model: nn.Module
    fresh: Callable[[], nn.Module]
    """Loads the base anew."""
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
            write_checkpoint(self.model, kinds, self.out, self.plan, work=self.work, training=training)
            shutil.rmtree(self.work)
        PartialState().wait_for_everyone()
        return TrainResult(self.out, self.plan.recipe, tuple(training))

    def _stage(self, place: int, stage: Stage, kinds: tuple[str, ...], before: list[dict[str, Any]]) -> dict[str, Any]:
        folder = self.work / f"stage-{place}"
        if (folder / TOLD).is_file():
            trained = self._begin(self.model, place)
            load_tensors(trained, folder / END)
            return dict(json.loads((folder / TOLD).read_text()))
        with watched(self.model, self.plan, stage.attach) as found:
            trained = self._begin(self.model, place)
        folder.mkdir(parents=True, exist_ok=True)
        if self.plan.recipe.gradient_checkpointing:
            save_memory(self.model)
        trainer = self._trainer(place, stage, folder, trained)
        if self.plan.recipe.keep_epochs:
            trainer.add_callback(EpochEnd(partial(self._keep, place, kinds, before, trainer)))
        for callback in self.callbacks:
            if isinstance(callback, SpectrumCallback):
                callback.before = sum(told["steps"] for told in before)
        begun = time.monotonic()
        try:
            state = next(iter(complete(folder)), None)
            with quiet():
                trainer.train(resume_from_checkpoint=str(state) if state else None)
            if not trainer.all_finite():
                raise NonFinite(f"weights are not finite after step {trainer.state.global_step}")
        except NonFinite as error:
            raise self._stopped(error, place, kinds, before, trainer) from error
        told, tensors = stage_record(stage, trainer, time.monotonic() - begun), gathered(trainer.trained)
        told |= {"untrained_prefix": found[0].to_record()} if found else {}
        if PartialState().is_main_process:
            save_tensors(tensors, folder / END)
            (folder / f"{TOLD}.part").write_text(json.dumps(told))
            (folder / f"{TOLD}.part").replace(folder / TOLD)
            for old in folder.glob("checkpoint-*"):
                shutil.rmtree(old)
        PartialState().wait_for_everyone()
        if trainer.sharded:
            self.model = self._rebuilt(place, tensors)
        return told

    def _begin(self, model: nn.Module, place: int) -> dict[str, nn.Parameter]:
        """Attach what a stage attaches; what it trains, by name."""
        attach_stage(model, self.plan, place)
        stage = self.plan.recipe.stages[place]
        return set_trainable(model, stage.train, self.plan.recipe, head=self.plan.task == "classification")

    def _rebuilt(self, place: int, tensors: dict[str, Tensor]) -> nn.Module:
        """The model in or after a stage in one piece, from its base and what was trained in each stage."""
        with torch.random.fork_rng(devices=()):
            model = self.fresh()
            for i in range(place + 1):
                trained = self._begin(model, i)
                put_back(trained, tensors if i == place else load_file(self.work / f"stage-{i}" / END))
        return model

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

    def _keep(
        self, place: int, kinds: Sequence[str], before: list[dict[str, Any]], trainer: StageTrainer, epoch: int
    ) -> None:
        into = self.out / "epochs" / f"stage-{place}-epoch-{epoch}"
        if not (into / STAGES).is_file():
            self._write(into, place, kinds, trainer, [*before, {"stage": place, "epoch": epoch}])

    def _write(
        self, into: Path, place: int, kinds: Sequence[str], trainer: StageTrainer, training: list[dict[str, Any]]
    ) -> None:
        """Write the model as it is now; every process takes part, and one writes."""
        tensors = gathered(trainer.trained) if trainer.sharded else {}
        if PartialState().is_main_process:
            model = self._rebuilt(place, tensors) if trainer.sharded else self.model
            write_checkpoint(model, kinds, into, self.plan, work=self.work, training=training)
        PartialState().wait_for_everyone()

    def _stopped(
        self, error: NonFinite, place: int, kinds: tuple[str, ...], before: list[dict[str, Any]], trainer: StageTrainer
    ) -> NonFinite:
        """The error to raise, after the last good state was written: one whose own loss is a number."""
        step, states = trainer.state.global_step, complete(self.work / f"stage-{place}")
        while not (good := trainer.sound()) and states:
            step = step_of(states[0])
            load_tensors(trainer.trained, states.pop(0) / TRAINED)
        if good:
            into, which = self.out / f"last-good-step-{step}", f"the state after step {step}"
            self._write(into, place, kinds, trainer, [*before, {"stage": place, "steps": step}])
        elif place:
            into, which = self.out / f"last-good-stage-{place - 1}", f"the end of stage {place - 1}"
            self._write_end(into, place - 1, before)
        else:
            return NonFinite(f"stage {place}: {error}; no good state was kept before. Lower the learning rate")
        return NonFinite(
            f"stage {place}: {error}; training stopped, {which} is kept in {into}. Begin anew with a lower rate, in another "
            "folder or overwriting this one"
        )

    def _write_end(self, into: Path, place: int, training: Sequence[dict[str, Any]]) -> None:
        """Write the model as an earlier stage ended it."""
        if PartialState().is_main_process:
            model = self._rebuilt(place, load_file(self.work / f"stage-{place}" / END))
            kinds = [kind for stage in self.plan.recipe.stages[: place + 1] for kind in stage.attach]
            write_checkpoint(model, kinds, into, self.plan, work=self.work, training=training)
        PartialState().wait_for_everyone()
