"""One batch in a file of its own: checked before it is written, and hashed when it is first read (``FORMAT.md``, Shard)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from rankscope.errors import NonFinite, UsageError
from rankscope.store import files
from rankscope.store.files import corrupt
from rankscope.store.layout import PLACES, SHARD_FORMAT, VERSION, Commit, shapes
from rankscope.store.manifest import Batch, Manifest
from rankscope.store.run import Places, checked_places
from rankscope.store.tensors import Entry, header, raw, read_header, read_rows, read_tensor


@dataclass(frozen=True)
class Contents:
    """What a shard will hold."""

    batch: Batch
    """The batch."""
    manifest: Manifest
    """The run it belongs to."""
    tensors: dict[str, Tensor]
    """Every tensor by name, in the order of the file: the sites, then the rows of each stack."""

    @classmethod
    def of(
        cls, batch: Batch, manifest: Manifest, features: Mapping[str, Tensor], rows: Mapping[str, Places]
    ) -> Contents:
        """The contents of the shard of a batch, in the dtypes in which they are stored.

        Raises:
            UsageError: if they are not the sites, widths, stacks or samples of the manifest and the plan.
        """
        m, named = manifest, {str(site): x.detach() for site, x in features.items()}
        if set(named) != set(m.sites) or set(rows) != set(m.stacks):
            got = f"features at {', '.join(named)} and rows at {', '.join(rows)}"
            raise UsageError(
                f"batch {batch.id} has {got}; the manifest has {', '.join(m.sites)} and {', '.join(m.stacks)}"
            )
        tensors = {}
        for site in m.sites:
            expected, shape = (len(rows[m.stack(site)][0]), m.width(site)), tuple(named[site].shape)
            if shape != expected:
                raise UsageError(f"batch {batch.id}: features at {site} have shape {shape}, expected {expected}")
            tensors[site] = named[site].to("cpu", m.torch_dtype)
        for stack in m.stacks:
            _check_places(batch, stack, rows[stack])
            for (name, dtype), x in zip(PLACES.items(), rows[stack], strict=True):
                tensors[f"rows/{stack}/{name}"] = x.to("cpu", dtype)
        return cls(batch, m, tensors)

    def nonfinite(self) -> dict[str, int]:
        """Number of values that are NaN or infinite, at the sites that have some."""
        bad = (site for site in self.manifest.sites if not _finite(self.tensors[site]))
        return {site: int((~torch.isfinite(self.tensors[site])).sum()) for site in bad}

    def nonfinite_error(self, bad: Mapping[str, int]) -> NonFinite:
        """The error that names the first site, sample and token with a value that is not finite."""
        site = next(iter(bad))
        stack = self.manifest.stack(site)
        rows = (~torch.isfinite(self.tensors[site])).any(dim=1).nonzero().flatten().tolist()
        sample = self.manifest.ids[int(self.tensors[f"rows/{stack}/sample"][rows[0]])]
        token = int(self.tensors[f"rows/{stack}/position"][rows[0]])
        others = f"; so are features at {len(bad) - 1} other sites" if len(bad) > 1 else ""
        return NonFinite(
            f"features at {site} are not finite in {self.manifest.dtype}: {bad[site]} values in {len(rows)} rows of batch "
            f"{self.batch.id}, first in row {rows[0]}: sample {sample!r}, token {token}{others}. Nothing of this batch was "
            "written. Collect in float32 or bfloat16, leave the sample out, or keep such values with nonfinite='keep'"
        )

    def encode(self, bad: dict[str, int], rows: Mapping[str, int] | None = None) -> tuple[Commit, list[memoryview]]:
        """The bytes of the file, and the commit that vouches for them.

        Args:
            bad: the number of values that are not finite, at the sites that have some.
            rows: the number of rows at each stack, where the tensors do not tell it.
        """
        m = self.manifest
        metadata = {
            "format": SHARD_FORMAT,
            "version": str(VERSION),
            "batch": str(self.batch.id),
            "plan_sha256": m.plan_digest,
        }
        head = header({name: (x.dtype, x.shape) for name, x in self.tensors.items()}, metadata)
        chunks = [memoryview(head), *(raw(x) for x in self.tensors.values())]
        sha = hashlib.sha256()
        for chunk in chunks:
            sha.update(chunk)
        counts = {stack: len(self.tensors[f"rows/{stack}/sample"]) for stack in m.stacks} if rows is None else {**rows}
        return Commit(self.batch.id, sum(c.nbytes for c in chunks), sha.hexdigest(), counts, bad), chunks


def _finite(x: Tensor) -> bool:
    """Whether all values are finite: by the least and the greatest, which NaN passes on, in a tenth of the time of each value's own test."""
    return not x.numel() or all(bool(torch.isfinite(end)) for end in torch.aminmax(x))


def _check_places(batch: Batch, stack: str, places: Places) -> None:
    shapes = {tuple(x.shape) for x in places}
    if len(places) != 3 or len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise UsageError(f"batch {batch.id}: the rows of {stack} are three vectors of one length, not {sorted(shapes)}")
    strange = set(places[0].tolist()) - set(batch.samples)
    if strange:
        raise UsageError(f"batch {batch.id}: rows of {stack} name samples that are not in it: {sorted(strange)[:5]}")


@dataclass
class Shard:
    """One batch of a run in its file."""

    path: Path
    """The file."""
    commit: Commit
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
        """Number of rows at a stack."""
        return self.commit.rows[stack]

    def places(self, stack: str) -> Places:
        """Where each row at a stack came from."""
        with self._open() as (fd, entries):
            names = (*PLACES, "count")
            there = {name: entries[f"rows/{stack}/{name}"] for name in names if f"rows/{stack}/{name}" in entries}
            columns = {name: read_tensor(fd, self.path, entry) for name, entry in there.items()}
        if "count" in columns:
            columns = _counted(columns["sample"], columns["count"], self.count(stack), self.path)
        places = checked_places(columns, self.manifest, self.path)
        if not set(self.batch.samples).issuperset(places[0].tolist()):
            raise corrupt(f"{self.path} holds samples that the plan puts elsewhere")
        return places

    def features(self, site: str, rows: Tensor) -> Tensor:
        """``(m, d)`` features of some rows, by their indices ``(m,)`` in the shard, ascending."""
        with self._open() as (fd, entries):
            return read_rows(fd, self.path, entries[site], rows)

    def tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        with self._open() as (fd, entries):
            return read_tensor(fd, self.path, entries[name])

    @contextmanager
    def _open(self) -> Iterator[tuple[int, dict[str, Entry]]]:
        with files.reading(self.path) as fd:
            seen = files.stamp(fd)
            if seen != self._seen:
                self._compare(fd, seen[1])
                self._seen = seen
            yield fd, self._entries

    def _compare(self, fd: int, size: int) -> None:
        """Compare the file with its commit, when it is first read and whenever it has changed since."""
        if size != self.commit.bytes:
            raise corrupt(f"{self.path} has {size:,} bytes, and {self.commit.bytes:,} were written")
        if self.check and files.digest_of(fd, self.path, 0, size) != self.commit.sha256:
            raise corrupt(f"{self.path} was altered: its SHA-256 is not the one that was committed")
        metadata, self._entries = read_header(fd, self.path)
        if metadata.get("plan_sha256") != self.manifest.plan_digest or metadata.get("batch") != str(self.batch.id):
            raise corrupt(f"{self.path} is a shard of another run or batch")
        if {name: (e.dtype, e.shape) for name, e in self._entries.items()} != shapes(
            self.manifest, self.commit.rows, len(self.batch.samples)
        ):
            raise corrupt(f"{self.path} does not hold the tensors that its commit describes")


def _counted(sample: Tensor, count: Tensor, n: int, path: Path) -> dict[str, Tensor]:
    """The places of n rows of which only the number of each sample's is known: they are numbered, and have no role."""
    if bool((count < 0).any()) or int(count.sum()) != n:
        raise corrupt(f"{path} counts other rows than its commit")
    first = count.cumsum(0) - count
    position = torch.arange(n) - first.repeat_interleave(count)
    return {"sample": sample.repeat_interleave(count), "position": position, "role": torch.zeros(n, dtype=torch.uint8)}
