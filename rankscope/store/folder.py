"""A run as a folder of shards."""

from __future__ import annotations

import os
from pathlib import Path

from rankscope.errors import RankscopeError, StoreIncomplete
from rankscope.store import files, layout
from rankscope.store.files import corrupt
from rankscope.store.manifest import read_plan
from rankscope.store.run import Problem, Verification
from rankscope.store.shard import Shard


class Folder:
    """A run as a folder."""

    def __init__(self, path: Path, *, check: bool = True, partial: bool = False) -> None:
        self._path = path
        self.manifest = layout.read_manifest(path / layout.MANIFEST)
        """What the run is."""
        plan = {batch.id: batch for batch in read_plan(path / layout.PLAN, self.manifest)}
        if len(plan) != self.manifest.batches:
            raise corrupt(f"{path / layout.PLAN} has {len(plan)} batches, the manifest {self.manifest.batches}")
        commits = self._commits(partial)
        stacks = set(self.manifest.stacks)
        if not commits.keys() <= plan.keys() or any(c.rows.keys() != stacks for c in commits.values()):
            raise corrupt(f"{path / layout.INDEX} lists shards of another plan, or of other stacks")
        shards = path / layout.SHARDS
        if shards.is_symlink():
            raise corrupt(f"{shards} is a link, and a store holds its own files")
        # The name of a shard follows from its batch, never from a name that a file contains (FORMAT.md, Reading).
        self.pieces = tuple(
            Shard(shards / layout.shard_name(b), commits[b], batch, self.manifest, check)
            for b, batch in plan.items()
            if b in commits
        )
        """The shards, in the order of the plan."""

    def _commits(self, partial: bool) -> dict[int, layout.Commit]:
        index = self._path / layout.INDEX
        commits = {} if os.path.lexists(index) else layout.read_commits(self._path, self.manifest)
        if os.path.lexists(index):  # asked again, for it may have been completed meanwhile, and its logs removed
            return layout.read_index(index, self.manifest)
        if partial and commits:
            return commits
        done = f"{len(commits)} of {self.manifest.batches} batches are there"
        raise StoreIncomplete(f"{self._path} is an unfinished collect: {done}; the same collect command continues it")

    def verify(self) -> Verification:
        """Read every byte and compare it with what was written."""
        problems, read = [], 0
        for name in (layout.MANIFEST, layout.PLAN, layout.INDEX):
            path = self._path / name
            read += path.stat().st_size if path.exists() else 0
        try:
            now = Folder(self._path, partial=True)
        except RankscopeError as error:
            return Verification(3, read, (Problem(str(self._path), str(error)),))
        for shard in now.pieces:
            read += shard.commit.bytes
            try:
                for stack in self.manifest.stacks:
                    shard.places(stack)  # the first of these hashes the whole shard
            except RankscopeError as error:
                problems.append(Problem(str(shard.path), str(error)))
        known = {shard.path.name for shard in now.pieces}
        for name in files.names_in(self._path / layout.SHARDS):
            if name not in known and (self._path / layout.INDEX).exists():
                stray = self._path / layout.SHARDS / name
                problems.append(Problem(str(stray), f"{stray} belongs to no batch of the plan; remove it"))
        return Verification(len(now.pieces) + 3, read, tuple(problems))
