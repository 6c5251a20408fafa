"""Completing a store, tidying it, and throwing it away."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from rankscope import writing
from rankscope.errors import OutputExists, StorageError, StoreCorrupt, StoreLocked
from rankscope.store import files, layout
from rankscope.store.manifest import Manifest, is_plan


def complete(path: Path, manifest: Manifest, batches: Collection[int], *, known: Mapping[int, layout.Commit]) -> int:
    """Writes ``index.json`` if every batch is committed, then tidies up.

    Args:
        path: the folder.
        manifest: the content of its ``store.json``.
        batches: the ids of all batches of the plan.
        known: commits whose shards this process has written or checked; those of others are hashed here.

    Returns:
        Number of batches that are missing, or whose shard is not what was committed.
    """
    found = {b: c for b, c in layout.read_commits(path, manifest).items() if b in batches}
    commits = {**{b: c for b, c in found.items() if b not in known and layout.is_whole(path, c)}, **known}
    missing = len(batches) - len(commits)
    if missing and (path / layout.INDEX).exists():  # another process has completed it meanwhile
        return 0
    if not missing:
        # Written last of all, so that its presence means that the run is complete (FORMAT.md, Writing, 5).
        writing.write_new(path / layout.INDEX, layout.index_bytes(manifest, commits))
        tidy(path, commits)
    return missing


def tidy(path: Path, batches: Collection[int]) -> None:
    """Remove from a finished store everything that only its making needed: its bytes then depend on the run alone.

    The lock goes last: until then no other writer can join, which would find the folder untidy and take it for its own; and a
    process that dies before that leaves a lock, by which the next run sees that it did.
    """
    sweep(path, batches)
    _empty_folder(path / layout.COMMITS)
    writing.remove(path / layout.LOCK)


def tidy_finished(path: str | Path) -> None:
    """Tidy a finished store that its writer left untidy, because it was killed after ``index.json``.

    Nothing happens if there is nothing to tidy, if another process is at it, or if the disk takes no changes: the run is complete
    all the same.
    """
    folder = Path(path)
    untidy = any((folder / name).exists() for name in (layout.COMMITS, layout.LOCK))
    if untidy and (folder / layout.INDEX).exists():
        with suppress(StoreLocked, StorageError), layout.locked(folder / layout.LOCK):
            tidy(folder, layout.read_index(folder / layout.INDEX, layout.read_manifest(folder / layout.MANIFEST)))


def sweep(path: Path, batches: Collection[int]) -> None:
    """Remove temporary files and the shards of all but these batches: what processes that died have left."""
    kept = {layout.shard_name(batch) for batch in batches}
    for folder in (path, path / layout.SHARDS):
        for name in files.names_in(folder):
            stray = folder != path and layout.is_shard_name(name) and name not in kept
            if stray or writing.is_temporary(name):  # anything else is not a store's, and whoever put it there keeps it
                writing.remove(folder / name)


def empty(path: Path) -> None:
    """Remove a store's files except its lock.

    ``index.json`` goes first, so that no half of it passes for a whole, and ``store.json`` after all that it says to be a store's.
    """
    writing.remove(path / layout.INDEX)
    _empty_folder(path / layout.COMMITS)
    sweep(path, ())
    writing.remove_folder(path / layout.SHARDS)
    for name in (layout.MOVED, layout.KEPT, layout.MANIFEST, layout.PLAN):
        writing.remove(path / name)


def _empty_folder(folder: Path) -> None:
    for name in files.names_in(folder):
        writing.remove(folder / name)
    writing.remove_folder(folder)


def discard(path: str | Path) -> None:
    """Remove a store and its folder. Nothing happens if there is none.

    Raises:
        OutputExists: if something other than a store is there.
        StoreLocked: if it is being written.
    """
    folder = Path(path)
    if not folder.exists():
        return
    refuse_foreign(folder)
    with layout.locked(folder / layout.LOCK):
        empty(folder)
        writing.remove(folder / layout.LOCK)
        writing.remove_folder(folder)


def refuse_foreign(path: Path) -> None:
    """Refuse a path with something other than a store or an empty folder: such a folder is never written into.

    Raises:
        OutputExists: if something else is there; the message says what.
    """
    if path.is_dir() and not (path / layout.MANIFEST).is_file():
        names = files.names_in(path.resolve())
        strange = [name for name in names if not _is_left(path / name) and os.path.lexists(path / name)]
        if strange and not (path / layout.MANIFEST).is_file():  # which another process may have written meanwhile
            found = f"a folder with other things, such as {strange[0]!r}, and no store"
            raise OutputExists(f"{path} is {found}; choose another output")
    elif path.exists() and not path.is_dir():
        raise OutputExists(f"{path} is a file, and a store is a folder; choose another output")


def _is_left(path: Path) -> bool:
    """Whether a file can be what a collect leaves that ends before its ``store.json`` is there, by its name and its content.

    A folder of someone else's may well hold a ``lock`` or a ``plan.jsonl`` of its own.
    """
    if path.is_symlink() or not path.is_file():
        return False
    try:
        if path.name == layout.LOCK:
            return layout.is_signature(files.read_small(path, layout.SIGNATURE_LIMIT))
        return writing.is_temporary(path.name) or (path.name == layout.PLAN and is_plan(path))
    except StoreCorrupt:
        return False
