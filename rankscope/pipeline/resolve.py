"""From what a user names to a run: a run itself, one on disk, or a checkpoint, which is collected first."""

from __future__ import annotations

from pathlib import Path

from rankscope.checkpoint import looks_like_checkpoint
from rankscope.pipeline.measure import Progress, silent
from rankscope.store import Run, open_run


def as_run(what: Run | str | Path, *, progress: Progress = silent) -> Run:
    """The run that is meant.

    A checkpoint folder is collected with every default, beside where the command runs, and found there the next time.

    Args:
        what: a run; the path of a run; or a checkpoint folder.
        progress: told of the batches where a checkpoint is collected.

    Raises:
        CheckpointError: if it is a bare weights file; the message says what to do.
        StoreCorrupt: if it is a run whose bytes are not those that were written.
    """
    if isinstance(what, Run):
        return what
    path = Path(what)
    if path.is_dir() and looks_like_checkpoint(path):
        from rankscope.pipeline.collect import collect, prepare

        return collect(prepare(path, reuse=True), progress=progress)
    return open_run(path)
