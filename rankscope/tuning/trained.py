"""What is trained, kept and brought back: whole tensors by name, whether a process holds all of each or a shard (FSDP)."""

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
from rankscope.store.files import free_bytes

TRAINED = "trained.safetensors"
"""In a state from which training continues: what is trained, by name."""
COMPLETE = "complete"
"""The file that is written last, so that a state that a kill cut short is not taken for one."""


_FAILED = ("I/O error", "inline_container", "PytorchStreamWriter")
"""What safetensors and torch say of a disk that is full or failing."""


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Turns what a full or failing disk makes of a training into a :class:`StorageError`."""
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
            "(--resume), once there is space that this user may write"
        ) from error


def gathered(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of whole parameters on the CPU; where they are sharded every process takes part and gets them."""
    return {name: _whole(p).detach().cpu().contiguous().clone() for name, p in trained.items()}


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors by name; through a file beside it, so that it is whole or absent."""
    beside = file.with_suffix(".part")
    save_file(dict(tensors), beside)
    beside.replace(file)


def load_tensors(trained: Mapping[str, Tensor], file: Path) -> None:
    """Read back what was saved, into the parameters of the same names."""
    put_back(trained, load_file(file))


@torch.no_grad()
def put_back(trained: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into the parameters of the same names; where those are sharded every process takes part."""
    assert tensors.keys() == trained.keys(), "the saved state belongs to another recipe"
    for name, parameter in trained.items():
        tensor = tensors[name].to(parameter.device)
        if isinstance(parameter, DTensor):
            tensor = distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
        parameter.copy_(tensor)


def first_bad(trained: Mapping[str, nn.Parameter], *, gradients: bool) -> str | None:
    """The first parameter with a number, or a gradient, that is not finite in what this process holds of it."""
    for name, parameter in trained.items():
        tensor = parameter.grad if gradients else parameter
        own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if own is not None and not torch.isfinite(own).all():
            return name
    return None


def complete(folder: Path) -> list[Path]:
    """The whole states in a folder, the newest first."""
    found = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return sorted(found, key=step_of, reverse=True)


def step_of(state: Path) -> int:
    """The step after which a state was kept."""
    return int(state.name.rpartition("-")[2])
