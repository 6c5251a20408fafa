"""Devices on which tensors are computed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from rankscope.errors import UsageError

if TYPE_CHECKING:
    import torch

TYPES = (
    "cpu", "cuda", "ipu", "xpu", "mkldnn", "opengl", "opencl", "ideep", "hip", "ve", "fpga", "maia", "xla", "lazy", "vulkan",
    "mps", "meta", "hpu", "mtia", "privateuseone",
)  # fmt: skip
"""The types of devices that torch knows, known here without it; a test holds the two equal."""
SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways to spread a model over the available devices."""


def check_device(device: str) -> None:
    """Check that a text names a device that some machine could have; whether this one does, only torch knows.

    Raises:
        UsageError: if it does not.
    """
    kind, colon, number = device.partition(":")
    spelled = re.fullmatch("0|[1-9][0-9]*", number) if colon else True
    # Other packages add types of their own to torch (torch.backends), each of which says its name only when it is loaded.
    if not spelled or (kind not in TYPES and not entry_points(group="torch.backends")):
        raise UsageError(f"there is no device {device!r} for torch; a device is cpu, cuda, cuda:1, mps …")


def check_device_map(device_map: str) -> None:
    """Check that a text is a way to spread a model, one of :data:`SPREADS`, or a device. Raises as :func:`check_device` does."""
    if device_map not in SPREADS:
        try:
            check_device(device_map)
        except UsageError as error:
            raise UsageError(f"{error}; to spread a model over several: {', '.join(SPREADS)}") from None


def check_spread(device_map: str | Mapping[str, Any]) -> None:
    """Check that a model can be spread as asked: in one of :data:`SPREADS`, on one device, or by a map from parts to devices.

    Raises:
        UsageError: if this machine has no such device.
    """
    devices = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for device in {device for device in devices if device not in (*SPREADS, "disk")}:
        where(device)


def where(device: str | int | torch.device | None) -> torch.device:
    """The device asked for; by default the GPU if there is one, else the CPU. Under torchrun each process has a GPU of its own.

    Raises:
        UsageError: if this machine has no such device.
    """
    import torch

    wanted = (_own_gpu() if torch.cuda.is_available() else "cpu") if device is None else device
    try:
        found = torch.device(wanted)
        torch.empty(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UsageError(
            f"this machine has no device {str(wanted)!r} for torch ({reason}); leave it out, or use cpu"
        ) from error
    return found


def _own_gpu() -> str:
    """The GPU of this process among those of its machine, by the number that torchrun gives it."""
    import torch

    rank = os.environ.get("LOCAL_RANK", "")
    return f"cuda:{int(rank) % torch.cuda.device_count()}" if rank.isdecimal() else "cuda"
