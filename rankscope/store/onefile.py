"""A run in one file, laid out before its bytes are known, so that rows may be put into their places in any order (``FORMAT.md``, One file)."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from rankscope import writing
from rankscope.errors import UsageError
from rankscope.store import files, ptfile
from rankscope.store.layout import PLACES, shapes
from rankscope.store.manifest import Manifest
from rankscope.store.single import strings
from rankscope.store.tensors import Entry, header, raw

SUFFIXES = (".pt", ".safetensors")
"""The endings of a run in one file."""


@dataclass(frozen=True)
class OneFile:
    """Where everything will be in a run in one file."""

    manifest: Manifest
    """What the run is."""
    zipped: bool
    """Whether it is a ``.pt`` file."""
    entries: dict[str, Entry]
    """Every tensor by name, in the order of the file: the sites, then the rows of each stack."""

    @classmethod
    def of(cls, manifest: Manifest, counts: Mapping[str, int], path: Path) -> Self:
        """The layout of a run.

        Args:
            manifest: what the run is.
            counts: the number of rows at each stack.
            path: the file, by whose ending the two forms are told apart.

        Raises:
            UsageError: if the ending is neither of :data:`SUFFIXES`.
        """
        if path.suffix not in SUFFIXES:
            raise UsageError(f"a run in one file ends in {' or '.join(SUFFIXES)}; {path.name!r} does not")
        there = shapes(manifest, counts)
        made = cls(manifest, path.suffix == ".pt", {name: Entry(*shape, 0) for name, shape in there.items()})
        # Digests of zeros are as long as the true ones, so that the header has the length that it will have.
        end = 0 if made.zipped else len(made._header(dict.fromkeys(there, "0" * 64)))
        for i, (name, (dtype, shape)) in enumerate(there.items()):
            start = ptfile.start(_record(i), end) if made.zipped else end
            made.entries[name] = Entry(dtype, shape, start)
            end = made.entries[name].stop
        return made

    @property
    def end(self) -> int:
        """The first byte after the tensors; at least so long the file will be."""
        return max(entry.stop for entry in self.entries.values())

    def put(self, fd: int, name: str, rows: Tensor, x: Tensor) -> None:
        """Write some rows of a tensor to where they belong.

        Args:
            fd: the file, open for writing.
            name: the tensor.
            rows: ``(m,)`` int64 indices of the rows.
            x: ``(m, *)`` the rows.
        """
        entry = self.entries[name]
        stride = raw(x[:1]).nbytes
        # A run of adjacent rows, mostly a sample, ends where the next index is not one more.
        ends = [*((rows.diff() != 1).nonzero().flatten() + 1).tolist(), len(rows)]
        for start, stop in zip([0, *ends], ends, strict=False):
            if stop > start:
                writing.write_at(fd, raw(x[start:stop]), entry.start + int(rows[start]) * stride)

    def seal(self, path: Path) -> None:
        """Write everything but the tensors, which are there: what is around them, their digests, and the digest of all."""
        with files.reading(path) as fd:
            sums = {name: _sums(fd, path, entry) for name, entry in self.entries.items()}
        digests = {name: sha for name, (sha, _) in sums.items()}
        with path.open("r+b") as stream:
            stream.truncate(self.end)
            if not self.zipped:
                stream.write(self._header(digests))
                return
            with ptfile.archive(stream) as archive:
                for i, (name, entry) in enumerate(self.entries.items()):
                    ptfile.add_written(archive, _record(i), entry.stop - entry.start, sums[name][1])
                ptfile.add_dictionary(archive, self._dictionary(digests))
        ptfile.seal(path)

    def _header(self, digests: Mapping[str, str]) -> bytes:
        told = {name: (entry.dtype, entry.shape) for name, entry in self.entries.items()}
        return header(told, strings(self.manifest, digests))

    def _dictionary(self, digests: Mapping[str, str]) -> dict[str, object]:
        m = self.manifest
        found = {
            name: ptfile.Reference(i, entry.dtype, entry.shape) for i, (name, entry) in enumerate(self.entries.items())
        }
        features = {site: found[site] for site in m.sites}
        rows = {stack: {key: found[f"rows/{stack}/{key}"] for key in PLACES} for stack in m.stacks}
        return {**strings(m, digests), "features": features, "rows": rows}


def _record(i: int) -> str:
    return f"data/{i}"


def _sums(fd: int, path: Path, entry: Entry) -> tuple[str, int]:
    """The SHA-256 of a tensor's bytes, in hexadecimal, and their CRC-32, which archives keep."""
    sha, crc = hashlib.sha256(), 0
    for block in files.blocks(fd, path, entry.start, entry.stop):
        sha.update(block)
        crc = zlib.crc32(block, crc)
    return sha.hexdigest(), crc
