"""A run as a folder of shards, each hashed when it is first read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from rankscope.errors import RankscopeError, StoreCorrupt, StoreIncomplete
from rankscope.store import files, layout
from rankscope.store.files import COLLECT_AGAIN
from rankscope.store.layout import PLACES
from rankscope.store.manifest import Batch, Manifest, read_plan
from rankscope.store.run import Problem, Report, checked_places
from rankscope.store.tensors import Entry, read_header, read_rows, read_tensor


@dataclass
class Shard:
    """One batch of a run in its file."""

    path: Path
    """The file."""
    commit: layout.Commit
    """Its size, digest and rows, as committed."""
    batch: Batch
    """Its samples, as planned."""
    manifest: Manifest
    """The run it belongs to."""
    check: bool
    """Whether it is hashed when it is first read, and again when it has changed since."""
    _seen: tuple[int, int, int] | None = None
    _entries: dict[str, Entry] = field(default_factory=dict)

    def count(self, stack: str) -> int:
        """The number of rows at a stack."""
        return self.commit.rows[stack]

    def places(self, stack: str) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row, ``(n,)`` each: place of the sample, token position, role."""
        with self._open() as (fd, entries):
            found = {name: read_tensor(fd, self.path, entries[f"rows/{stack}/{name}"]) for name in PLACES}
        return checked_places(found, self.manifest, self.path, frozenset(self.batch.samples))

    def features(self, site: str, rows: Tensor | None = None) -> Tensor:
        """``(n, d)`` features, or those of some rows."""
        with self._open() as (fd, entries):
            if rows is None:
                return read_tensor(fd, self.path, entries[site])
            return read_rows(fd, self.path, entries[site], rows)

    @contextmanager
    def _open(self) -> Iterator[tuple[int, dict[str, Entry]]]:
        with files.reading(self.path) as fd:
            status = os.fstat(fd)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen != self._seen:
                self._look(fd, status.st_size)
                self._seen = seen
            yield fd, self._entries

    def _look(self, fd: int, size: int) -> None:
        """Compares the file with its commit, when it is first read and whenever it has changed since."""
        if size != self.commit.bytes:
            raise StoreCorrupt(
                f"{self.path} has {size:,} bytes, and {self.commit.bytes:,} were written; {COLLECT_AGAIN}"
            )
        if self.check and files.digest_of(fd, self.path, 0, size) != self.commit.sha256:
            raise StoreCorrupt(
                f"{self.path} was altered: its SHA-256 is not the one that was committed; {COLLECT_AGAIN}"
            )
        metadata, self._entries = read_header(fd, self.path)
        if metadata.get("plan_sha256") != self.manifest.plan_digest or metadata.get("batch") != str(self.batch.id):
            raise StoreCorrupt(f"{self.path} is a shard of another run or batch; {COLLECT_AGAIN}")
        if {name: (e.dtype, e.shape) for name, e in self._entries.items()} != self._expected():
            raise StoreCorrupt(f"{self.path} does not hold the tensors that its commit tells; {COLLECT_AGAIN}")

    def _expected(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        m, rows = self.manifest, self.commit.rows
        tensors = {site: (m.torch_dtype, (rows[m.stack(site)], m.width(site))) for site in m.sites}
        places = {f"rows/{s}/{name}": (dtype, (rows[s],)) for s in m.stacks for name, dtype in PLACES.items()}
        return {**tensors, **places}


class Folder:
    """A run as a folder."""

    def __init__(self, path: Path, *, check: bool = True, partial: bool = False) -> None:
        self._path = path
        self.manifest = layout.read_manifest(path / layout.MANIFEST)
        """What the run is."""
        plan = {batch.id: batch for batch in read_plan(path / layout.PLAN, self.manifest)}
        if len(plan) != self.manifest.batches:
            raise StoreCorrupt(
                f"{path / layout.PLAN} has {len(plan)} batches, the manifest {self.manifest.batches}; {COLLECT_AGAIN}"
            )
        commits = self._commits(partial)
        stacks = set(self.manifest.stacks)
        if not commits.keys() <= plan.keys() or any(c.rows.keys() != stacks for c in commits.values()):
            raise StoreCorrupt(
                f"{path / layout.INDEX} lists shards of another plan, or of other stacks; {COLLECT_AGAIN}"
            )
        shards = path / layout.SHARDS
        self.parts = tuple(
            Shard(shards / layout.shard_name(b), commits[b], plan[b], self.manifest, check)
            for b in plan
            if b in commits
        )
        """The shards, in the order of the plan."""
        if shards.is_symlink():
            raise StoreCorrupt(f"{shards} is a link, and a store holds its own files; {COLLECT_AGAIN}")

    def _commits(self, partial: bool) -> dict[int, layout.Commit]:
        index = self._path / layout.INDEX
        commits = {} if os.path.lexists(index) else layout.read_commits(self._path, self.manifest)
        if os.path.lexists(index):  # also where it has been completed meanwhile
            return layout.read_index(index, self.manifest)
        if partial and commits:
            return commits
        done = f"{len(commits)} of {self.manifest.batches} batches are there"
        raise StoreIncomplete(f"{self._path} is an unfinished collect: {done}; the same collect command continues it")

    def verify(self) -> Report:
        """Reads every byte and compares it with what was written."""
        problems, read = [], 0
        for name in (layout.MANIFEST, layout.PLAN, layout.INDEX):
            read += self._size(name)
        try:
            now = Folder(self._path, partial=True)
        except RankscopeError as error:
            return Report(3, read, (Problem(str(self._path), str(error)),))
        for shard in now.parts:
            read += shard.commit.bytes
            try:
                for stack in self.manifest.stacks:
                    shard.places(stack)
            except RankscopeError as error:
                problems.append(Problem(str(shard.path), str(error)))
        known = {shard.path.name for shard in now.parts}
        for name in files.names_in(self._path / layout.SHARDS):
            if name not in known and (self._path / layout.INDEX).exists():
                stray = self._path / layout.SHARDS / name
                problems.append(Problem(str(stray), f"{stray} belongs to no batch of the plan; remove it"))
        return Report(len(now.parts) + 3, read, tuple(problems))

    def _size(self, name: str) -> int:
        path = self._path / name
        return path.stat().st_size if path.exists() else 0
