"""The folder of a store: the names in it, its lock, its commit logs and its index (``FORMAT.md``, The folder)."""

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

from rankscope import writing
from rankscope.errors import StorageError, StoreCorrupt, StoreLocked
from rankscope.store import files
from rankscope.store.files import corrupt
from rankscope.store.manifest import Manifest
from rankscope.store.plain import Json, document, line, member, read_sealed, sealed, unsealed
from rankscope.store.sums import Summing

FORMAT = "rankscope-store"
SHARD_FORMAT = "rankscope-shard"
VERSION = 1
MANIFEST, PLAN, INDEX, LOCK, SHARDS, COMMITS = "store.json", "plan.jsonl", "index.json", "lock", "shards", "commits"
MOVED, KEPT = "moved", "places"  # what a folder holds while it is made into one file

PLACES = {"sample": torch.int64, "position": torch.int64, "role": torch.uint8}
"""What is stored about each row of a stack, and its dtype: tensors named ``rows/<stack>/<key>``."""

LOG_LIMIT = 1 << 30
"""The longest commit log that is read, in bytes."""

SIGNATURE_LIMIT = 1 << 10
"""The longest lock that is read, in bytes."""

_LOG = re.compile(r"rank[0-9]{5,}\.jsonl")
_SIGNED = b"process "
_SHARD = re.compile(r"b[0-9]{6,}\.safetensors")


def shapes(
    manifest: Manifest, counts: Mapping[str, int], samples: int = 0
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The dtype and shape of every tensor of a shard, or of a run in one file, in their order: the sites, then the rows of each stack.

    Args:
        manifest: what the run is.
        counts: the number of rows at each stack.
        samples: the number of samples of the shard, for one of sums.
    """
    m = manifest
    if (summing := Summing.of(m)) is not None:
        return summing.shapes(m, counts, samples)
    sites = {site: (m.torch_dtype, (counts[m.stack(site)], m.width(site))) for site in m.sites}
    places = {f"rows/{s}/{key}": (dtype, (counts[s],)) for s in m.stacks for key, dtype in PLACES.items()}
    return {**sites, **places}


def shard_name(batch: int) -> str:
    """The name of a batch's shard in the folder ``shards``: ``b000017.safetensors``."""
    return f"b{batch:06d}.safetensors"


def is_shard_name(name: str) -> bool:
    """Whether a name is that of a shard, of whatever batch."""
    return _SHARD.fullmatch(name) is not None


def log_name(rank: int) -> str:
    """The name of a rank's commit log in the folder ``commits``: ``rank00000.jsonl``."""
    return f"rank{rank:05d}.jsonl"


@dataclass(frozen=True)
class Commit:
    """The record of a shard that is whole on the disk (``FORMAT.md``, Commit)."""

    batch: int
    """The id of its batch."""
    bytes: int
    """The size of its file."""
    sha256: str
    """The digest of its file."""
    rows: dict[str, int]
    """Number of rows at each stack."""
    nonfinite: dict[str, int] = field(default_factory=dict)
    """Number of values that are not finite, at the sites that have some."""

    def to_json(self) -> dict[str, Json]:
        """The commit as it is written into a line of the log, and into the index."""
        file = f"{SHARDS}/{shard_name(self.batch)}"
        counts: dict[str, Json] = {"rows": {**self.rows}, "nonfinite": {**self.nonfinite}}
        return {"batch": self.batch, "file": file, "bytes": self.bytes, "sha256": self.sha256, **counts}

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
            raise corrupt(f"{path}: not a commit of a shard: {str(value)[:120]}")
        return commit


def _counts(value: dict[str, Json], path: Path) -> dict[str, int]:
    counts = {k: v for k, v in value.items() if isinstance(v, int) and not isinstance(v, bool) and v >= 0}
    if len(counts) != len(value):
        raise corrupt(f"{path}: a count of rows or values is not a whole number")
    return counts


def manifest_bytes(manifest: Manifest) -> bytes:
    """The bytes of ``store.json``."""
    return document(sealed({"format": FORMAT, "version": VERSION, "manifest": manifest.to_json()}))


def read_manifest(path: Path) -> Manifest:
    """The manifest in a ``store.json``.

    Raises:
        StoreCorrupt: if it was altered, or belongs to a later version of the format.
    """
    value = read_sealed(path)
    _check_format(value, path)
    return Manifest.from_json(member(value, "manifest", dict, path), path)


def _check_format(value: Mapping[str, Json], path: Path) -> None:
    if value.get("format") != FORMAT or value.get("version") != VERSION:
        found = f"{str(value.get('format'))[:40]!r} version {str(value.get('version'))[:20]}"
        raise StoreCorrupt(f"{path} is {found}; this rankscope reads {FORMAT!r} version {VERSION}")


def index_bytes(manifest: Manifest, commits: Mapping[int, Commit]) -> bytes:
    """The bytes of ``index.json``: every shard with its size, digest and rows, by batch id (``FORMAT.md``, Index)."""
    shards: list[Json] = [commits[batch].to_json() for batch in sorted(commits)]
    total = sum(commit.bytes for commit in commits.values())
    members: dict[str, Json] = {"format": FORMAT, "version": VERSION, "plan_sha256": manifest.plan_digest}
    return document(sealed({**members, "total_bytes": total, "shards": shards}))


def read_index(path: Path, manifest: Manifest) -> dict[int, Commit]:
    """The shards that an ``index.json`` lists.

    Raises:
        StoreCorrupt: if it was altered, or belongs to another plan.
    """
    value = read_sealed(path)
    _check_format(value, path)
    if member(value, "plan_sha256", str, path) != manifest.plan_digest:
        raise corrupt(f"{path} and the {MANIFEST} beside it belong to different runs")
    shards = member(value, "shards", list, path)
    if not all(isinstance(item, dict) for item in shards):
        raise corrupt(f"{path} lists something other than shards")
    listed = [Commit.from_json(item, path) for item in shards]
    commits = {commit.batch: commit for commit in listed}
    if member(value, "total_bytes", int, path) != sum(commit.bytes for commit in listed):
        raise corrupt(f"{path}: its total_bytes is not the sum of its shards' sizes")
    if len(commits) != len(listed) or len(commits) != manifest.batches:
        raise corrupt(f"{path} lists {len(listed)} shards, and the plan has {manifest.batches}")
    return commits


def read_commits(folder: Path, manifest: Manifest) -> dict[int, Commit]:
    """The commits of all ranks in an unfinished store, by batch.

    Lines that are torn, altered or of another run do not count; of two lines for one batch the later counts.
    """
    commits: dict[int, Commit] = {}
    for name in files.names_in(folder / COMMITS):
        if not _LOG.fullmatch(name):
            continue
        path = folder / COMMITS / name
        for text in _lines(path):
            with suppress(StoreCorrupt):  # a process may have died while it wrote the line
                value = unsealed(text, path, written="line")
                commit = Commit.from_json(member(value, "commit", dict, path), path)
                if value.get("plan_sha256") == manifest.plan_digest:
                    commits[commit.batch] = commit
    return commits


def committed(folder: Path) -> int:
    """The number of lines in the commit logs of a folder, unchecked: how many batches are on the disk, more or less."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / COMMITS).glob("rank*.jsonl"))


def _lines(path: Path) -> list[bytes]:
    """The lines of a log; none if the process that completed the store has removed it meanwhile."""
    try:
        return files.read_small(path, LOG_LIMIT).splitlines(keepends=True)
    except StoreCorrupt:
        if os.path.lexists(path):
            raise
        return []


def is_whole(folder: Path, commit: Commit) -> bool:
    """Whether the shard of a commit is there with the bytes that were committed."""
    shard = folder / SHARDS / shard_name(commit.batch)
    return shard.exists() and files.digest_of_file(shard) == (commit.bytes, commit.sha256)


def commit_line(commit: Commit, manifest: Manifest) -> bytes:
    """The sealed line of a commit log."""
    return line(sealed({"commit": commit.to_json(), "plan_sha256": manifest.plan_digest}))


@contextmanager
def appending(path: Path) -> Iterator[int]:
    """The commit log of a rank, open for adding lines. A torn last line is cut off first.

    Raises:
        StoreLocked: if another process writes the same log.
    """
    with writing.storing(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
    try:
        _hold(fd, path, fcntl.LOCK_EX)
        with writing.storing(path):
            data = files.read_bytes(fd, path, 0, os.fstat(fd).st_size)
            if data and not data.endswith(b"\n"):  # or the next line would be appended to the torn one, and lost too
                os.ftruncate(fd, data.rfind(b"\n") + 1)
                os.fsync(fd)
            writing.sync_folder(path.parent)  # the log may be new, and its name must last
        yield fd
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Hold the lock file. The system releases it when its owner ends, however that happens.

    Yields:
        Whether the file was signed by an earlier owner, who died before removing it, or still shares it. One that has just been
        made, by this process or by another that has yet to lock it, is empty.

    Raises:
        StoreLocked: at once, if another process holds it.
        StorageError: if the file system has no locks.
    """
    while True:
        with writing.storing(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _hold(fd, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            # Between opening and locking, the last owner may have removed the file. A lock on a file without a name
            # would exclude nobody, so only one on the file that has the name now counts.
            if _is_named(fd, path):
                signed = os.fstat(fd).st_size > 0
                _sign(fd)
                yield signed
                return
        finally:
            os.close(fd)


def _hold(fd: int, path: Path, kind: int) -> None:
    """Lock an open file, at once or not at all."""
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
    """Whether ``path`` is the name of the open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def is_signature(data: bytes) -> bool:
    """Whether these are the bytes of a lock: those of :func:`_sign`, or as many of them as were written."""
    return data.startswith(_SIGNED[: len(data)]) and b"\n" not in data[:-1]


def _sign(fd: int) -> None:
    """Write into the lock who holds it, for the message that others get."""
    text = _SIGNED + f"{os.getpid()} on {socket.gethostname()}\n".encode()
    with suppress(OSError):  # a full disk must not keep a lock from being taken: the text is only a courtesy
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        writing.write_all(fd, text)
        os.fsync(fd)  # after a power failure too it tells that somebody had it
