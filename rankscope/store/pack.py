"""Writing a run as one file, a stretch of rows at a time (``FORMAT.md``, One file)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from rankscope.errors import OutputExists, StorageError, UsageError
from rankscope.features import Rows
from rankscope.store import files, ptfile
from rankscope.store.layout import PLACES
from rankscope.store.opening import open_run
from rankscope.store.run import Run
from rankscope.store.single import strings
from rankscope.store.tensors import header, raw

SUFFIXES = (".pt", ".safetensors")
"""The endings of a run in one file."""


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
            leaves there goes with the folder. By default that of ``target``.

    Returns:
        The run in its new file.

    Raises:
        UsageError: if the ending is neither.
        OutputExists: if the file exists.
        StorageError: if the disk is full, read-only or failing; then nothing is left of the file.
    """
    run, path = open_run(folder), Path(target)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"a run in one file ends in {' or '.join(SUFFIXES)}; {path.name!r} does not")
    if os.path.lexists(path) and (path.is_dir() or not overwrite):
        raise OutputExists(f"{path} exists and is kept{'' if path.is_dir() else ' unless --overwrite is given'}")
    files.make_folder(path.absolute().parent)
    needed, free = _size(run), files.free_bytes(path)
    if free is not None and free < needed:
        room = f"{needed:,} bytes are needed, and {free:,} are free"
        raise StorageError(f"cannot write {path}: {room}; free some space first")
    with files.new_file(path.parent if within is None else within) as temporary, files.storing(path, needed):
        (_write_pt if path.suffix == ".pt" else _write_safetensors)(run, temporary)
        with files.reading(temporary) as fd:
            os.fsync(fd)  # the bytes before the name, as for every file of a store
        if not files.publish(temporary, path, replace=overwrite):
            raise OutputExists(f"{path} was made meanwhile by another process and is kept")
    return open_run(path)


def _size(run: Run) -> int:
    m = run.manifest
    features = sum(run.n(site) * run.width(site) for site in run.sites) * m.torch_dtype.itemsize
    # Of each row: sample and position (8 bytes each) and role (1).
    return features + 17 * sum(len(rows) for rows in _rows(run).values())


def _rows(run: Run) -> dict[str, Rows]:
    """The rows of each stack, in the order of the stacks."""
    first = {run.manifest.stack(site): site for site in reversed(run.sites)}
    return {stack: run.rows_at(first[stack]) for stack in run.manifest.stacks}


def _shapes(run: Run) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The dtype and shape of every tensor by name: the sites, then the rows of each stack."""
    m = run.manifest
    sites = {str(site): (m.torch_dtype, (run.n(site), run.width(site))) for site in run.sites}
    places = {f"rows/{s}/{k}": (dtype, (len(rows),)) for s, rows in _rows(run).items() for k, dtype in PLACES.items()}
    return {**sites, **places}


def _tensors(run: Run) -> Iterator[tuple[str, Iterable[Tensor]]]:
    """Every tensor by name in the order of :func:`_shapes`, as stretches of its rows, which are read when needed."""
    for site in run.sites:
        yield str(site), run.stretches(site)
    for stack, rows in _rows(run).items():
        for name, x in zip(PLACES, (rows.sample, rows.position, rows.role), strict=True):
            yield f"rows/{stack}/{name}", [x]


def _hashed(stretches: Iterable[Tensor], sha: hashlib._Hash) -> Iterator[memoryview]:
    """The bytes of a tensor, a stretch at a time, each added to its digest."""
    for x in stretches:
        data = raw(x)
        sha.update(data)
        yield data


def _write_safetensors(run: Run, path: Path) -> None:
    """Write the tensors, then the header, into the place kept for it: only then are the digests known."""
    shapes = _shapes(run)
    # Digests of zeros, as long as the true ones, so that the header keeps its length.
    digests = dict.fromkeys(shapes, "0" * 64)
    with path.open("r+b") as stream:
        stream.truncate(0)
        stream.write(header(shapes, strings(run.manifest, digests)))
        for name, stretches in _tensors(run):
            stream.writelines(_hashed(stretches, sha := hashlib.sha256()))
            digests[name] = sha.hexdigest()
        stream.seek(0)
        stream.write(header(shapes, strings(run.manifest, digests)))


def _write_pt(run: Run, path: Path) -> None:
    digests, references = {}, {}
    shapes = _shapes(run)
    with ptfile.sealed_archive(path) as archive:
        for i, (name, stretches) in enumerate(_tensors(run)):
            ptfile.add(archive, f"data/{i}", _hashed(stretches, sha := hashlib.sha256()))
            digests[name] = sha.hexdigest()
            references[name] = ptfile.Reference(i, *shapes[name])
        features = {str(site): references[str(site)] for site in run.sites}
        rows = {stack: {key: references[f"rows/{stack}/{key}"] for key in PLACES} for stack in run.manifest.stacks}
        ptfile.add_dictionary(archive, {**strings(run.manifest, digests), "features": features, "rows": rows})
