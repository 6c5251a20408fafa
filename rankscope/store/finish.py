"""Completing a store, tidying it, and throwing it away."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from rankscope.errors import OutputExists, StoreIncomplete
from rankscope.store import files, layout
from rankscope.store.manifest import Manifest, read_plan

_OURS = {layout.MANIFEST, layout.PLAN, layout.INDEX, layout.LOCK, layout.SHARDS, layout.COMMITS}


def complete(
    path: Path, manifest: Manifest, batches: Collection[int], *, known: Mapping[int, layout.Commit], tag: str = ""
) -> int:
    """Writes ``index.json`` if every batch is committed, then tidies up.

    Args:
        path: the folder.
        manifest: what stands in its ``store.json``.
        batches: the ids of all batches of the plan.
        known: commits whose shards this process has written or checked; those of others are hashed here.
        tag: what tells this process's temporary files from those of others that may complete it at the same time.

    Returns:
        The number of batches that are missing, or whose shard is not what was committed.
    """
    found = {b: c for b, c in layout.read_commits(path, manifest).items() if b in batches}
    commits = {**{b: c for b, c in found.items() if b not in known and layout.is_whole(path, c)}, **known}
    missing = len(batches) - len(commits)
    if missing and (path / layout.INDEX).exists():  # another process has completed it meanwhile
        return 0
    if not missing:
        files.write_new(path / layout.INDEX, layout.index_bytes(manifest, commits), tag=tag)
        tidy(path, commits)
    return missing


def finalize(path: str | Path) -> bool:
    """Completes a store whose batches were committed by several processes, should the last of them have died.

    Returns:
        Whether the store is complete.

    Raises:
        StoreIncomplete: if batches are missing; the message counts them.
        StoreLocked: if it is still being written.
    """
    folder = Path(path)
    if (folder / layout.INDEX).exists():
        return True
    manifest = layout.read_manifest(folder / layout.MANIFEST)
    plan = read_plan(folder / layout.PLAN, manifest)
    with layout.locked(folder / layout.LOCK):
        missing = complete(folder, manifest, {batch.id for batch in plan}, known={})
    if missing:
        raise StoreIncomplete(f"{folder}: {missing} of {len(plan)} batches are not committed; run the collect again")
    return True


def tidy(path: Path, batches: Collection[int]) -> None:
    """Removes from a finished store all that only its making needed: afterwards the bytes tell nothing of it.

    The folder of the commit logs goes last, so that its absence means that tidying is done.
    """
    kept = {layout.shard_name(batch) for batch in batches}
    for folder in (path, path / layout.SHARDS):
        for name in files.names_in(folder):
            if name.startswith(files.TEMPORARY) or (folder != path and name not in kept):
                files.remove(folder / name)
    files.remove(path / layout.LOCK)
    _empty_folder(path / layout.COMMITS)


def empty(path: Path) -> None:
    """Removes a store's files, all but its lock; ``index.json`` first, so that no half of it passes for a whole."""
    files.remove(path / layout.INDEX)
    _empty_folder(path / layout.COMMITS)
    for name in (layout.MANIFEST, layout.PLAN):
        files.remove(path / name)
    _empty_folder(path / layout.SHARDS)
    for name in files.names_in(path):
        if name.startswith(files.TEMPORARY):
            files.remove(path / name)


def _empty_folder(folder: Path) -> None:
    for name in files.names_in(folder):
        files.remove(folder / name)
    files.remove_folder(folder)


def discard(path: str | Path) -> None:
    """Removes a store and its folder. Nothing happens where there is none.

    Raises:
        OutputExists: if something else than a store lies there.
        StoreLocked: if it is being written.
    """
    folder = Path(path)
    if not folder.exists():
        return
    refuse_foreign(folder)
    with layout.locked(folder / layout.LOCK):
        empty(folder)
        files.remove(folder / layout.LOCK)
        files.remove_folder(folder)


def refuse_foreign(path: Path) -> None:
    """Refuses a path at which something else than a store or an empty folder lies: it is never written into.

    Raises:
        OutputExists: saying what lies there.
    """
    if path.is_dir() and not (path / layout.MANIFEST).is_file():
        strange = [n for n in files.names_in(path.resolve()) if n not in _OURS and not n.startswith(files.TEMPORARY)]
        if strange:
            raise OutputExists(
                f"{path} is a folder with other things, such as {strange[0]!r}, and no store; choose another output"
            )
    elif path.exists() and not path.is_dir():
        raise OutputExists(f"{path} is a file, and a store is a folder; choose another output")
