"""transformers' Trainer, with what a stage needs besides: only what is trained is saved, and a loss that is no number stops.

Parameters may be sharded over processes by FSDP2, which accelerate sets up from its own configuration or environment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME

from rankscope.errors import NonFinite, UsageError
from rankscope.tuning.config import Recipe, Stage
from rankscope.tuning.masked import seed_of
from rankscope.tuning.sharding import check_sharding
from rankscope.tuning.trained import COMPLETE, TRAINED, first_bad, gathered, load_tensors, save_tensors


class StageTrainer(Trainer):
    """Runs one stage."""

    def __init__(
        self,
        *,
        trained: dict[str, nn.Parameter],
        prepared: Callable[[dict[str, Any], int], dict[str, Any]] | None = None,
        counted: Callable[[Tensor], int] | None = None,
        **options: Any,
    ) -> None:
        """A Trainer of what is trained.

        Args:
            trained: it, by name.
            prepared: what is done to a batch before a step, given it and a seed that no other batch has.
            counted: how many of a batch's labels its loss is a mean over; batches that are accumulated, or stand in several
                processes, count as one by it. They count equally unless given.
            options: the Trainer's.

        Raises:
            UsageError: if parameters are sharded by DeepSpeed, or by FSDP in a way that does not keep their names.
        """
        super().__init__(**options)
        if self.is_deepspeed_enabled:
            raise UsageError(
                "DeepSpeed takes parameters away from their names, by which rankscope keeps what is trained; shard with FSDP2 "
                "(accelerate launch --use_fsdp --fsdp_version 2), or start data parallel with torchrun"
            )
        if self.sharded:
            check_sharding(self.model, self.accelerator.state.fsdp_plugin)
        self.prepared, self.counted = prepared, counted
        self._names = frozenset(trained)
        self.model_accepts_loss_kwargs = False  # T5 and BART take transformers' count of labels and leave it unused
        self._batch = (0, 0)
        self.losses: list[float] = []
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    @property
    def sharded(self) -> bool:
        """Whether each process holds a shard of every parameter (FSDP)."""
        return bool(self.is_fsdp_enabled)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name, as the model holds it now: FSDP puts other parameters under the same names."""
        return {name: p for name, p in self.model.named_parameters() if name in self._names}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass.

        Raises:
            NonFinite: if the loss, or a gradient in full precision, is no number in any process; before it reaches the
                weights.
        """
        if self.prepared is not None:
            inputs = self.prepared(inputs, self._seed_of_batch())
        loss = super().training_step(model, inputs, num_items_in_batch)
        value = float(loss.detach().float())
        self.losses.append(value)
        fault = None if math.isfinite(value) else f"the loss is {value}"
        if fault is None and self.accelerator.scaler is None and (bad := first_bad(self.trained, gradients=True)):
            fault = f"the gradient of {bad} is not finite"
        if self._anywhere(fault is not None):
            fault = fault or "the loss or a gradient of another process is not finite"
            raise NonFinite(f"{fault} at step {self.state.global_step + 1}")
        return loss

    def _anywhere(self, here: bool) -> bool:
        """Whether something is so in any process: one that went on alone would wait for the others for ever."""
        if self.accelerator.num_processes == 1:
            return here
        return bool(self.accelerator.reduce(torch.tensor(float(here), device=self.args.device), "sum"))

    def all_finite(self) -> bool:
        """Whether every trained number is one; every process takes part."""
        return not self._anywhere(first_bad(self.trained, gradients=False) is not None)

    @torch.no_grad()
    def sound(self) -> bool:
        """Whether the model as it is now gives its first samples a loss that is a number; every process takes part."""
        if not self.all_finite():
            return False
        count = min(self.args.per_device_train_batch_size, len(self.train_dataset))
        batch = self._prepare_inputs(self.data_collator([self.train_dataset[i] for i in range(count)]))
        batch = batch if self.prepared is None else self.prepared(batch, 0)
        return not self._anywhere(not bool(torch.isfinite(self.compute_loss(self.model, batch))))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of an optimiser step, and how many labels they have in all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.counted is None or not batches:
            return batches, None
        own = torch.tensor(sum(self.counted(batch["labels"]) for batch in batches), device=device)
        return batches, self.accelerator.reduce(own, "sum")

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's mean loss, weighed so that a step's sum is the mean over all its labels."""
        keep_statistics(model)
        loss = model(**inputs).loss
        if num_items_in_batch is None or self.counted is None:
            return loss
        parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        return loss * (self.counted(inputs["labels"]) * parts / num_items_in_batch.item())

    def _seed_of_batch(self) -> int:
        """A function of the seed, the process, the step and the place of the batch in it: the same after a resume."""
        step, place = self._batch
        self._batch = (step, place + 1) if step == self.state.global_step else (self.state.global_step, 0)
        return seed_of(self.args.seed, self.args.process_index, *self._batch)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What is trained, whole, by name; every process takes part, and one writes."""
        tensors = gathered(self.trained)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(tensors, folder / TRAINED)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # The Trainer's own way would write the frozen weights too, each time.
        save_fsdp_optimizer(
            self.accelerator.state.fsdp_plugin, self.accelerator, self.optimizer, self.model, output_dir
        )
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each has written its random state
        if self.args.should_save:
            (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_tensors(self.trained, Path(resume_from_checkpoint) / TRAINED)


def keep_statistics(model: nn.Module) -> None:
    """Let batch normalisations (the stem of OFA) use and keep the statistics of pre-training, whatever is trained.

    They are no parameters: no adapter's folder holds them, and small batches would replace them within a few steps.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def steps_of(stage: Stage, samples: int) -> int:
    """The optimiser steps of a stage on one process, as the Trainer counts them."""
    batches = math.ceil(samples / stage.batch_size)
    return stage.steps or math.ceil(stage.epochs * math.ceil(batches / stage.accumulation))


def arguments(stage: Stage, recipe: Recipe, folder: Path, *, seed: int, samples: int, cpu: bool) -> TrainingArguments:
    """The Trainer's arguments for a stage.

    Args:
        stage: the stage.
        recipe: the recipe that it belongs to.
        folder: where states are kept from which a killed run continues.
        seed: the seed of order and dropout.
        samples: how many there are, which tells the number of steps.
        cpu: whether an accelerator is left alone.
    """
    total = steps_of(stage, samples)
    saving: dict[str, Any] = (
        {"save_strategy": "steps", "save_steps": recipe.save_steps} if recipe.save_steps else {"save_strategy": "epoch"}
    )
    return TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.accumulation, learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule, warmup_steps=round(stage.warmup * total), num_train_epochs=stage.epochs,
        max_steps=stage.steps or -1, weight_decay=stage.weight_decay, max_grad_norm=stage.max_grad_norm,
        seed=seed, data_seed=seed, bf16=recipe.precision == "bf16", fp16=recipe.precision == "fp16",
        save_total_limit=2, report_to=[], disable_tqdm=True,
        remove_unused_columns=False, label_names=["labels"], logging_strategy="steps", logging_steps=max(1, total // 200),
        use_cpu=cpu, dataloader_pin_memory=False, **saving,
    )  # fmt: skip


def save_memory(model: nn.Module) -> None:
    """Compute activations again in the backward pass instead of keeping them (gradient checkpointing)."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next(getattr(model, name) for name in names if hasattr(model, name))
    enable({"use_reentrant": False})
