"""From what a user names to a run: a run itself, one on disk, or a checkpoint, which is collected first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankscope.checkpoint import Checkpoint
from rankscope.checkpoint.kinds import in_cache
from rankscope.collecting.collect import collect
from rankscope.collecting.reopened import data_of
from rankscope.collecting.request import OF_A_STORE
from rankscope.errors import NotComparable, UsageError, public
from rankscope.progress import Progress, silent
from rankscope.store import Run, open_run
from rankscope.store.sums import SummedRun

_HOW = ("padding_side", "tokens_per_batch", "chat", "max_length")
"""What a manifest says of the reading that a collect can be asked for."""


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


def as_run(
    what: Run | str | Path,
    *,
    like: Run | None = None,
    progress: Progress = silent,
    base_model: str | Path | None = None,
) -> Run:
    """A run as it is; one that lies on disk; or a checkpoint, which is collected first.

    A checkpoint folder is collected into a file in the current folder, and found there the next time.

    Args:
        what: a run; the path of a run; or a checkpoint folder.
        like: the run whose data, rows and sites a checkpoint is read on; if None, the embedded scenes are read with the
            embedded model, and no other.
        progress: called for each batch while a checkpoint is collected.
        base_model: the base of a checkpoint, instead of the one that its adapter names.

    Raises:
        CheckpointError: if it is a bare weights file; the message says what to do.
        StoreError: if it is a run that cannot be read.
        UsageError: if it is neither a run nor a path, or a checkpoint that needs data of its own.
        NotComparable: if the data of the run are not here any more, or are others now.
    """
    if isinstance(what, Run):
        return what
    path = _path(what)
    if not is_checkpoint(path):
        return open_run(path)
    if like is not None:
        return _collected_like(like, path, progress, base_model)
    from rankscope.models.embedded import check_embedded

    check_embedded(
        Checkpoint.read(path, base_model=base_model),
        instead=f"collect it first: 'rankscope collect {path} --data FILE', or name a run beside it, whose data are read",
    )
    return collect(path, reuse=True, base_model=base_model, progress=progress)


def is_checkpoint(what: object) -> bool:
    """Whether something is a folder, or the name of a repository in the Hub's cache, that must be collected before it is a run."""
    if not isinstance(what, str | Path):
        return False
    path = Path(what)
    if not path.exists():
        return in_cache(str(what)) is not None
    return path.is_dir() and not any((path / name).exists() for name in OF_A_STORE)


def _collected_like(run: Run, path: Path, progress: Progress, base_model: str | Path | None) -> Run:
    """A checkpoint read on the data of a run, at its sites and with its kind of rows, batches and padding.

    Raises:
        NotComparable: if the run holds sums, which are paired while they are made.
    """
    if isinstance(run, SummedRun):
        raise NotComparable(
            f"{run.name} holds sums, with which {path} is compared if it was collected beside: 'rankscope collect {path} "
            "--keep moments --beside …'"
        )
    rows: Mapping[str, Any] = run.manifest.rows
    processor: Any = run.manifest.checkpoint.get("processor") or {}
    reading: Mapping[str, Any] = run.manifest.reading
    return collect(
        path,
        data_of(run, str(path), remedy=f"collect {path} on the same data yourself, with --data, and name that run"),
        sites=run.sites,
        rows=rows["kind"],
        keep_special=rows.get("keep_special", False),
        **{name: reading[name] for name in _HOW if name in reading},
        processor=processor.get("path"),
        base_model=base_model,
        reuse=True,
        progress=progress,
    )


def _path(what: object) -> Path:
    if not isinstance(what, str | Path):
        raise UsageError(
            f"a run is what rankscope.collect returned, or the path of one; got {type(what).__name__}. Features from elsewhere "
            "become a run with rankscope import (rankscope.store.import_features)"
        )
    return Path(what)
