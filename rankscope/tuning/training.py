"""train: from a base, a recipe and data to a tuned checkpoint, stage by stage; continues where it was killed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, disable_fsdp_ram_efficient_loading
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from rankscope.checkpoint import STAGES, Checkpoint
from rankscope.errors import NonFinite, RankscopeError, public
from rankscope.models.load import load_model
from rankscope.models.quiet import quiet
from rankscope.progress import Progress, silent
from rankscope.tuning.batches import collate, label_counter
from rankscope.tuning.callback import SpectrumCallback
from rankscope.tuning.config import Precision, Recipe, Schedule, Stage
from rankscope.tuning.generation import prompt_reader
from rankscope.tuning.masked import fills_masks, hide_words
from rankscope.tuning.output import EPOCHS, LAST_GOOD, WORK, check_free
from rankscope.tuning.planning import attach_stage, make_plan, reader_of, training_data, trains_on_cpu
from rankscope.tuning.recipes import recipe_of
from rankscope.tuning.record import Plan, prepare, remove_unstarted, stage_record, write_checkpoint
from rankscope.tuning.scst import ScstTrainer
from rankscope.tuning.stages import set_trainable
from rankscope.tuning.trained import (
    TRAINED,
    complete_states,
    gathered,
    load_tensors,
    put_back,
    save_tensors,
    step_of,
    storage_errors,
)
from rankscope.tuning.trainer import StageTrainer, save_memory, training_arguments
from rankscope.tuning.untrained import attach_and_try
from rankscope.tuning.watching import EpochEnd, ReportProgress

END, RECORD = "end.safetensors", "stage.json"
"""In the folder of a stage that is done: the trained parameters at its end, and its record, which is written last."""


@dataclass(frozen=True)
class TrainResult:
    """What came of a training."""

    path: Path
    """The folder of the checkpoint."""
    recipe: Recipe
    """The resolved recipe."""
    training: tuple[dict[str, Any], ...]
    """What happened, stage by stage, as in ``rankscope.json``."""

    @property
    def loss(self) -> float:
        """The loss at the end of the last stage (a mean over its last tenth)."""
        return float(self.training[-1]["last_loss"])


@public
def train(
    model: str | Path | Checkpoint,
    *,
    data: Any,
    out: str | Path,
    method: str | None = None,
    stages: str | Sequence[str] | None = None,
    task: str | None = None,
    seed: int = 0,
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress = silent,
    learning_rate: float | Sequence[float] | None = None,
    schedule: Schedule | Sequence[Schedule] | None = None,
    warmup: float | Sequence[float] | None = None,
    epochs: float | Sequence[float] | None = None,
    steps: int | Sequence[int] | None = None,
    batch_size: int | Sequence[int] | None = None,
    accumulation: int | Sequence[int] | None = None,
    weight_decay: float | Sequence[float] | None = None,
    max_grad_norm: float | Sequence[float] | None = None,
    freeze_prefix: bool | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    max_length: int | None = None,
    keep_epochs: bool | None = None,
    save_steps: int | None = None,
    prefix_length: int | None = None,
    prefix_projection: bool | None = None,
    prefix_embedding: int | None = None,
    prefix_hidden: int | None = None,
    prefix_depth: int | None = None,
    prefix_dropout: float | None = None,
    prefix_init: Literal["random", "tokens"] | None = None,
    prefix_init_std: float | None = None,
    prefix_stacks: str | Sequence[str] | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float | None = None,
    lora_targets: str | Sequence[str] | None = None,
    lora_stacks: str | Sequence[str] | None = None,
    adapter_size: int | None = None,
    adapter_function: str | None = None,
    adapter_dropout: float | None = None,
    adapter_scaling: float | None = None,
    adapter_targets: str | Sequence[str] | None = None,
    adapter_stacks: str | Sequence[str] | None = None,
    full_stacks: str | Sequence[str] | None = None,
    scst_samples: int | None = None,
    scst_temperature: float | None = None,
    scst_max_new_tokens: int | None = None,
) -> TrainResult:
    """Tune a base and write the checkpoint.

    ``rankscope.train("base/", method="pt-lora", data="captions.jsonl", out="tuned/", lora_rank=4)``. The options from
    ``learning_rate`` on are the recipe's. One that is left out, or None, is taken from ``config``, or else has the default named
    here. Each stage can have its own value of an option that takes a sequence.

    Args:
        model: the base: a folder, a name in the local Hub cache, or a checkpoint that was read.
        data: the training data, as :func:`rankscope.open_data` takes them.
        out: the folder of the checkpoint.
        method: one of :data:`~rankscope.tuning.recipes.METHODS`, or stages written out (``prefix,lora``).
        stages: stages written out, instead of a method: ``"prefix,lora,scst"`` or ``["prefix+lora", "full"]``.
        task: one of :data:`~rankscope.tuning.batches.TASKS`; by default the one that suits the model and the data.
        seed: the seed of initial weights, order and dropout, 0 by default; on a CPU one seed repeats bit for bit.
        config: a TOML file with options of the recipe, and with ``method`` or ``stages``; none by default.
        resume: whether an unfinished run with the same arguments is continued, to the same end; False by default.
        overwrite: whether an earlier checkpoint is replaced; False by default.
        device: ``"cpu"`` or ``"cuda"``; by default the GPU if there is one.
        trust_remote_code: whether Python files that come with the checkpoint may run; False by default.
        callbacks: callbacks for the Trainer, such as :class:`~rankscope.tuning.callback.SpectrumCallback`; none by default.
        progress: called with (steps done, steps in all, text) after each step; by default nothing is.
        learning_rate: peak learning rate; depends on the kind and the stage if not given.
        schedule: learning-rate schedule, by transformers' name (linear, cosine, constant, …); linear by default.
        warmup: share of the steps over which the learning rate rises from 0; 0.06 by default.
        epochs: passes over the data; 3.0 by default.
        steps: optimiser steps, instead of epochs; 0 to go by epochs; 0 by default.
        batch_size: samples per batch on each device; 16 by default.
        accumulation: batches per optimiser step; 1 by default.
        weight_decay: weight decay (AdamW's); 0.0 by default.
        max_grad_norm: norm to which gradients are clipped; 0 for no clipping; 1.0 by default.
        freeze_prefix: whether later stages keep the prefix fixed; False by default.
        precision: precision: float32, or bf16 or fp16 for mixed precision; float32 by default.
        gradient_checkpointing: whether activations are recomputed in the backward pass to save memory; refused with a
            prefix in a decoder; False by default.
        max_length: maximum tokens per text, longer ones are refused; 0 for as many as the model has positions; 0 by
            default.
        keep_epochs: whether the model at the end of each epoch is kept as a checkpoint of its own; False by default.
        save_steps: optimiser steps between saved states, from which an interrupted run continues; 0 for once per
            epoch; 0 by default.
        prefix_length: length of the prefix; 16 by default.
        prefix_projection: whether a network makes the rows (the prefix encoder); True by default.
        prefix_embedding: width of the embeddings that enter the network; 0 for heads × width of the stack; 0 by
            default.
        prefix_hidden: width of the network's hidden layers; 0 for the width of the embeddings; 0 by default.
        prefix_depth: number of the network's linear layers; 2 by default.
        prefix_dropout: dropout before the network's last layer, which keeps rows apart; 0.1 by default.
        prefix_init: how the rows are initialised: random, or tokens (the keys and values of tokens of the task);
            random by default.
        prefix_init_std: initial standard deviation of the embeddings (of the rows, without a network); 1.0 by
            default.
        prefix_stacks: stacks that get a prefix; by default those that read text.
        lora_rank: rank of each update; 8 by default.
        lora_alpha: numerator of the scale of the update, alpha / rank; 16.0 by default.
        lora_dropout: dropout before the update; 0.0 by default.
        lora_targets: endings of module paths; by default the query, key and value projections of every attention.
        lora_stacks: stacks in which targets are looked for; by default those that read text.
        adapter_size: width of the bottleneck; 16 by default.
        adapter_function: activation function between the down- and up-projection; gelu by default.
        adapter_dropout: dropout before the up-projection; 0.0 by default.
        adapter_scaling: factor on the output of the adapter; 1.0 by default.
        adapter_targets: endings of module paths; by default the last projection of every attention and feed-forward.
        adapter_stacks: stacks in which targets are looked for; by default those that read text.
        full_stacks: stacks whose weights are trained; by default all weights of the model.
        scst_samples: number of captions sampled for each image; 5 by default.
        scst_temperature: temperature at which captions are sampled; 1.0 by default.
        scst_max_new_tokens: maximum tokens per sampled caption; 48 by default.

    Raises:
        WrongCall: for an option that does not exist.
        CheckpointError: if the base is already tuned, damaged, or (when resuming) not the one begun with.
        DataError: if the data lack what the task needs, or a sample does not fit the model's positions with the prefix.
        NonFinite: if a loss or gradient is not finite; the last good state is kept in ``out`` and the message says where.
        OutputExists: if there is something at ``out``.
        StorageError: if the disk is full or failing; ``resume`` continues from the last state that was kept whole.
        UnknownName: if there is no such method, task, stack or target, or no such option in ``config``.
        UsageError: if a kind of tuning does not fit the model, an option has no meaning, or the device does not exist.
    """
    recipe, folder = recipe_of(locals()), Path(out)
    cpu = trains_on_cpu(device, recipe)
    processes = PartialState(cpu=cpu)
    if processes.is_main_process:  # before a large model is loaded
        check_free(folder, resume=resume, overwrite=overwrite)
    if processes.num_processes > 1:
        disable_fsdp_ram_efficient_loading()  # every process checks what it loads
    network, plan = make_plan(model, recipe, data, task=task, seed=seed, trust_remote_code=trust_remote_code)
    if processes.is_main_process:
        with storage_errors(folder):
            prepare(folder, plan.to_record(), resume=resume, overwrite=overwrite)
    processes.wait_for_everyone()
    if not (folder / WORK).exists():  # the run is finished
        record = json.loads((folder / STAGES).read_text())
        return TrainResult(folder, recipe, tuple(record["training"]))
    load_base = partial(load_model, plan.base, dtype=torch.float32, trust_remote_code=trust_remote_code)
    watching = [*callbacks, ReportProgress(progress, recipe)]
    try:
        with storage_errors(folder):
            return Training(network, load_base, plan, folder, cpu, watching).run()
    except RankscopeError:
        if processes.is_main_process:
            remove_unstarted(folder)
        raise


@dataclass
class Training:
    """A training under way."""

    model: nn.Module
    load_base: Callable[[], nn.Module]
    """Loads the base anew."""
    plan: Plan
    out: Path
    """The folder of the checkpoint."""
    cpu: bool
    """Whether the CPU trains."""
    callbacks: Sequence[TrainerCallback]
    records: list[dict[str, Any]] = field(default_factory=list)
    """What happened in each stage that is done."""

    @property
    def work(self) -> Path:
        """The folder of the states from which a killed run continues."""
        return self.out / WORK

    def run(self) -> TrainResult:
        """Run every stage that is not done yet, and write the checkpoint."""
        for place, stage in enumerate(self.plan.recipe.stages):
            self.records.append(self._run_stage(place, stage))
        self.model.to("cpu")
        self._write(self.out, place, lambda: self.model)
        if PartialState().is_main_process:
            shutil.rmtree(self.work)
        PartialState().wait_for_everyone()
        return TrainResult(self.out, self.plan.recipe, tuple(self.records))

    def _run_stage(self, place: int, stage: Stage) -> dict[str, Any]:
        folder = self._folder(place)
        if (folder / RECORD).is_file():  # the stage was done before a kill
            load_tensors(self._begin(self.model, place), folder / END)
            return dict(json.loads((folder / RECORD).read_text()))
        untrained = attach_and_try(self.model, self.plan, place)
        trainer = self._trainer(place, stage, self._set_trainable(self.model, place))
        begun = time.monotonic()
        try:
            state = next(iter(complete_states(folder)), None)
            with quiet():
                trainer.train(resume_from_checkpoint=str(state) if state else None)
            if not trainer.all_finite():
                raise NonFinite(f"weights are not finite after step {trainer.state.global_step}")
        except NonFinite as error:
            raise self._stopped(error, place, trainer) from error
        record, tensors = stage_record(stage, trainer, time.monotonic() - begun), gathered(trainer.trained)
        record |= {"untrained_prefix": untrained.to_record()} if untrained else {}
        if PartialState().is_main_process:
            save_tensors(tensors, folder / END)
            (folder / f"{RECORD}.part").write_text(json.dumps(record))
            (folder / f"{RECORD}.part").replace(folder / RECORD)
            for old in folder.glob("checkpoint-*"):
                shutil.rmtree(old)
        PartialState().wait_for_everyone()
        if trainer.sharded:
            self.model = self._rebuilt(place, tensors)
        return record

    def _folder(self, place: int) -> Path:
        return self.work / f"stage-{place}"

    def _set_trainable(self, model: nn.Module, place: int) -> dict[str, nn.Parameter]:
        stage = self.plan.recipe.stages[place]
        return set_trainable(model, stage.train, self.plan.recipe, head=self.plan.task == "classification")

    def _begin(self, model: nn.Module, place: int) -> dict[str, nn.Parameter]:
        """Attach what a stage attaches, and return what it trains by name."""
        attach_stage(model, self.plan, place)
        return self._set_trainable(model, place)

    def _rebuilt(self, place: int, tensors: dict[str, Tensor]) -> nn.Module:
        """The model in or after a stage in one piece, from its base and what was trained in each stage."""
        with torch.random.fork_rng(devices=()):
            model = self.load_base()
            for i in range(place + 1):
                put_back(self._begin(model, i), tensors if i == place else load_file(self._folder(i) / END))
        return model

    def _trainer(self, place: int, stage: Stage, trained: dict[str, nn.Parameter]) -> StageTrainer:
        plan, recipe, scst = self.plan, self.plan.recipe, stage.objective == "scst"
        folder = self._folder(place)
        folder.mkdir(parents=True, exist_ok=True)
        if recipe.gradient_checkpointing:
            save_memory(self.model)
        reader = reader_of(self.model, plan)
        dataset: Any = plan.data if scst else training_data(reader, plan)
        seed, samples = plan.seed_of_stage(place), len(dataset)
        arguments = training_arguments(stage, recipe, folder, seed=seed, samples=samples, cpu=self.cpu)
        shared: dict[str, Any] = {"model": self.model, "args": arguments, "callbacks": list(self.callbacks)}
        with quiet():
            if scst:
                prompts = prompt_reader(self.model, reader)
                options = recipe.options["scst"]
                trainer: StageTrainer = ScstTrainer(
                    trained=trained, reader=prompts, data=plan.data, options=options, **shared
                )
            else:
                hide = partial(hide_words, reader) if fills_masks(reader) else None
                trainer = StageTrainer(
                    trained=trained,
                    prepare_batch=hide,
                    count_labels=label_counter(reader, plan.task),
                    train_dataset=dataset,
                    data_collator=partial(collate, reader),
                    **shared,
                )
        for callback in self.callbacks:
            if isinstance(callback, SpectrumCallback):
                callback.before = sum(record["steps"] for record in self.records)
                callback.log_of_stage = trainer.log
        if recipe.keep_epochs:
            trainer.add_callback(EpochEnd(partial(self._keep_epoch, place, trainer)))
        return trainer

    def _keep_epoch(self, place: int, trainer: StageTrainer, epoch: int) -> None:
        into = self.out / EPOCHS / f"stage-{place}-epoch-{epoch}"
        # One process decides: another may look when the first has written it already, and would not wait with it
        [missing] = broadcast_object_list([not (into / STAGES).is_file()])
        if missing:
            self._write_now(into, place, trainer, {"stage": place, "epoch": epoch})

    def _write_now(self, into: Path, place: int, trainer: StageTrainer, record: dict[str, Any]) -> None:
        """Write the model as it is now, in the middle of a stage; every process takes part."""
        tensors = gathered(trainer.trained) if trainer.sharded else {}
        self._write(into, place, lambda: self._rebuilt(place, tensors) if trainer.sharded else self.model, record)

    def _write(self, into: Path, place: int, model: Callable[[], nn.Module], *more: dict[str, Any]) -> None:
        """Write a checkpoint of the model in or after a stage; one process writes and the others wait."""
        if PartialState().is_main_process:
            kinds = [kind for stage in self.plan.recipe.stages[: place + 1] for kind in stage.attach]
            write_checkpoint(model(), kinds, into, self.plan, work=self.work, training=[*self.records, *more])
        PartialState().wait_for_everyone()

    def _stopped(self, error: NonFinite, place: int, trainer: StageTrainer) -> NonFinite:
        """The error to raise, after the last good state was written: one whose own loss is finite."""
        step, states = trainer.state.global_step, complete_states(self._folder(place))
        while not (good := trainer.gives_finite_loss()) and states:
            step = step_of(states[0])
            load_tensors(trainer.trained, states.pop(0) / TRAINED)
        if good:
            into, which = self.out / LAST_GOOD.format("step", step), f"the state after step {step}"
            self._write_now(into, place, trainer, {"stage": place, "steps": step})
        elif place:
            into, which = self.out / LAST_GOOD.format("stage", place - 1), f"the end of stage {place - 1}"
            end = self._folder(place - 1) / END
            self._write(into, place - 1, lambda: self._rebuilt(place - 1, load_file(end)))
        else:
            return NonFinite(f"stage {place}: {error}; no good state was kept before. Lower the learning rate")
        return NonFinite(
            f"stage {place}: {error}; training stopped, {which} is kept in {into}. Start again with a lower rate, in another "
            "folder or overwriting this one"
        )
