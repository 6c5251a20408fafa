"""transformers' Trainer, with what a stage needs besides: only what is trained is saved, and a loss that is no number stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from rankscope.errors import NonFinite, UsageError
from rankscope.tuning.config import Recipe, Stage
from rankscope.tuning.masked import seed_of

TRAINED = "trained.safetensors"
"""In a state from which training continues: what is trained, by name."""
COMPLETE = "complete"
"""The file that is written last, so that a state that a kill cut short is not taken for one."""


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
            UsageError: if parameters are sharded (FSDP, DeepSpeed).
        """
        super().__init__(**options)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UsageError(
                "what is trained is kept whole on every process, so that FSDP and DeepSpeed, which shard it, are not for rankscope's "
                "own training: start it with torchrun (data parallel), or train with your own Trainer and SpectrumCallback"
            )
        self.trained, self.prepared, self.counted = trained, prepared, counted
        self.model_accepts_loss_kwargs = False  # T5 and BART take transformers' count of labels and leave it unused
        self._batch = (0, 0)
        self.losses: list[float] = []
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass.

        Raises:
            NonFinite: if the loss, or a gradient in full precision, is no number; before it reaches the weights.
        """
        if self.prepared is not None:
            inputs = self.prepared(inputs, self._seed_of_batch())
        loss = super().training_step(model, inputs, num_items_in_batch)
        value = float(loss.detach().float())
        self.losses.append(value)
        if value != value or value in (float("inf"), float("-inf")):
            raise NonFinite(f"the loss is {value} at step {self.state.global_step + 1}")
        if self.accelerator.scaler is None and (bad := _first_bad(self.trained, gradients=True)):
            raise NonFinite(f"the gradient of {bad} is not finite at step {self.state.global_step + 1}")
        return loss

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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:  # every process is asked to save
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_trained(self.trained, folder / TRAINED)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / COMPLETE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.trained, Path(resume_from_checkpoint) / TRAINED)


def keep_statistics(model: nn.Module) -> None:
    """Let batch normalisations (the stem of OFA) use and keep the statistics of pre-training, whatever is trained.

    They are no parameters: no adapter's folder holds them, and small batches would replace them within a few steps.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def _first_bad(trained: dict[str, nn.Parameter], *, gradients: bool) -> str | None:
    for name, parameter in trained.items():
        tensor = parameter.grad if gradients else parameter
        if tensor is not None and not torch.isfinite(tensor).all():
            return name
    return None


def all_finite(trained: dict[str, nn.Parameter]) -> bool:
    """Whether every trained number is one."""
    return _first_bad(trained, gradients=False) is None


def save_trained(trained: dict[str, nn.Parameter], file: Path) -> None:
    """Write what is trained, by name; through a file beside it, so that it is whole or absent."""
    beside = file.with_suffix(".part")
    save_file({name: p.detach().cpu().contiguous().clone() for name, p in trained.items()}, beside)
    beside.replace(file)


@torch.no_grad()
def load_trained(trained: dict[str, nn.Parameter], file: Path) -> None:
    """Read back what :func:`save_trained` wrote, into the parameters of the same names."""
    tensors = load_file(file)
    assert tensors.keys() == trained.keys(), "the saved state belongs to another recipe"
    for name, parameter in trained.items():
        parameter.copy_(tensors[name])


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


def last_complete(folder: Path) -> Path | None:
    """The newest whole state in a folder, or None."""
    found = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)
