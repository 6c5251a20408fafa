"""What a collect reads from: a checkpoint with its probe set, or any module with tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from rankscope.collecting.samples import content
from rankscope.reading.forward import ModelBatch
from rankscope.reading.hooks import Tap, reading
from rankscope.sites import Site

TENSORS = "tensors"
"""What the manifest calls tensors that a plain module was fed with."""


@dataclass(frozen=True)
class Source:
    """A model, and how samples become its inputs."""

    model: nn.Module
    """The tuned model, in evaluation mode; it is what is called."""
    name: str
    """The checkpoint's name."""
    taps: Mapping[Site, Tap]
    """Where each of its sites is read."""
    known_widths: Mapping[str, int | None]
    """The width of each stack, where the configuration tells it."""
    ids: tuple[str, ...]
    """The ids of the samples."""
    lengths: tuple[int, ...]
    """About how many columns each sample has."""
    collate: Callable[[Sequence[int]], ModelBatch]
    """From places of samples to a batch on the model's device."""
    checkpoint: dict[str, Any]
    """What the manifest says of the checkpoint."""
    data_name: str
    """What the manifest calls the probe set."""
    fingerprint: str
    """The probe set's fingerprint."""
    reading: dict[str, Any]
    """How the model is read: padding side, attention implementation, precision."""
    dtype: torch.dtype = torch.float32
    """The dtype that holds the features of every site as they come."""
    notes: tuple[str, ...] = ()
    """What the data's reader had to say."""
    unreadable: Mapping[Site, str] = field(default_factory=dict)
    """Parts of a module that are no site, and why."""

    def stored_dtype(self, kind: str) -> str:
        """The dtype in which rows of a kind are stored: the features' own; means over half precision in float32."""
        lifted = torch.promote_types(self.dtype, torch.float32) if kind == "mean" else self.dtype
        return str(lifted).removeprefix("torch.")

    def widths(self, taps: Mapping[Site, Tap]) -> dict[Site, int]:
        """The number of features at each site: from the configuration, or from one sample where that does not tell."""
        if all(self.known_widths.get(site.stack) for site in taps):
            return {site: int(self.known_widths[site.stack] or 0) for site in taps}
        with torch.inference_mode(), reading(taps, lambda site, hidden: torch.empty(hidden.shape[-1])) as found:
            self.model(**self.collate(range(1)).inputs)
        return {site: len(width) for site, width in found.items()}


def of_transformers(model: nn.Module) -> bool:
    """Whether transformers or PEFT made a module, so that there are processors for it; told without importing them."""
    if isinstance(model, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    inner = getattr(model, "_orig_mod", model)
    return any(kind.__module__.split(".")[0] in ("transformers", "peft") for kind in type(inner).__mro__)


def module_digest(model: nn.Module) -> str:
    """The sha256, in hex, over a module's parameters and buffers."""
    whole = hashlib.sha256()
    for name, x in model.state_dict().items():
        whole.update(f"{name}:{tuple(x.shape)}:{x.dtype};".encode())
        whole.update(content(x))
    return whole.hexdigest()
