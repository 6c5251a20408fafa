"""How a checkpoint is loaded, and how its texts and images are read: options that travel together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rankscope.checkpoint import Checkpoint
from rankscope.devices import where
from rankscope.errors import UsageError


@dataclass(frozen=True)
class Loading:
    """Every option of loading a checkpoint and of reading examples with it; :func:`rankscope.collect` documents each."""

    base_model: str | Path | None = None
    """The base, instead of the one that the adapter names."""
    dtype: str | torch.dtype | None = None
    """The dtype of the weights; None for the checkpoint's own."""
    device: str | None = None
    """The torch device; None for the GPU if there is one."""
    device_map: str | Mapping[str, Any] | None = None
    """How the model is spread over devices, as accelerate takes it."""
    load_in_4bit: bool = False
    """Whether the base is quantised to 4 bits."""
    trust_remote_code: bool = False
    """Whether Python files in the checkpoint may run."""
    processor: str | Path | None = None
    """The folder of the tokenizer or processor; None for the checkpoint's own."""
    padding_side: Literal["right", "left"] = "right"
    """The side on which short samples are padded."""
    chat: bool = False
    """Whether texts go through the chat template."""
    max_length: int | None = None
    """Tokens to which longer texts are cut; None where none is cut."""

    def __post_init__(self) -> None:
        if self.padding_side not in ("left", "right"):
            raise UsageError(f"padding is on the left or right; got {self.padding_side!r}")
        if self.max_length is not None and self.max_length < 1:
            raise UsageError(f"a text is cut to at least one token; got max_length = {self.max_length}")

    def refuse(self, why: str, *, only: tuple[str, ...] | None = None) -> None:
        """Refuse options that were set although they have no effect.

        Args:
            why: the reason, which follows the names of the options.
            only: the options that have no effect; all of them if None.

        Raises:
            UsageError: if one of them differs from its default.
        """
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default and f.name in (only or f.name)]
        if given:
            raise UsageError(f"{', '.join(given)} {why}; leave it out")

    def model(self, checkpoint: Checkpoint) -> nn.Module:
        """The tuned model, on the device that was asked for."""
        from rankscope.models.load import load_model

        return load_model(
            checkpoint,
            device=None if self.device_map and not self.device else where(self.device),
            dtype=self.dtype,
            device_map=self.device_map,
            load_in_4bit=self.load_in_4bit,
            trust_remote_code=self.trust_remote_code,
        )
