"""A checkpoint, or a loaded transformers model, with its probe set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankscope.checkpoint import Checkpoint
from rankscope.checkpoint import digest as folder_digest
from rankscope.data.open import open_data
from rankscope.data.probes import ProbeSet
from rankscope.errors import CheckpointError
from rankscope.models.load import load_model
from rankscope.models.reader import Reader, reader
from rankscope.models.stacks import stacks, taps, unwrapped
from rankscope.pipeline.source import Source, module_digest, where
from rankscope.reading.forward import Inputs


def from_checkpoint(
    model: Any,
    data: Any,
    *,
    n: int | None,
    processor: str | Path | None,
    base_model: str | Path | None,
    device: str | None,
    dtype: str | None,
    trust_remote_code: bool,
) -> Source:
    """The source of a checkpoint on disk, or of a loaded model; see :func:`rankscope.pipeline.source.open_source`.

    Raises:
        CheckpointError: if the checkpoint does not load, or a loaded model has no processor.
        DataError: if there are fewer than n samples.
    """
    probe = _probe(data, n)
    if isinstance(model, nn.Module):
        loaded, told, name = model.eval(), _in_memory(model), type(unwrapped(model)).__name__
        found = Checkpoint.read(processor or _home(model))
    else:
        found = Checkpoint.read(model, base_model=base_model)
        loaded = load_model(found, device=str(where(device)), dtype=dtype, trust_remote_code=trust_remote_code)
        told, name = _on_disk(found), found.name
    read = reader(loaded, found, trust_remote_code=trust_remote_code)
    return Source(
        model=loaded,
        name=name,
        taps=taps(loaded),
        known_widths={stack.name: stack.width for stack in stacks(loaded).values()},
        ids=probe.ids,
        lengths=_lengths(read, probe),
        collate=_collate(read, probe, next(loaded.parameters()).device),
        checkpoint=told,
        data_name=probe.name,
        fingerprint=probe.fingerprint,
        reading=_reading(loaded, read),
        notes=probe.notices,
    )


def _probe(data: Any, n: int | None) -> ProbeSet:
    probe = open_data(data)
    return probe if n is None else probe.first(n)


def _home(model: nn.Module) -> str:
    """The folder that a loaded model came from, by its own record."""
    path = getattr(unwrapped(model), "name_or_path", "")
    if not path:
        raise CheckpointError("a model in memory needs the folder of its tokenizer or processor: pass processor=…")
    return path


def _on_disk(found: Checkpoint) -> dict[str, Any]:
    tunings = [t.summary for t in found.tunings]
    return {
        "path": str(found.path),
        "summary": " + ".join([f"{found.path}: {found.base.name}", *tunings]),
        "base": {"path": str(found.base), "digest": folder_digest(found.base)},
        "tunings": tunings,
        "digest": found.digest,
    }


def _in_memory(model: nn.Module) -> dict[str, Any]:
    name = type(unwrapped(model)).__name__
    return {"summary": f"{name} in memory", "tunings": [], "digest": module_digest(model)}


def _lengths(read: Reader, probe: ProbeSet) -> tuple[int, ...]:
    """The columns of each sample's longest stack: its tokens, and what the first sample's image adds to them."""
    tokens = [read.length(example) for example in probe]
    added = read.encode(probe[0]).length - tokens[0]
    return tuple(length + max(0, added) for length in tokens)


def _collate(read: Reader, probe: ProbeSet, device: torch.device) -> Any:
    def collate(samples: Sequence[int]) -> Inputs:
        batch = read.read([probe[i] for i in samples]).to(device)
        return Inputs(batch.inputs, batch.grids)

    return collate


def _reading(model: nn.Module, read: Reader) -> dict[str, Any]:
    config = getattr(unwrapped(model), "config", None)
    return {
        "padding_side": read.padding_side,
        "attention": getattr(config, "_attn_implementation", None),
        "precision": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": next(model.parameters()).device.type,
    }
