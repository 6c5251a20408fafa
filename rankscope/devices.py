"""Devices on which tensors are computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rankscope.errors import UsageError

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways to spread a model over the available devices."""


def check_spread(device_map: str | Mapping[str, Any]) -> None:
    """Check that a model can be spread as asked: in one of :data:`SPREADS`, on one device, or by a map from parts to devices.

    Raises:
        UsageError: if this machine has no such device.
    """
    devices = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for device in {device for device in devices if device not in (*SPREADS, "disk")}:
        where(device)


def where(device: str | int | torch.device | None) -> torch.device:
    """The device asked for; by default the GPU if there is one, else the CPU.

    Raises:
        UsageError: if this machine has no such device.
    """
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    try:
        found = torch.device(wanted)
        torch.empty(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UsageError(
            f"this machine has no device {str(wanted)!r} for torch ({reason}); leave it out, or use cpu"
        ) from error
    return found
