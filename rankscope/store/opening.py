"""Opening a run, and saying what a path is if it is not a run."""

from __future__ import annotations

import os
from pathlib import Path

from rankscope.errors import CheckpointError, RankscopeError, StoreError
from rankscope.store import layout
from rankscope.store.files import corrupt
from rankscope.store.folder import Folder
from rankscope.store.run import Container, Run
from rankscope.store.single import SingleFile
from rankscope.store.sums import SummedRun, Summing

_CHECKPOINT_FILES = ("config.json", "adapter_config.json", "rankscope.json", "model.safetensors")


def open_run(path: str | Path, *, verify: bool = True, partial: bool = False) -> Run:
    """The run at ``path``: a folder, a ``.safetensors`` or a ``.pt`` file, all three the same.

    Args:
        path: the folder or file.
        verify: whether data are hashed when they are first read; sizes and shapes are always checked.
        partial: whether an unfinished collect may be read, with the batches that are there.

    Raises:
        StoreError: if there is no run; the message says what is there and what to do.
        CheckpointError: if it is a checkpoint, or the weights of one.
        UnsafeError: if it is a pickle of anything other than tensors and text.
        StoreCorrupt: if bytes are not those that were written.
        StoreIncomplete: if a collect has not finished.
    """
    found = Path(path)
    container = _container(found, verify, partial)
    if Summing.of(container.manifest, found) is None:
        return Run(found, container)
    if not isinstance(container, Folder):
        raise corrupt(f"{found} is a file and says that it holds sums, which are stored in folders")
    return SummedRun(found, container)


def _container(path: Path, verify: bool, partial: bool) -> Container:
    if not path.exists():
        raise StoreError(f"there is no run at {path}; 'rankscope collect CHECKPOINT --out {path}' makes one")
    if path.is_dir():
        if not os.path.lexists(path / layout.MANIFEST):
            raise _no_store(path)
        return Folder(path, check=verify, partial=partial)
    return SingleFile(path.resolve(), check=verify)


def _no_store(path: Path) -> RankscopeError:
    for name in _CHECKPOINT_FILES:
        if (path / name).exists():
            hint = f"collect it first: 'rankscope collect {path} --out run.pt'"
            return CheckpointError(f"{path} is a checkpoint (it has {name}), not a run of features; {hint}")
    if (path / layout.PLAN).exists() or (path / layout.LOCK).exists():
        return StoreError(f"{path} is a collect that stopped before its first batch; the same command continues it")
    return StoreError(f"{path} has no {layout.MANIFEST}, so it is not a run; give the folder or file that collect made")
