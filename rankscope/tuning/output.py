"""Whether a folder is free for a tuned checkpoint: known without torch, so that one that is not is refused at once."""

from __future__ import annotations

from pathlib import Path

from rankscope.checkpoint import STAGES
from rankscope.errors import OutputExists

WORK = ".training"
"""The folder in the output in which an unfinished run keeps its states."""


def check_free(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a run may write into a folder.

    Raises:
        OutputExists: if something is there that is neither to be resumed nor overwritten, or that is no checkpoint.
    """
    if resume or not out.exists():
        return
    if not out.is_dir():
        raise OutputExists(f"{out} is a file; it is kept, choose a folder")
    if not any(out.iterdir()):
        return
    unfinished = (out / WORK).is_dir()
    if not overwrite:
        state = "an unfinished run: continue it with resume (--resume)" if unfinished else "there already"
        raise OutputExists(
            f"{out} is {state}; it is kept unless overwriting is asked for (overwrite=True, --overwrite)"
        )
    if not unfinished and not (out / STAGES).is_file():
        raise OutputExists(
            f"{out} holds something that is no checkpoint of rankscope; it is not overwritten, choose another folder"
        )
