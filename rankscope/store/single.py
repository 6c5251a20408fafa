"""A run in one file: ``.safetensors``, or ``.pt`` as a plain dictionary. Each tensor is hashed when it is first read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from rankscope.errors import CheckpointError, RankscopeError, StoreCorrupt, StoreError
from rankscope.store import files, ptfile
from rankscope.store.files import COLLECT_AGAIN
from rankscope.store.layout import PLACES, SHARD_FORMAT
from rankscope.store.manifest import Manifest
from rankscope.store.plain import digest, line, member, parse
from rankscope.store.run import STRETCH, Problem, Report, checked_places
from rankscope.store.tensors import Entry, header, read_header, read_rows, read_tensor

FORMAT = "rankscope-run"
VERSION = "1"


def seal(manifest: str, tensors: str) -> str:
    """The digest that binds the manifest to the list of the tensors' digests, both as JSON text."""
    return digest({"format": FORMAT, "version": VERSION, "manifest": manifest, "tensors": tensors})


@dataclass
class Tensors:
    """The tensors of one file, and what they should be."""

    path: Path
    """The file."""
    entries: dict[str, Entry]
    """Where each tensor lies."""
    manifest: Manifest
    """What the run is."""
    digests: dict[str, str]
    """SHA-256 of each tensor's bytes."""
    check: bool
    """Whether a tensor is hashed when it is first read, and again when the file has changed since."""
    size: int
    """The size of the file when it was opened, in bytes."""
    _seen: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def read(self, name: str, rows: slice | Tensor | None = None) -> Tensor:
        """A tensor, or some of its rows: a slice, or places in ascending order.

        Raises:
            StoreCorrupt: if its bytes are not those that were written.
        """
        entry = self.entries[name]
        with files.reading(self.path) as fd:
            status = os.fstat(fd)
            if status.st_size != self.size:
                raise StoreCorrupt(
                    f"{self.path} had {self.size:,} bytes and has {status.st_size:,} now; {COLLECT_AGAIN}"
                )
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self.check and self._seen.get(name) != seen:
                if files.digest_of(fd, self.path, entry.start, entry.stop) != self.digests[name]:
                    raise StoreCorrupt(f"{self.path} was altered: the SHA-256 of its {name} differs; {COLLECT_AGAIN}")
                self._seen[name] = seen
            if isinstance(rows, Tensor):
                return read_rows(fd, self.path, entry, rows)
            return read_tensor(fd, self.path, entry, rows)


@dataclass(frozen=True)
class Stretch:
    """Consecutive samples of a run in one file."""

    tensors: Tensors
    """The file."""
    rows: dict[str, slice]
    """The rows of these samples at each stack."""

    def count(self, stack: str) -> int:
        """The number of rows at a stack."""
        return self.rows[stack].stop - self.rows[stack].start

    def places(self, stack: str) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row, ``(n,)`` each: place of the sample, token position, role."""
        found = {name: self.tensors.read(f"rows/{stack}/{name}", self.rows[stack]) for name in PLACES}
        return checked_places(found, self.tensors.manifest, self.tensors.path)

    def features(self, site: str, rows: Tensor | None = None) -> Tensor:
        """``(n, d)`` features, or those of some rows."""
        mine = self.rows[self.tensors.manifest.stack(site)]
        return self.tensors.read(site, mine if rows is None else rows + mine.start)


class SingleFile:
    """A run in one file."""

    def __init__(self, path: Path, *, check: bool = True) -> None:
        self._path = path
        self._zip = _begins_with(path, ptfile.MAGIC)
        strings, entries = (_read_pt if self._zip else _read_safetensors)(path)
        manifest, digests = _unsealed(strings, path)
        self._tensors = Tensors(path, entries, manifest, digests, check, path.stat().st_size)
        self._check_shapes()

    @property
    def manifest(self) -> Manifest:
        """What the run is."""
        return self._tensors.manifest

    def _check_shapes(self) -> None:
        m, entries = self.manifest, self._tensors.entries
        counts = {s: entries[f"rows/{s}/sample"].shape[:1] for s in m.stacks if f"rows/{s}/sample" in entries}
        places = {f"rows/{s}/{k}": (dtype, counts.get(s)) for s in m.stacks for k, dtype in PLACES.items()}
        sites = {site: (m.torch_dtype, (*counts.get(m.stack(site), ()), m.width(site))) for site in m.sites}
        if {k: (e.dtype, e.shape) for k, e in entries.items()} != {
            **sites,
            **places,
        } or self._tensors.digests.keys() != entries.keys():
            raise StoreCorrupt(f"{self._path}: its tensors are not those of its manifest; {COLLECT_AGAIN}")

    @cached_property
    def parts(self) -> tuple[Stretch, ...]:
        """Stretches of whole samples, of at most 64 MiB at the widest site where samples are not larger than that."""
        m = self.manifest
        samples = {s: self._tensors.read(f"rows/{s}/sample") for s in m.stacks}
        if any((x[1:] < x[:-1]).any() for x in samples.values()):
            raise StoreCorrupt(f"{self._path}: its rows are not in the data's order; {COLLECT_AGAIN}")
        widest = max(m.width(site) for site in m.sites) * m.torch_dtype.itemsize
        first = max(samples.values(), key=len)
        ends = [0, *_ends(first, max(1, STRETCH // widest)), len(m.ids)]
        cuts = {s: torch.searchsorted(x, torch.tensor(ends)).tolist() for s, x in samples.items()}
        return tuple(
            Stretch(self._tensors, {s: slice(c[i], c[i + 1]) for s, c in cuts.items()}) for i in range(len(ends) - 1)
        )

    def verify(self) -> Report:
        """Reads every byte and compares it with what was written."""
        problems: list[Problem] = []
        tensors = replace(self._tensors, check=True, _seen={})
        for name in tensors.entries:
            try:
                tensors.read(name, slice(0, 0))
            except RankscopeError as error:
                problems.append(Problem(str(self._path), str(error)))
        if self._zip and not ptfile.seal_holds(self._path):
            message = f"{self._path} was altered: the SHA-256 at its end is not that of its bytes; {COLLECT_AGAIN}"
            problems.append(Problem(str(self._path), message))
        size = self._path.stat().st_size
        return Report(1, size, tuple(problems))


def _ends(sample: Tensor, rows: int) -> list[int]:
    """Samples at which a new stretch begins, so that a stretch has about ``rows`` rows."""
    starts = sample[rows::rows].tolist()
    return sorted({s for s in starts if s > 0})


def _begins_with(path: Path, magic: bytes) -> bool:
    with files.reading(path) as fd:
        return os.pread(fd, len(magic), 0) == magic


def strings(manifest: Manifest, digests: Mapping[str, str]) -> dict[str, str]:
    """The strings of a run in one file: manifest and digests as JSON, with their seal."""
    told = line(manifest.to_json()).decode("ascii").rstrip("\n")
    tensors = json.dumps(dict(digests), separators=(",", ":"))
    return {"format": FORMAT, "version": VERSION, "manifest": told, "tensors": tensors, "sha256": seal(told, tensors)}


def _unsealed(strings: Mapping[str, str], path: Path) -> tuple[Manifest, dict[str, str]]:
    if strings.get("version") != VERSION:
        raise StoreCorrupt(
            f"{path}: this rankscope reads {FORMAT!r} version {VERSION}, and it is {strings.get('version')!r}"
        )
    manifest, tensors = strings.get("manifest", ""), strings.get("tensors", "")
    if strings.get("sha256") != seal(manifest, tensors):
        raise StoreCorrupt(
            f"{path} was altered: its manifest does not match the SHA-256 that it carries; {COLLECT_AGAIN}"
        )
    digests = parse(tensors, path)
    return Manifest.from_json(parse(manifest, path), path), {k: member(digests, k, str, path) for k in digests}


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    if path.suffix != ".safetensors" and _begins_with(path, b"\x80"):  # a header's length may begin so too
        raise StoreError(
            f"{path} is a pickle, as torch wrote them long ago, and no run; runs are written by 'rankscope collect'"
        )
    if path.suffix not in (".safetensors", ".pt"):
        raise StoreError(
            f"{path} is no run: a run is a folder with store.json, or a file ending in .pt or .safetensors; features of other "
            "tools become one by 'rankscope import'"
        )
    with files.reading(path) as fd:
        found, entries = read_header(fd, path)
        if found.get("format") != FORMAT:
            raise foreign(path, list(entries), found.get("format"))
        head = header({name: (e.dtype, e.shape) for name, e in entries.items()}, found)
        there = bytearray(len(head))
        files.read_into(fd, path, memoryview(there), 0)
        if bytes(there) != head:
            raise StoreCorrupt(f"{path} was altered: its header is not as rankscope writes it; {COLLECT_AGAIN}")
    return found, entries


def _read_pt(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    value, records = ptfile.read(path)
    if value.get("format") != FORMAT:
        raise foreign(path, [str(key) for key in value])
    found = {str(key): text for key, text in value.items() if isinstance(text, str)}
    return found, ptfile.places(path, ptfile.flat(value, path), records)


def foreign(path: Path, names: list[str], form: str | None = None) -> StoreError | CheckpointError:
    """What to raise about a readable file of tensors that is no run: it says what the file is and what to do."""
    if form == SHARD_FORMAT:
        return StoreError(f"{path} is one shard of a run; give the run's folder, {path.parent.parent}")
    some = ", ".join(repr(name[:60]) for name in names[:2])
    return CheckpointError(
        f"{path} is no run: it holds {len(names)} tensors, such as {some or 'none'}, and looks like the weights of a checkpoint; "
        "give the checkpoint's folder to 'rankscope collect', or, if they are features, convert them with 'rankscope import'"
    )
