"""Files of tensors, read without running what a pickle could run."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rankscope.errors import CheckpointError, UnsafeError


def read_plain(file: Path) -> Any:
    """What a file of tensors holds, on the CPU: tensors by name, or plain containers of them.

    Raises:
        CheckpointError: if the file is missing or damaged.
        UnsafeError: if it is a pickle of more than tensors and plain containers.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeError(
            f"{file} is a pickle with more than tensors in it; it is not opened. Ask for safetensors"
        ) from error
    except (FileNotFoundError, SafetensorError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy it again") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    Raises:
        CheckpointError: if the file is missing or damaged, or a tensor holds NaN or infinite numbers.
        UnsafeError: if it is a pickle of more than tensors.
    """
    tensors: dict[str, Tensor] = read_plain(file)
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{file}: {len(bad)} tensors hold NaN or infinite numbers ({', '.join(bad[:4])})")
    return tensors
