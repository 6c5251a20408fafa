"""A finished folder made into one file without a second copy of it: shard by shard, each removed when its rows are in their places.

A move that was killed continues. What lies in the folder meanwhile is in ``FORMAT.md``, One file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rankscope import writing
from rankscope.store import files, layout
from rankscope.store.files import corrupt
from rankscope.store.folder import Folder
from rankscope.store.layout import PLACES
from rankscope.store.onefile import OneFile
from rankscope.store.opening import open_run
from rankscope.store.pack import check_free, name_file
from rankscope.store.run import Places, Run, data_order
from rankscope.store.shard import Contents, Shard
from rankscope.store.tensors import header, raw, read_header, read_rows, read_tensor


def move(folder: Path, target: Path, *, overwrite: bool = False) -> Run:
    """Make a finished folder into one file, as :func:`~rankscope.store.pack` would, but out of the folder's own room.

    The folder is used up: what is left of it is for :func:`~rankscope.store.discard`. Memory holds a shard's rows of one site.

    Args:
        folder: the run; also the place in which the file is made, so on the same disk.
        target: the file; its ending chooses the form.
        overwrite: whether an existing file is replaced, in one step at the very end.

    Returns:
        The run in its file.

    Raises:
        UsageError: if the ending is not that of a run in one file.
        OutputExists: if the file exists.
        StoreCorrupt: if bytes are not those that were committed.
        StoreLocked: if another process is at it.
        StorageError: if the disk is full, read-only or failing; the same call continues.
    """
    check_free(target, overwrite=overwrite)
    moved = folder / layout.MOVED
    with layout.locked(folder / layout.LOCK):
        store = Folder(folder)
        places = _kept_places(folder, store)
        whole = OneFile.of(store.manifest, {stack: len(x[0]) for stack, x in places.items()}, target)
        with writing.storing(moved, whole.end):
            fd = os.open(moved, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                os.ftruncate(fd, whole.end)  # it takes room only where something is written
                writing.sync_folder(folder)
                _fill(fd, moved, whole, store, places)
            finally:
                os.close(fd)
            whole.seal(moved)
        name_file(moved, target, overwrite=overwrite)
    return open_run(target)


def _kept_places(folder: Path, store: Folder) -> dict[str, Places]:
    """Where the rows of each stack came from, in the plan's order: kept in a file of their own before the first shard goes."""
    path, m = folder / layout.KEPT, store.manifest
    if not path.exists():
        tensors = dict[str, Tensor]()
        for stack in m.stacks:
            columns = zip(*(piece.places(stack) for piece in store.pieces), strict=True)
            tensors |= {f"rows/{stack}/{key}": torch.cat(column) for key, column in zip(PLACES, columns, strict=True)}
        head = header({name: (x.dtype, x.shape) for name, x in tensors.items()}, {"plan_sha256": m.plan_digest})
        writing.publish(writing.write_temporary(path, [head, *map(raw, tensors.values())]), path)
    counts = {stack: sum(piece.count(stack) for piece in store.pieces) for stack in m.stacks}
    names = [f"rows/{stack}/{key}" for stack in m.stacks for key in PLACES]
    with files.reading(path) as fd:
        metadata, entries = read_header(fd, path)
        if metadata.get("plan_sha256") != m.plan_digest or list(entries) != names:
            raise corrupt(f"{path} is of another run")
        found = {name: read_tensor(fd, path, entry) for name, entry in entries.items()}
    kept = {s: (found[f"rows/{s}/sample"], found[f"rows/{s}/position"], found[f"rows/{s}/role"]) for s in m.stacks}
    if any(len(x) != counts[stack] for stack, columns in kept.items() for x in columns):
        raise corrupt(f"{path} has not the rows that were committed")
    return kept


def _fill(fd: int, path: Path, whole: OneFile, store: Folder, places: Mapping[str, Places]) -> None:
    """Put every row into its place, and remove the shards that are there no longer for anything."""
    belongs = {}
    for stack, columns in places.items():
        order = data_order(columns[0], columns[1])
        belongs[stack] = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        for key, x in zip(PLACES, columns, strict=True):
            whole.put(fd, f"rows/{stack}/{key}", torch.arange(len(order)), x[order])
    first = dict.fromkeys(places, 0)
    for piece in store.pieces:
        here = {stack: slice(begun, begun + piece.count(stack)) for stack, begun in first.items()}
        mine = {stack: tuple(x[here[stack]] for x in columns) for stack, columns in places.items()}
        to = {stack: belongs[stack][here[stack]] for stack in places}
        if piece.path.exists():
            _put(fd, path, whole, piece, mine, to)
            os.fsync(fd)  # before the shard goes, which has held the rows until now
            writing.remove(piece.path)
        else:
            _check(fd, path, whole, piece, mine, to)
        first = {stack: rows.stop for stack, rows in here.items()}


def _put(
    fd: int, path: Path, whole: OneFile, piece: Shard, mine: Mapping[str, tuple[Tensor, ...]], to: Mapping[str, Tensor]
) -> None:
    """Put the rows of a shard that is there into their places."""
    for stack, columns in mine.items():
        if not all(map(torch.equal, piece.places(stack), columns)):
            raise corrupt(f"{path.parent / layout.KEPT} does not say where the rows of {piece.path} come from")
    for site in whole.manifest.sites:
        rows = to[whole.manifest.stack(site)]
        whole.put(fd, site, rows, piece.features(site, torch.arange(len(rows))))


def _check(
    fd: int, path: Path, whole: OneFile, piece: Shard, mine: Mapping[str, tuple[Tensor, ...]], to: Mapping[str, Tensor]
) -> None:
    """Check the rows of a shard that is gone: put together as it was, they must give the bytes that were committed.

    Raises:
        StoreCorrupt: if they do not.
    """
    tensors = {}
    for site in whole.manifest.sites:
        ascending, place = to[whole.manifest.stack(site)].sort()
        found = read_rows(fd, path, whole.entries[site], ascending)
        tensors[site] = torch.empty_like(found).index_copy_(0, place, found)
    tensors |= {f"rows/{s}/{key}": x for s, columns in mine.items() for key, x in zip(PLACES, columns, strict=True)}
    commit, _ = Contents(piece.batch, whole.manifest, tensors).encode(piece.commit.nonfinite)
    if commit != piece.commit:
        raise corrupt(f"{path} has lost rows of batch {piece.batch.id}, whose shard is gone")
