"""Writing a run as one file, a stretch of rows at a time (``FORMAT.md``, One file)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from rankscope import writing
from rankscope.errors import OutputExists, StorageError
from rankscope.features import Rows
from rankscope.store import files
from rankscope.store.layout import PLACES
from rankscope.store.onefile import OneFile
from rankscope.store.opening import open_run
from rankscope.store.run import Run


def pack(folder: str | Path, target: str | Path, *, overwrite: bool = False, within: Path | None = None) -> Run:
    """Write a run as one file, with the rows in the data's order. Memory does not grow with their number.

    ``torch.load(target, weights_only=True)`` reads a ``.pt`` file as a dictionary with ``features`` (a tensor for each
    site), ``rows`` (tensors for each stack) and strings; a ``.safetensors`` file has the same tensors, and the strings as
    metadata.

    Args:
        folder: a finished run, in any form.
        target: the file; its ending chooses between the two.
        overwrite: whether an existing file is replaced, in one step at the very end.
        within: a folder of the caller's on the same disk, in which the file is made before it gets its name: what a kill
            leaves there goes with the folder. By default a new one beside ``target``.

    Returns:
        The run in its new file.

    Raises:
        UsageError: if the ending is neither.
        OutputExists: if the file exists.
        StorageError: if the disk is full, read-only or failing; then nothing is left of the file.
    """
    run, path = open_run(folder), Path(target)
    whole = OneFile.of(run.manifest, {stack: len(rows) for stack, rows in _rows(run).items()}, path)
    check_free(path, overwrite=overwrite)
    free = writing.free_bytes(path)
    if free is not None and free < whole.end:
        room = f"{whole.end:,} bytes are needed, and {free:,} are free"
        raise StorageError(f"cannot write {path}: {room}; free some space first")
    made = writing.new_folder(path) if within is None else nullcontext(within)
    with made as place, writing.new_file(place) as temporary, writing.storing(path, whole.end):
        with temporary.open("r+b") as stream:
            for name, stretches in _tensors(run):
                first = 0
                for x in stretches:
                    whole.put(stream.fileno(), name, torch.arange(first, first + len(x)), x)
                    first += len(x)
        whole.seal(temporary)
        name_file(temporary, path, overwrite=overwrite)
    return open_run(path)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a name that is taken, and make the folder that a file will be in.

    Raises:
        OutputExists: if there is a file that is not to be overwritten, or a folder.
    """
    if path.is_dir():
        raise OutputExists(f"{path} is a folder, and the run would be a file; it is kept: choose another output")
    writing.check_free(path, overwrite=overwrite)
    writing.make_folder(path.absolute().parent)


def name_file(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a whole file its name, when its bytes are on the disk.

    Raises:
        OutputExists: if another process has made a file of that name meanwhile.
    """
    files.sync_file(temporary)
    if not writing.publish(temporary, path, replace=overwrite):
        raise OutputExists(f"{path} was made meanwhile by another process and is kept")


def _rows(run: Run) -> dict[str, Rows]:
    """The rows of each stack, in the order of the stacks."""
    first = {run.manifest.stack(site): site for site in reversed(run.sites)}
    return {stack: run.rows_at(first[stack]) for stack in run.manifest.stacks}


def _tensors(run: Run) -> Iterator[tuple[str, Iterable[Tensor]]]:
    """Every tensor by name, as stretches of its rows, which are read when needed."""
    for site in run.sites:
        yield str(site), run.stretches(site)
    for stack, rows in _rows(run).items():
        for key, x in zip(PLACES, (rows.sample, rows.position, rows.role), strict=True):
            yield f"rows/{stack}/{key}", [x]
