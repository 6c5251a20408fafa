"""What a command can refuse at once: what is missing, what is in the way. Torch takes seconds to import, and is not needed for it.

What is said here, the library would say too, later.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rankscope.checkpoint import Checkpoint, processor_folder
from rankscope.collecting.request import OF_A_STORE, SINGLE
from rankscope.errors import DataError, OutputExists, StoreError
from rankscope.tuning.output import check_free
from rankscope.tuning.recipes import recipe_of

_RUN = b"rankscope-run"
"""What every run in one file holds among its strings (FORMAT.md, One file)."""


def need_stored(*runs: Path | None) -> None:
    """See that there is something at the path of each run. Raises :class:`StoreError` if there is not."""
    for path in filter(None, runs):
        if not path.exists():
            raise StoreError(f"there is no run at {path}; 'rankscope collect CHECKPOINT --out {path}' makes one")


def need_runs(*runs: Path | None, base_model: str | None) -> None:
    """See that there are runs, or checkpoint folders in their place.

    Raises:
        StoreError: if there is neither.
        CheckpointError: if there is a folder that is neither.
    """
    need_stored(*runs)
    for path in filter(None, runs):
        if path.is_dir() and not _is_store(path):
            Checkpoint.read(path, base_model=base_model)


def need_checkpoint(
    checkpoint: Sequence[Path] | Path, *, base_model: str | None = None, processor: Path | None = None
) -> None:
    """See that there is a checkpoint, and the tokenizer or processor that was given. Raises :class:`CheckpointError` if not."""
    Checkpoint.read(checkpoint, base_model=base_model)
    if processor is not None:
        processor_folder(processor)


def need_data(spec: str | None) -> None:
    """See that there are such data, as :func:`rankscope.open_data` takes them. Raises :class:`DataError` if there are not."""
    from rankscope.data.open import is_carried, path_and_split, recognise

    if spec is None or is_carried(spec):
        return
    if not (path := path_and_split(spec)[0]).exists():
        recognise(path)  # refuses it


def need_file(path: Path) -> None:
    """See that there is a file or folder. Raises :class:`DataError` if there is not."""
    if not path.exists():
        raise DataError(f"no such file: {path}")


def need_free(out: Path | None, *, overwrite: bool = False) -> None:
    """See that nothing is where a command will write. Raises :class:`OutputExists` if something is that it may not replace."""
    if out is not None and out.exists() and not overwrite:
        raise OutputExists(f"{out} exists and is kept unless --overwrite is given")


def need_free_for_run(
    out: Path | None, *, overwrite: bool, checkpoint: Sequence[Path] = (), base_model: str | None = None
) -> None:
    """See that nothing stands where a run is to be made, but for a run, which may be this one.

    Args:
        out: the run; None for the name of the checkpoint with ``.pt``.
        overwrite: whether it may replace what is there.
        checkpoint: what would be collected.
        base_model: its base.

    Raises:
        OutputExists: if something else is there.
        CheckpointError: if the name of the checkpoint is needed, and there is none.
    """
    if out is None:
        out = Path(f"{Checkpoint.read(checkpoint, base_model=base_model).name}.pt")
    if not out.exists():
        return
    single = out.suffix in SINGLE
    if out.is_dir() == single:
        kind = "a folder, and the run would be a file" if single else "a file, and the run would be a folder"
        raise OutputExists(f"{out} is {kind}; it is kept: choose another --out")
    if not _may_be_run(out) and not (single and overwrite):
        more = ", or --overwrite to replace it" if single else ""
        raise OutputExists(f"{out} exists and is no run; it is kept: choose another --out{more}")


def need_recipe(options: Mapping[str, Any], out: Path | None, *, resume: bool, overwrite: bool) -> None:
    """See that the options make a recipe, and that the folder of the tuned checkpoint is free.

    Raises:
        UnknownName, UsageError: as :func:`rankscope.tuning.recipes.recipe_of`.
        OutputExists: as :func:`rankscope.tuning.output.check_free`.
    """
    recipe_of(options)
    # Of torchrun's processes the first makes the folder, and the others may find it there.
    if out is not None and os.environ.get("RANK", "0") == "0":
        check_free(out, resume=resume, overwrite=overwrite)


def _is_store(folder: Path) -> bool:
    return any((folder / name).exists() for name in OF_A_STORE)


def _may_be_run(path: Path) -> bool:
    """Whether a path looks like a run, finished or not; what it is is found out by opening it."""
    if path.is_dir():
        return not any(path.iterdir()) or _is_store(path)
    with suppress(OSError, KeyError, zipfile.BadZipFile):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return any(_RUN in archive.read(n) for n in archive.namelist() if n.endswith("/data.pkl"))
        with path.open("rb") as stream:
            return _RUN in stream.read(min(int.from_bytes(stream.read(8), "little"), 1 << 28))
    return False
