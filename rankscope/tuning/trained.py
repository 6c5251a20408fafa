"""Trained parameters, kept and put back: whole tensors by name, whether a process holds all of each or a shard (FSDP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rankscope.errors import RankscopeError, StorageError
from rankscope.writing import free_bytes

TRAINED = "trained.safetensors"
"""The file of the trained parameters in a state from which training continues."""
COMPLETE = "complete"
"""The file that is written last, so that a state that a kill cut short is not taken for a whole one."""
_FAILED = ("I/O error", "inline_container", "PytorchStreamWriter")
"""What the errors of safetensors and torch contain if a disk is full or failing."""


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Inside the block an error that comes of a full or failing disk becomes a :class:`StorageError`."""
    try:
        yield
    except RankscopeError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if not isinstance(error, OSError) and not any(mark in str(error) for mark in _FAILED):
            raise
        free = free_bytes(folder)
        raise StorageError(
            f"cannot write {folder}: {getattr(error, 'strerror', None) or str(error).splitlines()[0]}; "
            f"{'' if free is None else f'{free:,} bytes are free; '}the last state that was kept whole is continued with resume "
            "(--resume), once there is space that this user may write to"
        ) from error


def gathered(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of whole parameters on the CPU; if they are sharded every process takes part and gets all of them."""
    return {name: _whole(p).detach().cpu().contiguous().clone() for name, p in trained.items()}


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors by name, through a file beside the file, so that it is whole or absent."""
    beside = file.with_suffix(".part")
    save_file(dict(tensors), beside)
    beside.replace(file)


def load_tensors(trained: Mapping[str, Tensor], file: Path) -> None:
    """Read saved tensors back into the parameters of the same names."""
    put_back(trained, load_file(file))


@torch.no_grad()
def put_back(trained: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into the parameters of the same names; if those are sharded every process takes part."""
    assert tensors.keys() == trained.keys(), "the saved state belongs to another recipe"
    for name, parameter in trained.items():
        tensor = tensors[name].to(parameter.device)
        if isinstance(parameter, DTensor):
            tensor = distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
        parameter.copy_(tensor)


def first_nonfinite(trained: Mapping[str, nn.Parameter], *, gradients: bool) -> str | None:
    """The name of the first parameter that is not finite, or whose gradient is not, in what this process holds of it."""
    for name, parameter in trained.items():
        tensor = parameter.grad if gradients else parameter
        own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if own is not None and not torch.isfinite(own).all():
            return name
    return None


def complete_states(folder: Path) -> list[Path]:
    """The whole states in a folder, the newest first."""
    states = [file.parent for file in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return sorted(states, key=step_of, reverse=True)


def step_of(state: Path) -> int:
    """The number of the step after which a state was kept."""
    return int(state.name.rpartition("-")[2])
