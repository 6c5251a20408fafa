"""What a checkpoint is, in plain values: for ``rankscope inspect`` and for a run's manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rankscope.checkpoint import FULL, Checkpoint, Tuning
from rankscope.errors import CheckpointError
from rankscope.measures.effective_rank import effective_rank
from rankscope.models.load import load_base
from rankscope.models.notes import notes_of
from rankscope.models.stacks import stacks
from rankscope.models.tunings.adapters import parameters
from rankscope.models.tunings.attach import WrongBase, attach
from rankscope.models.tunings.prefix_live import prefix_of
from rankscope.sites import Site


@dataclass(frozen=True)
class TuningDescription:
    """One tuning of a checkpoint."""

    kind: str
    """PEFT's type in lower case, or ``full``."""
    summary: str
    """The kind and the main values of its configuration, in one line."""
    path: Path
    """The folder that holds it."""
    parameters: int
    """How many numbers it holds."""


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, and whether its tunings land."""

    path: Path
    """The checkpoint."""
    base: Path
    """The base model's folder."""
    model: str
    """The class of the base network."""
    model_type: str
    """Its type, by transformers' name."""
    parameters: int
    """How many numbers the base network has."""
    dtype: str
    """The dtype of its weights."""
    base_verified: bool | None
    """Whether the base is the one that was tuned, by its recorded digest; None if none was recorded."""
    tunings: tuple[TuningDescription, ...]
    """What was attached or changed, in order."""
    sites: dict[Site, int | None]
    """The sites in order, each with the width of its hidden states; None if the configuration does not say it."""
    lands: bool
    """Whether every tuning lands and changes something."""
    trouble: str
    """Why one does not; empty if all do."""
    notes: tuple[str, ...]
    """What was left out or assumed while it was loaded."""
    effective_prefix_rows: dict[str, float]
    """For each stack with a prefix the effective number of its rows, between 1 and its length."""


def describe(
    checkpoint: str | Path | Sequence[str | Path] | Checkpoint,
    *,
    base_model: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Description:
    """What a checkpoint is. The model is loaded and its tunings attached, so that ``lands`` is a finding.

    Args:
        checkpoint: what to describe.
        base_model: the base, in place of the one that the adapter names.
        trust_remote_code: run the Python files that the checkpoint brings along.

    Raises:
        CheckpointError: if the base cannot be loaded; a tuning that does not land is part of the result.
    """
    found = Checkpoint.read(checkpoint, base_model=base_model)
    base = load_base(found.weights, dtype="auto", trust_remote_code=trust_remote_code)
    numbers, dtype, there = sum(p.numel() for p in base.parameters()), base.dtype, stacks(base)
    verified, trouble = None if found.base_digest is None else True, ""
    model: nn.Module = base
    try:
        model = attach(base, found)
    except CheckpointError as error:
        trouble, verified = str(error), False if isinstance(error, WrongBase) else verified
    return Description(
        path=found.path,
        base=found.base,
        model=type(base).__name__,
        model_type=str(base.config.model_type),
        parameters=numbers,
        dtype=str(dtype).removeprefix("torch."),
        base_verified=verified,
        tunings=tuple(_described(tuning, numbers) for tuning in found.tunings),
        sites={site: stack.width for stack in there.values() for site in stack.sites},
        lands=not trouble,
        trouble=trouble,
        notes=notes_of(base),
        effective_prefix_rows={} if trouble else _effective_rows(model),
    )


def _effective_rows(model: nn.Module) -> dict[str, float]:
    """For each stack the effective rank of the prefix's rows, about the origin: equal rows are one direction, not none."""
    prefix = prefix_of(model)
    tables = {} if prefix is None else prefix.tables()
    return {name: float(effective_rank(torch.linalg.svdvals(table.double()))) for name, table in tables.items()}


def _described(tuning: Tuning, whole: int) -> TuningDescription:
    numbers = whole if tuning.kind == FULL else parameters(tuning)
    return TuningDescription(tuning.kind, tuning.summary, tuning.path, numbers)
