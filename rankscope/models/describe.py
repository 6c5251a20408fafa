"""What a checkpoint is, in plain values: for ``rankscope inspect`` and for a run's manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from rankscope.checkpoint import FULL, Checkpoint, Tuning
from rankscope.errors import CheckpointError
from rankscope.models.load import load_base
from rankscope.models.stacks import Stack, stacks, unwrapped
from rankscope.models.tunings.attach import attach, parameters
from rankscope.models.tunings.prefix import effective_rows
from rankscope.models.tunings.prefix_live import prefix_of
from rankscope.sites import Site


@dataclass(frozen=True)
class TuningDescription:
    """One tuning of a checkpoint."""

    kind: str
    """PEFT's type in lower case, or ``full``."""
    summary: str
    """The kind and what matters of its configuration, in a line."""
    path: Path
    """The folder that holds it."""
    parameters: int
    """The numbers that it holds."""


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, and whether its tunings land."""

    path: Path
    """What was given."""
    base: Path
    """The base model's folder."""
    model: str
    """The class of the base network."""
    model_type: str
    """Its type, by transformers' name."""
    parameters: int
    """The numbers in the base network."""
    dtype: str
    """The dtype of its weights."""
    base_verified: bool | None
    """Whether the base is the one that was tuned, by its recorded digest; None where none was recorded."""
    tunings: tuple[TuningDescription, ...]
    """What was attached or changed, in order."""
    sites: dict[Site, int | None]
    """The sites in order, with the width of the hidden states where the configuration tells it."""
    lands: bool
    """Whether every tuning lands and changes something."""
    trouble: str
    """Why it does not; empty where it does."""
    effective_prefix_rows: dict[str, float]
    """For each stack with a prefix the effective number of its rows, between 1 and its length."""


def describe(checkpoint: str | Path | Sequence[str | Path] | Checkpoint, **options: Any) -> Description:
    """What a checkpoint is. The model is loaded and its tunings attached, so that ``lands`` is a finding.

    Args:
        checkpoint: what to describe.
        options: ``base_model``, ``trust_remote_code``, and those of ``from_pretrained``.

    Raises:
        CheckpointError: if the base cannot be loaded; a tuning that does not land is told in the result.
    """
    found = Checkpoint.read(checkpoint, base_model=options.pop("base_model", None))
    model: nn.Module = load_base(found.weights, **{"dtype": "auto", **options})
    described = _of_base(model)
    trouble = ""
    try:
        model = attach(model, found)
    except CheckpointError as error:
        trouble = str(error)
    prefix = None if trouble else prefix_of(model)
    rows = {name: effective_rows(table) for name, table in prefix.tables().items()} if prefix is not None else {}
    return Description(
        path=found.path,
        base=found.base,
        base_verified=_verified(found, trouble),
        tunings=tuple(_tuning(t, described["parameters"]) for t in found.tunings),
        lands=not trouble,
        trouble=trouble,
        effective_prefix_rows=rows,
        **described,
    )


def _of_base(model: Any) -> dict[str, Any]:
    return {
        "model": type(unwrapped(model)).__name__,
        "model_type": str(model.config.model_type),
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "sites": widths(stacks(model)),
    }


def widths(stacks: dict[str, Stack]) -> dict[Site, int | None]:
    """The width at each site, where the configuration tells it."""
    return {site: stack.width for stack in stacks.values() for site in stack.sites}


def _verified(found: Checkpoint, trouble: str) -> bool | None:
    return None if found.base_digest is None else "digest" not in trouble


def _tuning(tuning: Tuning, whole: int) -> TuningDescription:
    numbers = whole if tuning.kind == FULL else parameters(tuning)
    return TuningDescription(tuning.kind, tuning.summary, tuning.path, numbers)
