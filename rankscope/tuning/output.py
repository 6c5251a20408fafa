"""The folder of a tuned checkpoint: whether it is free, known without torch so that one that is not is refused at once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from rankscope.checkpoint import STAGES
from rankscope.errors import OutputExists
from rankscope.tuning.kinds import KINDS

WORK, PLAN = ".training", "plan.json"
"""The folder in the output in which an unfinished run keeps its states, and the file in it with the record of its plan."""
EPOCHS, LAST_GOOD = "epochs", "last-good-{}-{}"
"""The folder of the checkpoints that were kept after each epoch, and that of the last good one, after a step or a stage."""
_LEFT = re.compile(rf"{re.escape(WORK)}|{LAST_GOOD.format('(step|stage)', '[0-9]+')}")
_MADE = re.compile(rf"{_LEFT.pattern}|{EPOCHS}|[0-9]+-({'|'.join(KINDS)})")


def check_free(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a run may write into a folder.

    Raises:
        OutputExists: if something is there that is neither to be resumed nor overwritten, or that is no checkpoint.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputExists(f"{out} is a file; it is kept, choose a folder")
    unfinished, names = (out / WORK / PLAN).is_file(), [path.name for path in out.iterdir()]
    # A kill before the plan was written leaves the working folder alone, and a loss that is no number the last good state.
    if not (unfinished or (out / STAGES).is_file() or all(map(_LEFT.fullmatch, names))):
        raise OutputExists(
            f"{out} holds something that is not a rankscope checkpoint; it is kept, choose another folder"
        )
    if names and not (resume or overwrite):
        state = "an unfinished run: continue it with resume (--resume)" if unfinished else "there already"
        raise OutputExists(f"{out} is {state}; it is kept unless --overwrite is given (overwrite=True)")


def clear(out: Path) -> None:
    """Remove a checkpoint, finished or not, from its folder, and leave there what somebody else has put beside it.

    The working folder and the record go last, so that until then it is still known for what may be overwritten.
    """
    for path in sorted(out.iterdir(), reverse=True):
        if _MADE.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    (out / STAGES).unlink(missing_ok=True)
