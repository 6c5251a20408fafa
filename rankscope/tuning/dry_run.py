"""What a training would do, stage by stage, without training: steps, trained numbers, and the untrained prefix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from rankscope.checkpoint import Checkpoint
from rankscope.errors import public
from rankscope.tuning.batches import training_pairs
from rankscope.tuning.config import Precision, Schedule
from rankscope.tuning.planning import make_plan, trains_on_cpu
from rankscope.tuning.recipes import recipe_of
from rankscope.tuning.stages import numbers_by_kind, set_trainable
from rankscope.tuning.trainer import steps_of
from rankscope.tuning.untrained import attach_and_try


@public
def preview(
    model: str | Path | Checkpoint,
    *,
    data: Any,
    method: str | None = None,
    stages: str | Sequence[str] | None = None,
    task: str | None = None,
    seed: int = 0,
    config: str | Path | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
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
) -> list[dict[str, Any]]:
    """What :func:`~rankscope.tuning.training.train` would do with the same arguments, stage by stage; nothing is written.

    Args:
        model: the base: a folder, a name in the local Hub cache, or a checkpoint that was read.
        data: the training data, as :func:`rankscope.open_data` takes them.
        method: one of :data:`~rankscope.tuning.recipes.METHODS`, or stages written out (``prefix,lora``).
        stages: stages written out, instead of a method: ``"prefix,lora,scst"`` or ``["prefix+lora", "full"]``.
        task: one of :data:`~rankscope.tuning.batches.TASKS`; by default the one that suits the model and the data.
        seed: the seed of initial weights, order and dropout; 0 by default.
        config: a TOML file with options of the recipe, and with ``method`` or ``stages``; none by default.
        device: ``"cpu"`` or ``"cuda"``; by default the GPU if there is one.
        trust_remote_code: whether Python files that come with the checkpoint may run; False by default.
        learning_rate: highest learning rate; it depends on the kind and the stage if none is given.
        schedule: course of the learning rate, by transformers' name (linear, cosine, constant, …); linear by default.
        warmup: share of the steps over which the rate rises from 0; 0.06 by default.
        epochs: passes over the data; 3.0 by default.
        steps: optimiser steps, instead of epochs; 0 to count epochs; 0 by default.
        batch_size: samples in a batch on each device; 16 by default.
        accumulation: batches in an optimiser step; 1 by default.
        weight_decay: weight decay (AdamW's); 0.0 by default.
        max_grad_norm: norm to which longer gradients are shortened; 0 to leave them; 1.0 by default.
        freeze_prefix: whether later stages leave the prefix as the first one ended it; False by default.
        precision: precision: float32, or bf16 or fp16 for mixed precision; float32 by default.
        gradient_checkpointing: whether activations are computed again in the backward pass, which saves memory; refused
            with a prefix in a decoder; False by default.
        max_length: tokens of the longest text that is taken, longer ones are refused; 0 for what the model's positions
            hold; 0 by default.
        keep_epochs: whether the model at the end of each epoch is kept, as a checkpoint of its own; False by default.
        save_steps: optimiser steps between the states from which a killed run continues; 0 for once an epoch; 0 by
            default.
        prefix_length: rows of the prefix; 16 by default.
        prefix_projection: whether a network makes the rows (the prefix encoder); True by default.
        prefix_embedding: width of the embeddings that enter the network; 0 for heads × width of the stack; 0 by
            default.
        prefix_hidden: width of the network's hidden layers; 0 for that of the embeddings; 0 by default.
        prefix_depth: number of the network's linear layers; 2 by default.
        prefix_dropout: dropout before the network's last layer, which keeps rows apart; 0.1 by default.
        prefix_init: what the rows start as: random, or tokens (the keys and values of tokens of the task); random by
            default.
        prefix_init_std: standard deviation of the embeddings at the start (of the rows, without a network); 1.0 by
            default.
        prefix_stacks: stacks that get a prefix, those that read text if none is named.
        lora_rank: rank of each update; 8 by default.
        lora_alpha: numerator of the scale of the update, alpha / rank; 16.0 by default.
        lora_dropout: dropout before the update; 0.0 by default.
        lora_targets: endings of module paths; the query, key and value maps of every attention if none is named.
        lora_stacks: stacks in which targets are sought, those that read text if none is named.
        adapter_size: width of the bottleneck; 16 by default.
        adapter_function: activation function between the maps down and up; gelu by default.
        adapter_dropout: dropout before the map up; 0.0 by default.
        adapter_scaling: factor on what is added; 1.0 by default.
        adapter_targets: endings of module paths; the last map of every attention and feed-forward if none is named.
        adapter_stacks: stacks in which targets are sought, those that read text if none is named.
        full_stacks: stacks whose weights are trained, all weights of the model if none is named.
        scst_samples: number of captions sampled for each image; 5 by default.
        scst_temperature: temperature at which captions are sampled; 1.0 by default.
        scst_max_new_tokens: tokens of the longest sampled caption; 48 by default.

    Returns:
        For each stage its name, objective, learning rate, optimiser steps, samples in a step, samples (one for each reference
        caption), the number of trained numbers, in all and by kind, their share of all numbers, and what a prefix that it attaches
        does before it is trained (:class:`~rankscope.tuning.untrained.Untrained`, or None).

    Raises:
        WrongCall: for an option that does not exist.
        CheckpointError, DataError, UnknownName, UsageError: as training would.
    """
    recipe = recipe_of(locals())
    trains_on_cpu(device, recipe)
    network, plan = make_plan(model, recipe, data, task=task, seed=seed, trust_remote_code=trust_remote_code)
    previews = []
    for place, stage in enumerate(recipe.stages):
        untrained = attach_and_try(network, plan, place)
        trained = numbers_by_kind(set_trainable(network, stage.train, recipe, head=plan.task == "classification"))
        samples = len(plan.data) if stage.objective == "scst" else len(training_pairs(plan.data, plan.task))
        previews.append(
            {
                "stage": stage.name, "objective": stage.objective, "learning_rate": stage.learning_rate,
                "steps": steps_of(stage, samples), "batch_size": stage.batch_size * stage.accumulation, "samples": samples,
                "trained": sum(trained.values()), "by_kind": trained,
                "share": sum(trained.values()) / sum(p.numel() for p in network.parameters()),
                "untrained_prefix": untrained,
            }
        )  # fmt: skip
    return previews
