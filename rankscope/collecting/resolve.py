"""From what a user names to a run: a run itself, one on disk, or a checkpoint, which is collected first."""

from __future__ import annotations

from pathlib import Path

from rankscope.progress import Progress, silent
from rankscope.store import Run, open_run

_OF_A_STORE = ("store.json", "plan.jsonl", "lock")


def load(path: str | Path, *, verify: bool = True) -> Run:
    """The run at ``path``: a folder, a ``.pt`` or a ``.safetensors`` file, all three the same run.

    Args:
        path: the folder or file.
        verify: whether what is read is hashed on first reading; sizes and shapes are always checked.

    Raises:
        StoreError: if there is no run there, it is unfinished, or its bytes are not those that were written.
        CheckpointError: if it is a checkpoint, or the weights of one.
    """
    return open_run(path, verify=verify)


def as_run(what: Run | str | Path, *, progress: Progress = silent, base_model: str | Path | None = None) -> Run:
    """The run that is meant.

    A checkpoint folder is collected with every default, into a file beside where the command runs, and found there the
    next time.

    Args:
        what: a run; the path of a run; or a checkpoint folder.
        progress: told of the batches where a checkpoint is collected.
        base_model: the base of a checkpoint, in place of the one that its adapter names.

    Raises:
        CheckpointError: if it is a bare weights file; the message says what to do.
        StoreError: if it is a run that cannot be read.
    """
    if isinstance(what, Run):
        return what
    path = Path(what)
    if not path.is_dir() or any((path / name).exists() for name in _OF_A_STORE):
        return load(path)
    from rankscope.collecting.collect import run_job
    from rankscope.collecting.prepare import prepare

    return run_job(prepare(path, reuse=True, base_model=base_model), progress=progress)
