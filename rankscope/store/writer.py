"""Writing a run: one shard for each batch, whole on the disk before it counts (``FORMAT.md``, Writing).

A collect that is killed continues from the batches that were committed, and the finished folder holds the same bytes as
if it had never stopped, because names and contents depend on the plan and the features alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

from torch import Tensor

from rankscope import writing
from rankscope.errors import OutputExists, StorageError, StoreCorrupt, StoreIncomplete, StoreMismatch, UsageError
from rankscope.store import files, layout
from rankscope.store.finish import complete, empty, refuse_foreign, sweep, tidy
from rankscope.store.manifest import Batch, Manifest, plan_bytes
from rankscope.store.run import Places
from rankscope.store.shard import Contents

SHOWN = 4
"""Number of differences between two plans that a message names."""


class Share(NamedTuple):
    """Which of several processes this is."""

    rank: int = 0
    """The number of this process."""
    world: int = 1
    """The number of processes."""


class Writer:
    """Writes one run into a folder. Made by :meth:`open`; a context manager that releases the lock at the end."""

    def __init__(
        self, path: Path, manifest: Manifest, plan: Sequence[Batch], share: Share, nonfinite: str, reuse: bool
    ) -> None:
        self.path = path
        """The folder."""
        self.manifest = manifest
        """The manifest in the store, including the plan."""
        self._batches = {batch.id: batch for batch in plan}
        self._share = share
        self._keep_nonfinite = nonfinite == "keep"
        self._reuse = reuse
        self._held = ExitStack()
        self._commits: dict[int, layout.Commit] = {}
        self._log = -1
        self._log_path = path / layout.COMMITS / layout.log_name(share.rank)
        self._inherits = False  # a lock that a process has left which died
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
        reuse: bool = False,
    ) -> Writer:
        """Make the folder, or continue the unfinished collect in it.

        Args:
            path: the folder of the store.
            manifest: what is collected; ``batches`` and ``plan`` are filled in here.
            plan: the batches, fixed before the first forward pass.
            overwrite: whether an existing run, finished or of another plan, is discarded first; an unfinished one of the
                same plan is continued all the same.
            rank: the number of this process among those that write the same store.
            world: number of processes that write the same store.
            nonfinite: whether features that are NaN or infinite are refused or kept.
            reuse: whether a finished run of the same plan is accepted, with nothing left to do.

        Raises:
            UsageError: if ``nonfinite`` or ``rank`` make no sense, or several processes are to overwrite.
            OutputExists: if a finished run or something else is there.
            StoreMismatch: if an unfinished run of another plan is there; the message names what differs.
            StoreLocked: if another process writes there.
            StorageError: if the disk is full, read-only or failing.
        """
        if overwrite and world > 1:
            raise UsageError("several processes cannot overwrite a run together; remove it first (store.discard)")
        if nonfinite not in ("refuse", "keep") or not 0 <= rank < world:
            raise UsageError(f"no writer with nonfinite={nonfinite!r}, rank {rank} of {world}")
        writer = cls(Path(path), manifest.planned(plan), plan, Share(rank, world), nonfinite, reuse)
        try:
            writer._begin(overwrite)
        except BaseException:
            writer.close()
            raise
        return writer

    def _begin(self, overwrite: bool) -> None:
        """Join the writing of the store. Other processes may begin, end or die at every line of this."""
        refuse_foreign(self.path)
        # A finished and tidy store is only read, without a lock: it may be on a disk that this user cannot write.
        tidied = not any((self.path / name).exists() for name in (layout.COMMITS, layout.LOCK))
        if not overwrite and tidied and self._is_finished():
            return
        writing.make_folder(self.path)
        lock = layout.locked(self.path / layout.LOCK, shared=self._share.world > 1)
        self._inherits = self._held.enter_context(lock)
        self._held.callback(self._leave)
        if overwrite and not self._is_continued():
            empty(self.path)
        if self._is_finished():
            return
        try:
            self._claim()
            self._log = self._held.enter_context(layout.appending(self._log_path))
        except StorageError:  # the others may have completed the run, and removed the folder of the logs
            if not self._is_finished():
                raise
            return
        if not self._is_finished():  # by the others, while this process joined
            self._resume()

    def _is_finished(self) -> bool:
        """Whether this very run is there and complete: by another process, by one that died while tidying up, or for reuse."""
        if not (self.path / layout.INDEX).exists():
            return False
        there = layout.read_manifest(self.path / layout.MANIFEST)
        untidy = self._inherits or (self.path / layout.COMMITS).exists()
        if there.differences(self.manifest) or not (untidy or self._reuse or self._share.world > 1):
            raise OutputExists(
                f"{self.path} holds a finished run, {there.name!r}; it is kept unless --overwrite is given"
            )
        self._commits = layout.read_index(self.path / layout.INDEX, there)
        self.manifest, self._complete = there, True
        if untidy:
            tidy(self.path, self._commits)
        return True

    def _is_continued(self) -> bool:
        """Whether an unfinished collect of this very plan is there."""
        if (self.path / layout.INDEX).exists() or not (self.path / layout.MANIFEST).exists():
            return False
        try:
            return not layout.read_manifest(self.path / layout.MANIFEST).differences(self.manifest)
        except StoreCorrupt:
            return False

    def _claim(self) -> None:
        """Write the plan and the manifest, or check that those that are there are the same."""
        target, plan = self.path / layout.MANIFEST, self.path / layout.PLAN
        lines = plan_bytes(tuple(self._batches.values()))
        if not target.exists():  # the plan first: a store.json means that its plan is there (FORMAT.md, Writing, 2)
            writing.write_new(plan, lines, replace=True)
            writing.write_new(target, layout.manifest_bytes(self.manifest))
        there = layout.read_manifest(target)
        if there.differences(self.manifest):
            what = self._differences(there)
            raise StoreMismatch(f"{self.path} holds another run, unfinished: {what}; --overwrite starts anew")
        self.manifest = there
        if not plan.exists() or files.digest_of_file(plan)[1] != there.plan:
            writing.write_new(plan, lines, replace=True)
        for name in (layout.SHARDS, layout.COMMITS):
            writing.make_folder(self.path / name)

    def _differences(self, there: Manifest) -> str:
        found = there.differences(self.manifest)
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"{'; '.join(found[:SHOWN])}{more}"

    def _resume(self) -> None:
        """Count as done what is committed and whole, and remove what a process that died has left."""
        self._commits = {
            b: c
            for b, c in layout.read_commits(self.path, self.manifest).items()
            if b in self._batches and layout.is_whole(self.path, c)
        }
        if self._share.world == 1:  # with others at work, a temporary file or an uncommitted shard may be theirs
            sweep(self.path, self._commits)

    @property
    def done(self) -> frozenset[int]:
        """The ids of the batches that are committed, by whichever process."""
        return frozenset(self._commits)

    @property
    def todo(self) -> tuple[Batch, ...]:
        """The batches that this process still has to write, in the order of the plan: its share is every ``world``-th."""
        mine = list(self._batches.values())[self._share.rank :: self._share.world]
        return tuple(batch for batch in mine if batch.id not in self._commits)

    def write(self, batch: int, features: Mapping[str, Tensor], rows: Mapping[str, Places]) -> None:
        """Commit a batch: when this returns, its features are on the disk.

        Args:
            batch: the id of the batch in the plan.
            features: ``(rows, d)`` for every site, by name; converted to the dtype of the manifest.
            rows: for every stack, where the rows came from: ``(rows,)`` samples, positions and roles.

        Raises:
            UsageError: if they are not the sites, widths or samples that were planned, or the batch is committed already.
            NonFinite: if a value is NaN or infinite in the stored dtype; nothing of the batch is written.
            StorageError: if the disk is full, read-only or failing; what was committed is kept.
        """
        self._check_due(batch)
        contents = Contents.of(self._batches[batch], self.manifest, features, rows)
        bad = contents.nonfinite()
        if bad and not self._keep_nonfinite:
            raise contents.nonfinite_error(bad)
        self._commit(contents, bad)

    def write_sums(self, group: int, tensors: Mapping[str, Tensor], rows: Mapping[str, int]) -> None:
        """Commit the sums over a group of samples, as :meth:`write` does the rows of a batch.

        Args:
            group: the id of the group in the plan.
            tensors: every tensor by its name in the file.
            rows: the number of rows at every stack.
        """
        self._check_due(group)
        batch = self._batches[group]
        ordered = {name: tensors[name] for name in layout.shapes(self.manifest, rows, len(batch.samples))}
        self._commit(Contents(batch, self.manifest, ordered), {}, rows)

    def _check_due(self, batch: int) -> None:
        if batch not in self._batches or batch in self._commits:
            raise UsageError(f"batch {batch} is {'committed already' if batch in self._commits else 'not in the plan'}")

    def _commit(self, contents: Contents, bad: dict[str, int], rows: Mapping[str, int] | None = None) -> None:
        batch = contents.batch.id
        commit, chunks = contents.encode(bad, rows)
        target = self.path / layout.SHARDS / layout.shard_name(batch)
        self._settle(writing.write_temporary(target, chunks, needed=commit.bytes), target, commit)
        # The line comes after the shard is on the disk under its name: a commit vouches for bytes that are there.
        writing.append_line(self._log, self._log_path, layout.commit_line(commit, self.manifest))
        self._commits[batch] = commit

    def _settle(self, temporary: Path, target: Path, commit: layout.Commit) -> None:
        """Give the shard its name. If the name is taken, the same bytes are kept and uncommitted other ones replaced.

        Raises:
            StoreMismatch: if another process has committed other bytes under the name.
        """
        if writing.publish(temporary, target):
            return
        there = files.digest_of_file(target)
        other = layout.read_commits(self.path, self.manifest).get(commit.batch)
        if there == (commit.bytes, commit.sha256):
            writing.remove(temporary)
        elif other is not None and there == (other.bytes, other.sha256):
            writing.remove(temporary)
            raise StoreMismatch(
                f"{target} was committed by another process with other bytes: the two do not compute the same features"
            )
        else:
            writing.publish(temporary, target, replace=True)

    def finish(self) -> bool:
        """Complete the store if every batch is committed: check the shards, then write ``index.json``, last of all.

        Returns:
            Whether the store is complete. Of several processes, the last one to finish completes it.

        Raises:
            StoreIncomplete: if batches are missing and there is no other process to write them.
        """
        if self._complete:
            return True
        missing = complete(self.path, self.manifest, tuple(self._batches), known=self._commits)
        if missing and self._share.world == 1:
            raise StoreIncomplete(
                f"{self.path}: {missing} of {len(self._batches)} batches are not committed; collect again"
            )
        self._complete = not missing
        return self._complete

    def close(self) -> None:
        """Release the lock. An unfinished store stays, and the same command continues it."""
        self._held.close()

    def _leave(self) -> None:
        if (self.path / layout.INDEX).exists():
            writing.remove(self.path / layout.LOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
