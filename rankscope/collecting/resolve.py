"""From what a user names to a run: a run itself, one on disk, or a checkpoint, which is collected first."""

from __future__ import annotations

from pathlib import Path

from rankscope.collecting.collect import collect
from rankscope.collecting.request import OF_A_STORE
from rankscope.errors import UsageError, public
from rankscope.progress import Progress, silent
from rankscope.store import Run, open_run


@public
def load(path: str | Path, *, verify: bool = True) -> Run:
    """The run at ``path``: a folder, a ``.pt`` or a ``.safetensors`` file, all three the same run.

    Args:
        path: the folder or file.
        verify: whether bytes are hashed when they are first read; sizes and shapes are always checked.

    Raises:
        StoreError: if there is no run, it is unfinished, or its bytes are not those that were written.
        CheckpointError: if it is a checkpoint, or the weights of one.
        UsageError: if it is no path.
    """
    return open_run(_path(path), verify=verify)


def as_run(what: Run | str | Path, *, progress: Progress = silent, base_model: str | Path | None = None) -> Run:
    """A run as it is; one that lies on disk; or a checkpoint, collected with every default.

    A checkpoint folder is collected into a file in the current folder, and found there the next time.

    Args:
        what: a run; the path of a run; or a checkpoint folder.
        progress: called for each batch while a checkpoint is collected.
        base_model: the base of a checkpoint, instead of the one that its adapter names.

    Raises:
        CheckpointError: if it is a bare weights file; the message says what to do.
        StoreError: if it is a run that cannot be read.
        UsageError: if it is neither a run nor a path.
    """
    if isinstance(what, Run):
        return what
    path = _path(what)
    if not path.is_dir() or any((path / name).exists() for name in OF_A_STORE):
        return open_run(path)
    return collect(path, reuse=True, base_model=base_model, progress=progress)


def _path(what: object) -> Path:
    if not isinstance(what, str | Path):
        raise UsageError(
            f"a run is what rankscope.collect returned, or the path of one; got {type(what).__name__}. Features from elsewhere "
            "become a run with rankscope import (rankscope.store.import_features)"
        )
    return Path(what)
