"""transformers' Trainer for a stage: it saves what is trained and nothing else, and stops at a loss that is not finite.

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
from rankscope.tuning.trained import COMPLETE, TRAINED, first_nonfinite, gathered, load_tensors, save_tensors


class StageTrainer(Trainer):
    """Runs one stage."""

    def __init__(
        self,
        *,
        trained: dict[str, nn.Parameter],
        prepare_batch: Callable[[dict[str, Any], int], dict[str, Any]] | None = None,
        count_labels: Callable[[Tensor], int] | None = None,
        **options: Any,
    ) -> None:
        """A Trainer of some parameters.

        Args:
            trained: the trained parameters by name.
            prepare_batch: changes a batch before a step, given the batch and a seed that no other batch has.
            count_labels: counts those of a batch's labels that its loss is a mean over. With it, batches that are accumulated or
                spread over processes train as one batch; without it they all have the same weight.
            options: the Trainer's own.

        Raises:
            UsageError: if parameters are sharded by DeepSpeed, or by FSDP in a way that does not keep their names.
        """
        super().__init__(**options)
        if self.is_deepspeed_enabled:
            raise UsageError(
                "DeepSpeed takes parameters away from their names, by which rankscope saves what is trained; shard with FSDP2 "
                "(accelerate launch --use_fsdp --fsdp_version 2), or start data parallel with torchrun"
            )
        if self.sharded:
            check_sharding(self.model, self.accelerator.state.fsdp_plugin)
        self.prepare_batch, self.count_labels = prepare_batch, count_labels
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
        """The trained parameters by name, as the model holds them now: FSDP puts others under the same names."""
        return {name: p for name, p in self.model.named_parameters() if name in self._names}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass.

        Raises:
            NonFinite: if the loss, or a gradient in full precision, is not finite in any process; before it reaches the weights.
        """
        if self.prepare_batch is not None:
            inputs = self.prepare_batch(inputs, self._seed_of_batch())
        loss = super().training_step(model, inputs, num_items_in_batch)
        value = float(loss.detach().float())
        self.losses.append(value)
        fault = None if math.isfinite(value) else f"the loss is {value}"
        # A scaler (fp16) finds gradients that overflow by itself, skips the step and lowers its scale.
        scaled = self.accelerator.scaler is not None
        if fault is None and not scaled and (name := first_nonfinite(self.trained, gradients=True)):
            fault = f"the gradient of {name} is not finite"
        if self._anywhere(fault is not None):
            fault = fault or "the loss or a gradient of another process is not finite"
            raise NonFinite(f"{fault} at step {self.state.global_step + 1}")
        return loss

    def _anywhere(self, here: bool) -> bool:
        """Whether something holds in any process, so that all stop together: one that went on would wait for ever."""
        if self.accelerator.num_processes == 1:
            return here
        return bool(self.accelerator.reduce(torch.tensor(float(here), device=self.args.device), "sum"))

    def all_finite(self) -> bool:
        """Whether every trained parameter is finite; every process takes part."""
        return not self._anywhere(first_nonfinite(self.trained, gradients=False) is not None)

    @torch.no_grad()
    def gives_finite_loss(self) -> bool:
        """Whether the model as it is now has a finite loss on its first samples; every process takes part."""
        if not self.all_finite():
            return False
        count = min(self.args.per_device_train_batch_size, len(self.train_dataset))
        batch = self._prepare_inputs(self.data_collator([self.train_dataset[i] for i in range(count)]))
        batch = batch if self.prepare_batch is None else self.prepare_batch(batch, 0)
        return not self._anywhere(not bool(torch.isfinite(self.compute_loss(self.model, batch))))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The batches of an optimiser step, and the number of their labels in all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.count_labels is None or not batches:
            return batches, None
        own = torch.tensor(sum(self.count_labels(batch["labels"]) for batch in batches), device=device)
        return batches, self.accelerator.reduce(own, "sum")

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's mean loss, weighted so that the sum over a step's batches is the mean over all its labels."""
        keep_statistics(model)
        loss = model(**inputs).loss
        if num_items_in_batch is None or self.count_labels is None:
            return loss
        # A batch of n labels out of N in the step has the weight n / N. The Trainer divides by the number of accumulated
        # batches, and data parallelism by that of processes, so both are multiplied in.
        parts = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        return loss * (self.count_labels(inputs["labels"]) * parts / num_items_in_batch.item())

    def _seed_of_batch(self) -> int:
        """A seed that depends on the run's seed, the process, the step and the batch's place in it: the same after a resume."""
        step, place = self._batch
        self._batch = (step, place + 1) if step == self.state.global_step else (self.state.global_step, 0)
        return seed_of(self.args.seed, self.args.process_index, *self._batch)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the trained parameters, whole, by name; every process takes part, and one writes."""
        tensors = gathered(self.trained)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(tensors, folder / TRAINED)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # The Trainer would also write the frozen weights, each time.
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
    """Keep batch normalisations (the stem of OFA) in evaluation mode, with the statistics of pre-training.

    Those are not parameters: no adapter's folder holds them, and small batches would replace them within a few steps.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def steps_of(stage: Stage, samples: int) -> int:
    """The optimiser steps of a stage on one process, as the Trainer counts them."""
    batches = math.ceil(samples / stage.batch_size)
    return stage.steps or math.ceil(stage.epochs * math.ceil(batches / stage.accumulation))


def training_arguments(
    stage: Stage, recipe: Recipe, folder: Path, *, seed: int, samples: int, cpu: bool
) -> TrainingArguments:
    """The Trainer's arguments for a stage.

    Args:
        stage: the stage.
        recipe: the recipe that it belongs to.
        folder: where the states are kept from which a killed run continues.
        seed: the seed of order and dropout.
        samples: the number of samples, from which the steps are counted.
        cpu: whether the CPU trains although there is a GPU.
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
    """Have a model compute activations again in the backward pass instead of keeping them (gradient checkpointing)."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next(getattr(model, name) for name in names if hasattr(model, name))
    enable({"use_reentrant": False})
