"""Where tensors are computed."""

from __future__ import annotations

import torch

from rankscope.errors import UsageError


def where(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the GPU where there is one.

    Raises:
        UsageError: if this machine has no such device.
    """
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(wanted)
        torch.empty(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        told = " ".join(str(error).split())[:100]
        raise UsageError(
            f"this machine has no device {str(wanted)!r} for torch ({told}); leave it out, or say cpu"
        ) from error
    return found
