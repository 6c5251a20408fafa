"""What a collect reads from: a model, where its sites are, and how samples become its inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rankscope.errors import NotComparable
from rankscope.reading.forward import ModelBatch, forward_pass
from rankscope.reading.hooks import Tap, reading
from rankscope.reading.probing import Parts
from rankscope.sites import Site

TENSORS = "tensors"
"""The name of the probe set in the manifest of a module that was fed with tensors."""

Collate = Callable[[Sequence[int]], ModelBatch]
"""From places of samples to one batch on the model's device."""


@dataclass(frozen=True)
class Source:
    """A model, and how samples become its inputs."""

    model: nn.Module
    """The tuned model, in evaluation mode; it is the one that is called."""
    name: str
    """The checkpoint's name."""
    parts: Parts
    """Where each of its sites is read, the width of each stack (None where the configuration does not say), and the narrowest
    dtype that holds the features of every site exactly."""
    ids: tuple[str, ...]
    """The ids of the samples."""
    lengths: tuple[int, ...]
    """The approximate number of columns of each sample."""
    collate: Collate
    """From places of samples to a batch on the model's device."""
    checkpoint: dict[str, Any]
    """The manifest's entry for the checkpoint."""
    data_name: str
    """The manifest's name for the probe set."""
    fingerprint: str
    """The probe set's fingerprint."""
    reading: dict[str, Any]
    """How the model is read: padding side, attention implementation, precision."""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    """The options with which the probe set was opened."""
    notes: tuple[str, ...] = ()
    """Remarks of the data's reader."""
    apart: str = ""
    """Why samples cannot be put into one batch, in words; empty if they can."""
    told: Callable[[Mapping[str, Any]], dict[Site, str]] | None = None
    """From the inputs of one sample to the sites that are not what the model itself returns, each with the reason; None if
    the model cannot be asked, and may need several samples in a batch."""

    @property
    def longest(self) -> int:
        """The place of the longest sample."""
        return max(range(len(self.lengths)), key=self.lengths.__getitem__)

    def stored_dtype(self, kind: str) -> str:
        """The dtype in which rows of a kind are stored: the features' own, or float32 for means over half precision."""
        lifted = torch.promote_types(self.parts.dtype, torch.float32) if kind == "mean" else self.parts.dtype
        return str(lifted).removeprefix("torch.")

    def widths(self, taps: Mapping[Site, Tap]) -> dict[Site, int]:
        """The number of features at each site: from the configuration, or else from one sample."""
        known = {site: width for site in taps if (width := self.parts.widths.get(site.stack))}
        if len(known) == len(taps):
            return known
        with torch.inference_mode(), reading(taps, lambda site, hidden: torch.empty(hidden.shape[-1])) as found:
            forward_pass(self.model, self.collate(range(1)).inputs)
        return {site: len(width) for site, width in found.items()}


def check_left(left: int, given: int, samples: str, whom: str) -> None:
    """Refuse samples of which nothing is left but one when copies are taken once.

    Args:
        left: how many are left.
        given: how many were given.
        samples: what they are, in words.
        whom: to whom they are the same, in words.

    Raises:
        NotComparable: saying so.
    """
    if left == 1 < given:
        raise NotComparable(
            f"all {given} {samples} are one and the same {whom}; give samples that differ in what it reads"
        )


def of_transformers(model: nn.Module) -> bool:
    """Whether transformers or PEFT made a module, so that there are processors for it; found without importing them."""
    if isinstance(model, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    inner = getattr(model, "_orig_mod", model)
    return any(kind.__module__.split(".")[0] in ("transformers", "peft") for kind in type(inner).__mro__)


def device_of(model: nn.Module) -> torch.device:
    """Where a model takes its inputs: the device of the first weights that are not offloaded (``meta``)."""
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))


def in_memory(model: nn.Module, name: str) -> dict[str, Any]:
    """The manifest's entry for a model that was not read from a checkpoint: a digest of its parameters and buffers."""
    digest = hashlib.sha256()
    for key, x in model.state_dict().items():
        digest.update(f"{key}:{tuple(x.shape)}:{x.dtype};".encode())
        digest.update(content(x))
    return {"summary": f"{name} in memory", "tunings": [], "digest": digest.hexdigest()}


def content(x: Tensor) -> bytes:
    """The bytes of a tensor's numbers, in their order."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""
