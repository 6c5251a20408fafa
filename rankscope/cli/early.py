"""What a command can refuse at once: what is missing, what is in the way. Torch takes seconds to import, and is not needed for it.

What is said here, the library would say too, later.
"""

from __future__ import annotations

import json
import os
import pickletools
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rankscope.catalogue import check_measure, listed
from rankscope.checkpoint import Checkpoint, fetching, processor_folder
from rankscope.checkpoint.kinds import in_cache, is_repository
from rankscope.collecting.request import OF_A_STORE, SINGLE
from rankscope.errors import DataError, NotComparable, OutputExists, StorageError, StoreError, UsageError
from rankscope.markdown import check_place
from rankscope.sites import Site, select
from rankscope.tuning.output import check_free as check_free_for_training
from rankscope.tuning.recipes import recipe_of
from rankscope.writing import check_free

_NO_FIGURE = {
    ".pt",
    ".safetensors",
    ".npz",
    ".npy",
    ".csv",
    ".json",
    ".html",
    ".jpg",
    ".jpeg",
    ".gif",
    ".webp",
    ".tif",
    ".eps",
    ".ps",
}
"""Suffixes that mean another kind of file, rather than belong to the name of a figure."""
_HEAD = 2048
"""Within how many bytes a report says what it is."""
_RUN = "rankscope-run"
"""What every run in one file holds among its strings (FORMAT.md, One file)."""


def need_stored(*runs: Path | None) -> None:
    """See that there is something at the path of each run. Raises :class:`StoreError` if there is not."""
    for path in filter(None, runs):
        if not path.exists():
            hub = ", and --download fetches a checkpoint of this name from the Hub"
            raise StoreError(
                f"there is no run at {path}; 'rankscope collect CHECKPOINT --out {path}' makes one"
                f"{hub if path.parts[1:] and is_repository(str(path)) else ''}"
            )


def need_runs(*runs: Path | None, base_model: str | None) -> None:
    """See that there are runs, or checkpoints in their place.

    Raises:
        StoreError: if there is neither.
        CheckpointError: if there is a folder that is neither.
    """
    for path in filter(None, runs):
        if not path.exists() and in_cache(str(path)) is None:
            need_stored(path)
        if not path.is_file() and not _is_store(path):
            Checkpoint.read(path, base_model=base_model)


def fetch_checkpoints(*runs: Path | None, base_model: str | None) -> None:
    """Fetch the checkpoints among some runs that are named by repository and are not here. Raises :class:`CheckpointError`."""
    for path in filter(None, runs):
        if not path.is_file() and not _is_store(path):
            fetching.fetch(path, base_model=base_model)


def need_rows(*runs: Path) -> None:
    """See that no run holds sums in the place of rows, where it says what it has. Raises :class:`NotComparable` if one does."""
    for run in runs:
        if _manifest(run).get("pooling", {}).get("kept"):
            raise NotComparable(
                f"{run} holds sums over rows, and no sample's own rows, of which --examples tells; collect with --keep rows"
            )


def need_sites(spec: str, *runs: Path) -> None:
    """See that runs share the sites asked for, where all of them say what they have; the library finds out of the others.

    Raises:
        UnknownName: if they do not.
    """
    there = [sites for run in runs if (sites := sites_of(run))]
    if len(there) == len(runs) and (shared := [s for s in there[0] if all(s in sites for sites in there)]):
        select(spec, shared)


def need_numbers_of_one_run(measures: str | None) -> None:
    """See that no measure relates two runs. Raises :class:`UsageError` if one does."""
    for name in listed(measures) if measures else ():
        check_measure(name, relations=False)


def need_checkpoint(
    checkpoint: Sequence[Path] | Path, *, base_model: str | None = None, processor: Path | None = None
) -> None:
    """See that there is a checkpoint, and the tokenizer or processor that was given. Raises :class:`CheckpointError` if not."""
    Checkpoint.read(checkpoint, base_model=base_model)
    if processor is not None:
        processor_folder(processor)


def need_checkpoints(folders: Sequence[Path], *, base_model: str | None = None) -> None:
    """See that each folder is a checkpoint, or one in which the Trainer put some. Raises :class:`CheckpointError` if not."""
    for folder in folders:
        for one in sorted(folder.glob("checkpoint-*")) or [folder]:
            Checkpoint.read(one, base_model=base_model)


def need_data(spec: str | None) -> None:
    """See that there are such data, as :func:`rankscope.open_data` takes them. Raises :class:`DataError` if there are not."""
    from rankscope.data.open import is_carried, open_data, path_and_split, recognise

    if spec is None:
        return
    if is_carried(spec):
        open_data(spec)
        return
    if not (path := path_and_split(spec)[0]).exists():
        recognise(path)  # refuses it


def need_file(path: Path) -> None:
    """See that there is a file or folder. Raises :class:`DataError` if there is not."""
    if not path.exists():
        raise DataError(f"no such file: {path}")


def need_free(out: Path | None, *, overwrite: bool = False) -> None:
    """See that nothing is where a command will write. Raises :class:`OutputExists` if something is that it may not replace."""
    if out is not None:
        check_free(out, overwrite=overwrite)


def need_place(card: Path) -> None:
    """See that a block can be put into a model card. Raises as :func:`rankscope.markdown.check_place`."""
    check_place(card)


def need_figure(plot: Path | None) -> None:
    """See that a figure can be put where it is asked for.

    Raises:
        UsageError: for the suffix of a kind that is not drawn, or of a run.
        StorageError: if its folder cannot be made.
    """
    if plot is None:
        return
    if plot.suffix.lower() in _NO_FIGURE or _is_store(plot):
        raise UsageError(
            f"{plot} can be no figure: a figure is .svg, .pdf or .png, or all three without a suffix; --plot without a path "
            "stands last, or before another option"
        )
    there = plot if plot.is_dir() else next(folder for folder in plot.absolute().parents if folder.exists())
    if not there.is_dir():
        raise StorageError(f"cannot write {plot}: {there} is no folder; choose another --plot")
    if not os.access(there, os.W_OK):
        raise StorageError(f"cannot write {plot}: this user may not write in {there}; choose another --plot")


def need_report(report: Path | None) -> None:
    """See that a report can be put where it is asked for.

    Raises:
        UsageError: for another suffix than that of HTML.
        OutputExists: if something is there that is no report.
    """
    if report is None or report.is_dir():
        return
    if report.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"{report} can be no report, which is .html; --report without a path stands last, or before another option"
        )
    if report.exists() and b'<meta name="generator" content="rankscope ' not in report.read_bytes()[:_HEAD]:
        raise OutputExists(f"{report} exists and is no report; it is kept: choose another --report")


def need_free_for_run(
    out: Path | None,
    *,
    overwrite: bool,
    checkpoint: Sequence[Path] = (),
    base_model: str | None = None,
    suffix: str = ".pt",
) -> None:
    """See that nothing stands where a run is to be made, but for a run, which may be this one.

    Args:
        out: the run; None for the name of the checkpoint with the suffix.
        overwrite: whether it may replace what is there.
        checkpoint: what would be collected.
        base_model: its base.
        suffix: how its name ends where none was given.

    Raises:
        OutputExists: if something else is there.
        CheckpointError: if the name of the checkpoint is needed, and there is none.
    """
    if out is None:
        out = Path(f"{Checkpoint.read(checkpoint, base_model=base_model).name}{suffix}")
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
        check_free_for_training(out, resume=resume, overwrite=overwrite)


def _is_store(folder: Path) -> bool:
    return any((folder / name).exists() for name in OF_A_STORE)


def _may_be_run(path: Path) -> bool:
    """Whether a path looks like a run, finished or not; what it is is found out by opening it."""
    if path.is_dir():
        return not any(path.iterdir()) or _is_store(path)
    return _RUN in _strings_of(path)


def _strings_of(path: Path) -> Sequence[str]:
    """The strings that a run in one file begins with, unchecked and without running anything; of another file, others or none."""
    with suppress(OSError, KeyError, ValueError, zipfile.BadZipFile):
        if not zipfile.is_zipfile(path):
            with path.open("rb") as stream:
                header = json.loads(stream.read(min(int.from_bytes(stream.read(8), "little"), 1 << 28)))
            return [text for pair in header["__metadata__"].items() for text in pair]
        with zipfile.ZipFile(path) as archive:
            pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
        return [text for _, text, _ in pickletools.genops(pickled) if isinstance(text, str)]
    return ()


def sites_of(run: Path) -> Sequence[Site]:
    """The sites of a run, as it says itself; none if it does not."""
    with suppress(ValueError, KeyError, TypeError):
        return [Site.parse(text) for text in _manifest(run)["order"]]
    return ()


def _manifest(run: Path) -> Mapping[str, Any]:
    """The manifest of a run, unchecked; empty where there is none to be read."""
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        if run.is_dir():
            found = json.loads((run / "store.json").read_bytes())["manifest"]
        else:
            strings = _strings_of(run)
            found = json.loads(strings[strings.index("manifest") + 1])
        return found if isinstance(found, dict) else {}
    return {}
