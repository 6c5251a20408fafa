"""Writing a run: a shard a batch, each whole on the disk before it counts.

A collect that is killed continues from the batches that were committed, and the finished folder holds the same bytes as
if it had never stopped: names and contents are functions of the plan and of the features alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from rankscope.errors import NonFinite, OutputExists, StoreIncomplete, StoreMismatch, UsageError
from rankscope.store import files, layout
from rankscope.store.finish import complete, empty, refuse_foreign, tidy
from rankscope.store.layout import PLACES
from rankscope.store.manifest import Batch, Manifest, plan_bytes
from rankscope.store.tensors import header, raw

Places = tuple[Tensor, Tensor, Tensor]
"""Of each row: ``(n,)`` place of its sample in the probe set, ``(n,)`` token position, ``(n,)`` role."""


class Part(NamedTuple):
    """Which of several processes this is."""

    rank: int = 0
    world: int = 1


class Writer:
    """Writes one run into a folder. Made by :meth:`open`; a context manager that lets the lock go at the end."""

    def __init__(self, path: Path, manifest: Manifest, plan: Sequence[Batch], part: Part, nonfinite: str) -> None:
        self.path = path
        """The folder."""
        self.manifest = manifest
        """The manifest as it stands in the store, plan included."""
        self._batches = {batch.id: batch for batch in plan}
        self._part = part
        self._keep_nonfinite = nonfinite == "keep"
        self._held = ExitStack()
        self._commits: dict[int, layout.Commit] = {}
        self._log = -1
        self._complete = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        manifest: Manifest,
        plan: Sequence[Batch],
        *,
        overwrite: bool = False,
        rank: int = 0,
        world: int = 1,
        nonfinite: Literal["refuse", "keep"] = "refuse",
    ) -> Writer:
        """Makes the folder, or continues the unfinished collect in it.

        Args:
            path: the folder of the store.
            manifest: what is collected; ``batches`` and ``plan`` are filled in here.
            plan: the batches, fixed before the first forward pass.
            overwrite: whether a run that lies there, finished or of another plan, is thrown away first; an unfinished one
                of the same plan is continued all the same.
            rank: the number of this process among those that write the same store.
            world: how many processes write the same store.
            nonfinite: what happens to features that are NaN or infinite.

        Raises:
            OutputExists: if a finished run or something else lies there.
            StoreMismatch: if an unfinished run of another plan lies there; the message names what differs.
            StoreLocked: if another process writes there.
            StorageError: if the disk is full, read-only or failing.
        """
        if overwrite and world > 1:
            raise UsageError("several processes cannot overwrite a store together; remove it first (store.discard)")
        if nonfinite not in ("refuse", "keep") or not 0 <= rank < world:
            raise UsageError(f"no writer with nonfinite={nonfinite!r}, rank {rank} of {world}")
        writer = cls(Path(path), manifest.planned(plan), plan, Part(rank, world), nonfinite)
        try:
            writer._begin(overwrite)
        except BaseException:
            writer.close()
            raise
        return writer

    def _begin(self, overwrite: bool) -> None:
        refuse_foreign(self.path)
        if not overwrite and self._is_finished():
            return
        files.make_folder(self.path)
        self._held.enter_context(layout.locked(self.path / layout.LOCK, shared=self._part.world > 1))
        if overwrite and not self._is_continued():
            empty(self.path)
        if self._is_finished():
            return
        self._claim()
        log = self.path / layout.COMMITS / layout.log_name(self._part.rank)
        self._log = self._held.enter_context(layout.appending(log))
        self._resume()

    def _is_finished(self) -> bool:
        """Whether this very run is there complete, by another process or by one that died while tidying up."""
        if not (self.path / layout.INDEX).exists():
            return False
        there = layout.read_manifest(self.path / layout.MANIFEST)
        untidy = (self.path / layout.COMMITS).exists()
        if there.plan_digest != self.manifest.plan_digest or not (untidy or self._part.world > 1):
            raise OutputExists(
                f"{self.path} holds a finished run, {there.name!r}; it is kept unless --overwrite is given"
            )
        self._commits = layout.read_index(self.path / layout.INDEX, there)
        self.manifest, self._complete = there, True
        tidy(self.path, self._commits)
        return True

    def _is_continued(self) -> bool:
        """Whether an unfinished collect of this very plan is there."""
        if (self.path / layout.INDEX).exists() or not (self.path / layout.MANIFEST).exists():
            return False
        return layout.read_manifest(self.path / layout.MANIFEST).plan_digest == self.manifest.plan_digest

    def _claim(self) -> None:
        """Writes the plan and the manifest, or finds them there and the same."""
        target = self.path / layout.MANIFEST
        tag = f"{self._part.rank:05d}-"
        if not target.exists():
            files.write_new(self.path / layout.PLAN, plan_bytes(tuple(self._batches.values())), replace=True, tag=tag)
            files.write_new(target, layout.manifest_bytes(self.manifest), tag=tag)
        there = layout.read_manifest(target)
        if there.plan_digest != self.manifest.plan_digest:
            what = "; ".join(there.differences(self.manifest))
            raise StoreMismatch(
                f"{self.path} holds an unfinished collect of another run: {what}; --overwrite starts anew"
            )
        self.manifest = there
        for name in (layout.SHARDS, layout.COMMITS):
            files.make_folder(self.path / name)

    def _resume(self) -> None:
        """Counts as done what is committed and whole; drops what a process that died has left."""
        self._commits = {
            b: c
            for b, c in layout.read_commits(self.path).items()
            if b in self._batches and layout.is_whole(self.path, c)
        }
        if self._part.world > 1:
            return
        kept = {layout.shard_name(batch) for batch in self._commits}
        for folder in (self.path, self.path / layout.SHARDS):
            for name in files.names_in(folder):
                if name.startswith(files.TEMPORARY) or (folder != self.path and name not in kept):
                    files.remove(folder / name)

    @property
    def done(self) -> frozenset[int]:
        """The ids of the batches that are committed, by whichever process."""
        return frozenset(self._commits)

    @property
    def todo(self) -> tuple[Batch, ...]:
        """The batches that this process has still to write, in the order of the plan: every ``world``-th."""
        mine = list(self._batches.values())[self._part.rank :: self._part.world]
        return tuple(batch for batch in mine if batch.id not in self._commits)

    def write(self, batch: int, features: Mapping[str, Tensor], rows: Mapping[str, Places]) -> None:
        """Commits a batch: when this returns, its features are on the disk.

        Args:
            batch: the id of the batch in the plan.
            features: of every site, by name, ``(rows, d)``; converted to the dtype of the manifest.
            rows: of every stack, where the rows came from: ``(rows,)`` samples, positions and roles.

        Raises:
            UsageError: if they are not the sites, widths or samples that were planned, or the batch is committed.
            NonFinite: if a value is NaN or infinite in the stored dtype; nothing of the batch is written.
            StorageError: if the disk is full, read-only or failing; what was committed is kept.
        """
        if batch not in self._batches or batch in self._commits:
            raise UsageError(f"batch {batch} is {'committed already' if batch in self._commits else 'not in the plan'}")
        tensors = self._tensors(self._batches[batch], features, rows)
        bad = self._count_nonfinite(batch, tensors)
        commit = self._publish(batch, tensors, {s: len(rows[s][0]) for s in self.manifest.stacks}, bad)
        files.append_line(self._log, self.path / layout.COMMITS, layout.commit_line(commit))
        self._commits[batch] = commit

    def _tensors(self, batch: Batch, features: Mapping[str, Tensor], rows: Mapping[str, Places]) -> dict[str, Tensor]:
        """The tensors of a shard by name, in their order: the sites, then the rows of each stack."""
        m = self.manifest
        if {str(s) for s in features} != set(m.sites) or set(rows) != set(m.stacks):
            raise UsageError(
                f"batch {batch.id} has features at {list(features)} and rows at {list(rows)}; the manifest has others"
            )
        named = {str(site): x.detach() for site, x in features.items()}
        tensors = {site: named[site].to(m.torch_dtype) for site in m.sites}
        for site, x in tensors.items():
            expected = (len(rows[m.stack(site)][0]), m.width(site))
            if x.shape != expected:
                raise UsageError(
                    f"batch {batch.id} at {site}: features have shape {tuple(x.shape)}, expected {expected}"
                )
        for stack in m.stacks:
            _check_places(batch, stack, rows[stack])
            for (name, dtype), x in zip(PLACES.items(), rows[stack], strict=True):
                tensors[f"rows/{stack}/{name}"] = x.to(dtype)
        return tensors

    def _count_nonfinite(self, batch: int, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        bad = {site: int((~torch.isfinite(tensors[site])).sum()) for site in self.manifest.sites}
        bad = {site: count for site, count in bad.items() if count}
        if bad and not self._keep_nonfinite:
            raise NonFinite(self._nonfinite_words(batch, tensors, bad))
        return bad

    def _nonfinite_words(self, batch: int, tensors: Mapping[str, Tensor], bad: Mapping[str, int]) -> str:
        site = next(iter(bad))
        stack = self.manifest.stack(site)
        lines = (~torch.isfinite(tensors[site])).any(dim=1).nonzero().flatten().tolist()
        row = lines[0]
        sample = self.manifest.ids[int(tensors[f"rows/{stack}/sample"][row])]
        token = int(tensors[f"rows/{stack}/position"][row])
        return (
            f"features at {site} are not finite in {self.manifest.dtype}: {bad[site]} values in {len(lines)} of batch {batch}'s "
            f"rows, first in row {row}, sample {sample!r}, token {token}; also at {len(bad) - 1} other sites. Nothing of this "
            "batch was written. Collect in float32 or bfloat16, or keep such values with nonfinite='keep'"
        )

    def _publish(
        self, batch: int, tensors: Mapping[str, Tensor], rows: dict[str, int], bad: dict[str, int]
    ) -> layout.Commit:
        target = self.path / layout.SHARDS / layout.shard_name(batch)
        metadata = {"format": layout.SHARD_FORMAT, "version": str(layout.VERSION), "batch": str(batch)}
        metadata["plan_sha256"] = self.manifest.plan_digest
        head = header({name: (x.dtype, x.shape) for name, x in tensors.items()}, metadata)
        chunks = [memoryview(head), *(raw(x) for x in tensors.values())]
        sha = hashlib.sha256()
        for chunk in chunks:
            sha.update(chunk)
        size = sum(chunk.nbytes for chunk in chunks)
        commit = layout.Commit(batch, size, sha.hexdigest(), rows, bad)
        temporary = files.write_temporary(target, chunks, needed=size, tag=f"{self._part.rank:05d}-")
        self._settle(temporary, target, commit)
        return commit

    def _settle(self, temporary: Path, target: Path, commit: layout.Commit) -> None:
        """Gives the shard its name. One that is there already is the same, or uncommitted and replaced, or an error."""
        if files.publish(temporary, target):
            return
        there = files.digest_of_file(target)
        other = layout.read_commits(self.path).get(commit.batch)
        if there == (commit.bytes, commit.sha256):
            files.remove(temporary)
        elif other is not None and there == (other.bytes, other.sha256):
            files.remove(temporary)
            raise StoreMismatch(
                f"{target} was committed by another process with other bytes: the two do not compute the same"
            )
        else:
            files.publish(temporary, target, replace=True)

    def finish(self) -> bool:
        """Completes the store if every batch is committed: checks the shards, then writes ``index.json``, last of all.

        Returns:
            Whether the store is complete. With several processes it may not be: whichever finishes last completes it.

        Raises:
            StoreIncomplete: if batches are missing and no other process is to write them.
        """
        if self._complete:
            return True
        missing = complete(self.path, self.manifest, tuple(self._batches), known=self._commits)
        if missing and self._part.world == 1:
            raise StoreIncomplete(
                f"{self.path}: {missing} of {len(self._batches)} batches are not committed; collect again"
            )
        self._complete = not missing
        return self._complete

    def close(self) -> None:
        """Lets the lock go. An unfinished store stays and is continued by the same command."""
        if (self.path / layout.INDEX).exists():
            files.remove(self.path / layout.LOCK)
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_places(batch: Batch, stack: str, places: Places) -> None:
    lengths = {tuple(x.shape) for x in places}
    if len(places) != 3 or len(lengths) != 1 or len(*lengths) != 1:
        raise UsageError(
            f"batch {batch.id}: the rows of {stack} are three vectors of one length, not {sorted(lengths)}"
        )
    strange = set(places[0].tolist()) - set(batch.samples)
    if strange:
        raise UsageError(f"batch {batch.id}: rows of {stack} name samples that are not in it: {sorted(strange)[:5]}")
