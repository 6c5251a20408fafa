"""A checkpoint, or a loaded transformers model, with its probe set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rankscope.checkpoint import Checkpoint, folder_name
from rankscope.checkpoint import digest as folder_digest
from rankscope.collecting.source import Source, module_digest
from rankscope.data.open import open_data
from rankscope.data.probes import ProbeSet
from rankscope.devices import where
from rankscope.errors import CheckpointError, UsageError
from rankscope.models.dtypes import features_dtype, weights_dtype
from rankscope.models.inputs.reader import Reader, reader
from rankscope.models.load import load_model
from rankscope.models.stacks import stacks, taps, unwrapped
from rankscope.reading.forward import ModelBatch

Collate = Callable[[Sequence[int]], ModelBatch]


def from_checkpoint(
    model: Any,
    data: Any,
    *,
    n: int | None,
    processor: str | Path | None = None,
    base_model: str | Path | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    padding_side: Literal["right", "left"] = "right",
    chat: bool = False,
    **loading: Any,
) -> Source:
    """The source of a checkpoint on disk, or of a loaded model; see :func:`rankscope.collecting.opening.open_source`.

    Raises:
        CheckpointError: if the checkpoint does not load, or a loaded model has no processor.
        DataError: if there are fewer than n samples.
        UsageError: if there is no such precision, device or padding side.
    """
    if padding_side not in ("left", "right"):
        raise UsageError(f"padding is on the left or right; got {padding_side!r}")
    probe = _probe(data, n)
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    home: Any = processor
    if isinstance(model, nn.Module):
        loaded, told, name = model.eval(), _in_memory(model), type(unwrapped(model)).__name__
        home = home or _home(model)
    else:
        found = Checkpoint.read(model, base_model=base_model)
        placed = where(device) if device or not loading.get("device_map") else None
        loaded = load_model(found, device=placed, **trust, **loading)
        told, name, home = _on_disk(found), found.name, home or found
    read = reader(loaded, home, padding_side=padding_side, chat=chat, **trust)
    return Source(
        model=loaded,
        name=name,
        taps=taps(loaded),
        known_widths={stack.name: stack.width for stack in stacks(loaded).values()},
        ids=probe.ids,
        lengths=_lengths(read, probe),
        collate=_collate(read, probe, _device(loaded)),
        checkpoint=told,
        data_name=probe.name,
        fingerprint=probe.fingerprint,
        reading={**_reading(loaded, read), **({"chat": True} if chat else {})},
        dtype=features_dtype(loaded),
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
        "summary": " + ".join([folder_name(found.base), *tunings]),
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
    def collate(samples: Sequence[int]) -> ModelBatch:
        return read.read([probe[i] for i in samples]).to(device)

    return collate


def _reading(model: nn.Module, read: Reader) -> dict[str, Any]:
    config = getattr(unwrapped(model), "config", None)
    return {
        "padding_side": read.padding_side,
        "attention": getattr(config, "_attn_implementation", None),
        "precision": str(weights_dtype(model)).removeprefix("torch."),
        "device": _device(model).type,
    }


def _device(model: nn.Module) -> torch.device:
    """Where a model takes its inputs: where its first weights lie that lie anywhere."""
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
