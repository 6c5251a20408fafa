"""The folder of a store: the names in it, its lock, its commit logs and its index."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rankscope.errors import StorageError, StoreCorrupt, StoreLocked
from rankscope.store import files
from rankscope.store.files import COLLECT_AGAIN
from rankscope.store.manifest import Manifest
from rankscope.store.plain import Json, document, line, member, read_sealed, sealed, unsealed

FORMAT = "rankscope-store"
SHARD_FORMAT = "rankscope-shard"
VERSION = 1
MANIFEST, PLAN, INDEX, LOCK, SHARDS, COMMITS = "store.json", "plan.jsonl", "index.json", "lock", "shards", "commits"

PLACES = {"sample": torch.int64, "position": torch.int64, "role": torch.uint8}
"""What is stored of each row of a stack, and as what: tensors named ``rows/<stack>/<key>``."""

LOG_LIMIT = 1 << 30
"""The longest commit log that is read, in bytes."""

_LOG = re.compile(r"rank[0-9]{5,}\.jsonl")


def shard_name(batch: int) -> str:
    """The name of a batch's shard in the folder ``shards``: ``b000017.safetensors``."""
    return f"b{batch:06d}.safetensors"


def log_name(rank: int) -> str:
    """The name of a rank's commit log in the folder ``commits``: ``rank00000.jsonl``."""
    return f"rank{rank:05d}.jsonl"


@dataclass(frozen=True)
class Commit:
    """A shard that is whole on the disk."""

    batch: int
    """The batch."""
    bytes: int
    """The size of its file."""
    sha256: str
    """The digest of its file."""
    rows: dict[str, int]
    """The number of rows at each stack."""
    nonfinite: dict[str, int] = field(default_factory=dict)
    """The number of values that are not finite, at the sites that have some."""

    def to_json(self) -> dict[str, Json]:
        """The members of a line of the log, and of the index."""
        rows: dict[str, Json] = {**self.rows}
        bad: dict[str, Json] = {**self.nonfinite}
        file = f"{SHARDS}/{shard_name(self.batch)}"
        return {
            "batch": self.batch,
            "file": file,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "rows": rows,
            "nonfinite": bad,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Json], path: Path) -> Commit:
        """The commit of a line.

        Raises:
            StoreCorrupt: if a member is missing, of another type, or names another file.
        """
        batch, size = member(value, "batch", int, path), member(value, "bytes", int, path)
        rows, bad = (_counts(member(value, key, dict, path), path) for key in ("rows", "nonfinite"))
        commit = cls(batch, size, member(value, "sha256", str, path), rows, bad)
        if batch < 0 or size < 0 or commit.to_json() != value:
            raise StoreCorrupt(f"{path}: no commit of a shard: {str(value)[:120]}; {COLLECT_AGAIN}")
        return commit


def _counts(value: dict[str, Json], path: Path) -> dict[str, int]:
    counts = {k: v for k, v in value.items() if isinstance(v, int) and not isinstance(v, bool) and v >= 0}
    if len(counts) != len(value):
        raise StoreCorrupt(f"{path}: a count of rows or values is not a whole number; {COLLECT_AGAIN}")
    return counts


def manifest_bytes(manifest: Manifest) -> bytes:
    """The bytes of ``store.json``."""
    return document(sealed({"format": FORMAT, "version": VERSION, "manifest": manifest.to_json()}))


def read_manifest(path: Path) -> Manifest:
    """The manifest in a ``store.json``.

    Raises:
        StoreCorrupt: if it is not as it was written, or of a later version of the format.
    """
    value = read_sealed(path)
    _check_format(value, path)
    return Manifest.from_json(member(value, "manifest", dict, path), path)


def _check_format(value: Mapping[str, Json], path: Path) -> None:
    if value.get("format") != FORMAT or value.get("version") != VERSION:
        found = f"{str(value.get('format'))[:40]!r} version {str(value.get('version'))[:20]}"
        raise StoreCorrupt(f"{path}: this rankscope reads {FORMAT!r} version {VERSION}, and it is {found}")


def index_bytes(manifest: Manifest, commits: Mapping[int, Commit]) -> bytes:
    """The bytes of ``index.json``: every shard with its size, digest and rows, in the order of the batches."""
    shards: list[Json] = [commits[batch].to_json() for batch in sorted(commits)]
    total = sum(commit.bytes for commit in commits.values())
    members: dict[str, Json] = {"format": FORMAT, "version": VERSION, "plan_sha256": manifest.plan_digest}
    return document(sealed({**members, "total_bytes": total, "shards": shards}))


def read_index(path: Path, manifest: Manifest) -> dict[int, Commit]:
    """The shards that an ``index.json`` lists.

    Raises:
        StoreCorrupt: if it is not as it was written, or belongs to another plan.
    """
    value = read_sealed(path)
    _check_format(value, path)
    if member(value, "plan_sha256", str, path) != manifest.plan_digest:
        raise StoreCorrupt(f"{path} belongs to another run than {MANIFEST} beside it; {COLLECT_AGAIN}")
    listed = [_commit(item, path) for item in member(value, "shards", list, path)]
    commits = {commit.batch: commit for commit in listed}
    if member(value, "total_bytes", int, path) != sum(commit.bytes for commit in listed):
        raise StoreCorrupt(f"{path}: its total_bytes are not the sum of its shards; {COLLECT_AGAIN}")
    if len(commits) != len(listed) or len(commits) != manifest.batches:
        raise StoreCorrupt(f"{path} lists {len(listed)} shards, and the plan has {manifest.batches}; {COLLECT_AGAIN}")
    return commits


def _commit(item: Json, path: Path) -> Commit:
    if not isinstance(item, dict):
        raise StoreCorrupt(f"{path}: a shard is listed as a {type(item).__name__}; {COLLECT_AGAIN}")
    return Commit.from_json(item, path)


def read_commits(folder: Path, manifest: Manifest) -> dict[int, Commit]:
    """The commits of all ranks of an unfinished store. Lines that are torn, altered or of another run do not count."""
    commits: dict[int, Commit] = {}
    for name in files.names_in(folder / COMMITS):
        if not _LOG.fullmatch(name):
            continue
        path = folder / COMMITS / name
        for text in _lines(path):
            with suppress(StoreCorrupt):
                value = unsealed(text, path, written="line")
                commit = Commit.from_json(member(value, "commit", dict, path), path)
                if value.get("plan_sha256") == manifest.plan_digest:
                    commits[commit.batch] = commit
    return commits


def _lines(path: Path) -> list[bytes]:
    """The lines of a log; none if whoever completed the store has removed it meanwhile."""
    try:
        return files.read_small(path, LOG_LIMIT).splitlines(keepends=True)
    except StoreCorrupt:
        if os.path.lexists(path):
            raise
        return []


def is_whole(folder: Path, commit: Commit) -> bool:
    """Whether the shard of a commit lies there with the bytes that were committed."""
    shard = folder / SHARDS / shard_name(commit.batch)
    return shard.exists() and files.digest_of_file(shard) == (commit.bytes, commit.sha256)


def commit_line(commit: Commit, manifest: Manifest) -> bytes:
    """The line of a commit log, with its own checksum."""
    return line(sealed({"commit": commit.to_json(), "plan_sha256": manifest.plan_digest}))


@contextmanager
def appending(path: Path) -> Iterator[int]:
    """The commit log of a rank, open for adding lines; a torn last line is taken off first.

    Raises:
        StoreLocked: if another process writes the same log.
    """
    with files.storing(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
    try:
        _hold(fd, path, fcntl.LOCK_EX)
        with files.storing(path):
            data = bytearray(os.fstat(fd).st_size)
            files.read_into(fd, path, memoryview(data), 0)
            if not data.endswith(b"\n") and data:
                os.ftruncate(fd, data.rfind(b"\n") + 1)
                os.fsync(fd)
            files.sync_folder(path.parent)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[int]:
    """Holds the lock file; it is let go with its owner, however that ends.

    Raises:
        StoreLocked: at once, if another process holds it.
        StorageError: if the file system has no locks.
    """
    fd = _lock(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield fd
    finally:
        os.close(fd)


def _lock(path: Path, kind: int) -> int:
    while True:
        with files.storing(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _hold(fd, path, kind)
        except (StoreLocked, StorageError):
            os.close(fd)
            raise
        if _is_named(fd, path):
            _sign(fd)
            return fd
        os.close(fd)  # its last owner has removed it meanwhile


def _hold(fd: int, path: Path, kind: int) -> None:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 200, 0).decode(errors="replace").strip() if path.name == LOCK else ""
        by = f" by {owner}" if owner else ""
        raise StoreLocked(
            f"{path} is held{by}: this run is being written; wait for it, or choose another output"
        ) from None
    except OSError as error:
        raise StorageError(f"cannot lock {path}: {error.strerror}; collect to a file system that has locks") from error


def _is_named(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


def _sign(fd: int) -> None:
    text = f"process {os.getpid()} on {socket.gethostname()}\n".encode()
    with suppress(OSError):  # a full disk must not keep a lock from being taken; the text is a courtesy
        os.ftruncate(fd, 0)
        os.pwrite(fd, text, 0)
