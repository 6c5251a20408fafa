"""What a run was read from, opened again by what its manifest says: the probe set, and the checkpoint with its tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from rankscope.checkpoint import Checkpoint
from rankscope.collecting.loading import Loading
from rankscope.collecting.source import TENSORS
from rankscope.data.open import OPTIONS, open_data
from rankscope.data.probes import ProbeSet
from rankscope.errors import NotComparable, RankscopeError
from rankscope.models.inputs.reader import Reader, reader
from rankscope.store import Run


def data_of(run: Run, whom: str, *, remedy: str, data: Any = None) -> ProbeSet:
    """The probe set that a run was read on, opened again by its name and with the same options.

    Args:
        run: the run.
        whom: for whom or what it is opened, for the message.
        remedy: what to do where it cannot be.
        data: the probe set itself, as :func:`rankscope.open_data` takes it, where the name that the run keeps opens nothing.

    Raises:
        NotComparable: if it cannot be opened, or is not what it was.
    """
    if data is None and (run.manifest.probe["name"] == TENSORS or "form" in run.manifest.checkpoint):
        how = "imported" if "form" in run.manifest.checkpoint else "read from tensors in memory"
        raise NotComparable(f"{run.name} was {how}, so its data cannot be read again for {whom}; {remedy}")
    name = str(run.manifest.probe["name"])
    given: Any = run.manifest.probe.get("options") or {}
    options = {name: given[name] for name in OPTIONS if name in given}
    try:
        opened = open_data(name, **options) if data is None else open_data(data)
    except RankscopeError as error:
        raise NotComparable(
            f"{run.name} was read on {name}, which cannot be opened again for {whom} ({error}); {remedy}"
        ) from error
    ids, examples = run.manifest.ids, {example.id: example for example in opened}
    found = replace(opened, examples=[examples[i] for i in ids]) if set(ids) <= examples.keys() else None
    if found is None or found.fingerprint != run.manifest.probe["fingerprint"]:
        what = name if data is None else opened.name
        raise NotComparable(f"{what} is not what it was when {run.name} was read on it; {remedy}")
    return found


class Opened(NamedTuple):
    """A checkpoint that is loaded again."""

    model: nn.Module
    """The tuned model, in evaluation mode."""
    reader: Reader
    """What turns examples into its inputs, as they were when the run was collected."""


def opened(run: Run, *, base_model: str | Path | None = None, device: str | None = None) -> Opened:
    """The checkpoint that a run was read from, loaded again if it is what it was.

    Args:
        run: the run.
        base_model: its base, instead of the one that its adapter names.
        device: where the model is put; by default the GPU where there is one.

    Raises:
        NotComparable: if it came from no folder, or another checkpoint is there now.
        CheckpointError: if it is not there any more, or cannot be loaded.
    """
    said: Any = run.manifest.checkpoint
    if "path" not in said or "form" in said:
        raise NotComparable(f"{run.name} was not read from a checkpoint folder, so there is no model to load")
    checkpoint = Checkpoint.read(said["path"], base_model=base_model)
    if checkpoint.digest != said["digest"]:
        raise NotComparable(f"{said['path']} is not what it was when {run.name} was read from it")
    how: Any = run.manifest.reading
    model = Loading(base_model=base_model, device=device).model(checkpoint)
    home = (said.get("processor") or {}).get("path") or checkpoint
    return Opened(model, reader(model, home, chat=how.get("chat", False), max_length=how.get("max_length")))
