"""A run in one file: ``.safetensors``, or ``.pt`` as a plain dictionary. Each tensor is hashed when it is first read."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from rankscope.errors import CheckpointError, RankscopeError, StoreCorrupt, StoreError, UnsafeError
from rankscope.store import files
from rankscope.store.files import COLLECT_AGAIN
from rankscope.store.layout import PLACES
from rankscope.store.manifest import Manifest
from rankscope.store.plain import digest, member, parse
from rankscope.store.run import Problem, Report, checked_places
from rankscope.store.tensors import Entry, header, read_header, read_tensor

FORMAT = "rankscope-run"
VERSION = "1"
SEAL = b"sha256:"
"""The comment of the archive that a ``.pt`` file is: this, and the digest of all bytes before the comment's text."""

_STRETCH = 1 << 26


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
    _seen: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """A tensor, or some of its rows.

        Raises:
            StoreCorrupt: if its bytes are not those that were written.
        """
        entry = self.entries[name]
        with files.reading(self.path) as fd:
            status = os.fstat(fd)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self.check and self._seen.get(name) != seen:
                if files.digest_of(fd, self.path, entry.start, entry.stop) != self.digests[name]:
                    raise StoreCorrupt(f"{self.path} was altered: the SHA-256 of its {name} differs; {COLLECT_AGAIN}")
                self._seen[name] = seen
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

    def features(self, site: str) -> Tensor:
        """``(n, d)`` features."""
        return self.tensors.read(site, self.rows[self.tensors.manifest.stack(site)])


class SingleFile:
    """A run in one file."""

    def __init__(self, path: Path, *, check: bool = True) -> None:
        self._path = path
        texts, entries = (_read_pt if is_zip(path) else _read_safetensors)(path)
        manifest, digests = _unsealed(texts, path)
        self._tensors = Tensors(path, entries, manifest, digests, check)
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
        ends = [0, *_ends(first, max(1, _STRETCH // widest)), len(m.ids)]
        cuts = {s: torch.searchsorted(x, torch.tensor(ends)).tolist() for s, x in samples.items()}
        return tuple(
            Stretch(self._tensors, {s: slice(c[i], c[i + 1]) for s, c in cuts.items()}) for i in range(len(ends) - 1)
        )

    def verify(self) -> Report:
        """Reads every byte and compares it with what was written."""
        problems: list[Problem] = []
        tensors = Tensors(self._path, self._tensors.entries, self.manifest, self._tensors.digests, check=True)
        for name in tensors.entries:
            try:
                tensors.read(name, slice(0, 0))
            except RankscopeError as error:
                problems.append(Problem(str(self._path), str(error)))
        with files.reading(self._path) as fd:
            size = os.fstat(fd).st_size
            if is_zip(self._path) and not _seal_holds(fd, self._path, size):
                message = f"{self._path} was altered: the SHA-256 at its end is not that of its bytes; {COLLECT_AGAIN}"
                problems.append(Problem(str(self._path), message))
        return Report(1, size, tuple(problems))


def _ends(sample: Tensor, rows: int) -> list[int]:
    """Samples at which a new stretch begins, so that a stretch has about ``rows`` rows."""
    starts = sample[rows::rows].tolist()
    return sorted({s for s in starts if s > 0})


def is_zip(path: Path) -> bool:
    """Whether a file begins as an archive does, which is what ``torch.save`` writes."""
    with files.reading(path) as fd:
        return os.pread(fd, 4, 0) == b"PK\x03\x04"


def _unsealed(texts: Mapping[str, str], path: Path) -> tuple[Manifest, dict[str, str]]:
    if texts.get("version") != VERSION:
        raise StoreCorrupt(
            f"{path}: this rankscope reads {FORMAT!r} version {VERSION}, and it is {texts.get('version')!r}"
        )
    manifest, tensors = texts.get("manifest", ""), texts.get("tensors", "")
    if texts.get("sha256") != seal(manifest, tensors):
        raise StoreCorrupt(
            f"{path} was altered: its manifest does not match the SHA-256 that it carries; {COLLECT_AGAIN}"
        )
    digests = parse(tensors, path)
    return Manifest.from_json(parse(manifest, path), path), {k: member(digests, k, str, path) for k in digests}


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    with files.reading(path) as fd:
        texts, entries = read_header(fd, path)
        if texts.get("format") != FORMAT:
            raise foreign(path, list(entries), texts.get("format"))
        head = header({name: (e.dtype, e.shape) for name, e in entries.items()}, texts)
        found = bytearray(len(head))
        files.read_into(fd, path, memoryview(found), 0)
        if bytes(found) != head:
            raise StoreCorrupt(f"{path} was altered: its header is not as rankscope writes it; {COLLECT_AGAIN}")
    return texts, entries


def foreign(path: Path, names: list[str], form: str | None = None) -> StoreError | CheckpointError:
    """What to raise about a readable file of tensors that is no run: it says what the file is and what to do."""
    if form == "rankscope-shard":
        return StoreError(f"{path} is one shard of a run; give the folder that holds {path.parent.name}/")
    some = ", ".join(repr(name[:60]) for name in names[:2])
    return CheckpointError(
        f"{path} is no run: it holds {len(names)} tensors, such as {some or 'none'}, and looks like the weights of a checkpoint; "
        "give the checkpoint's folder to 'rankscope collect', or, if they are features, convert them with 'rankscope import'"
    )


def _read_pt(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    try:
        value = torch.load(path, map_location="meta", weights_only=True)
    except UnpicklingError as error:
        reason = str(error).split("Please file")[0].replace("\n", " ")[:200]
        raise UnsafeError(
            f"{path} holds more than tensors and text, and could run code if it were loaded: {reason}"
        ) from None
    except (RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise StoreCorrupt(f"{path} cannot be read as a .pt file: {str(error)[:200]}; {COLLECT_AGAIN}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise foreign(path, [str(k) for k in value] if isinstance(value, dict) else [type(value).__name__])
    texts = {str(k): v for k, v in value.items() if isinstance(v, str)}
    return texts, _places(path, _flat(value, path))


def _flat(value: Mapping[object, object], path: Path) -> dict[str, Tensor]:
    """The tensors by the names that they have in the other formats, in the order in which their data lie."""
    features, rows = value.get("features"), value.get("rows")
    if (
        not isinstance(features, dict)
        or not isinstance(rows, dict)
        or not all(isinstance(v, dict) for v in rows.values())
    ):
        raise StoreCorrupt(f"{path} has no dictionaries 'features' and 'rows'; {COLLECT_AGAIN}")
    flat = {**features, **{f"rows/{stack}/{key}": x for stack, places in rows.items() for key, x in places.items()}}
    if not all(isinstance(x, Tensor) and x.is_contiguous() and x.storage_offset() == 0 for x in flat.values()):
        raise StoreCorrupt(f"{path}: what it holds under 'features' and 'rows' are not whole tensors; {COLLECT_AGAIN}")
    return flat


def _places(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Where the tensors of a ``.pt`` file lie: their records are numbered in the order of the dictionary."""
    with files.reading(path) as fd, os.fdopen(os.dup(fd), "rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                records = {r.filename.split("/", 1)[-1]: r for r in archive.infolist()}
        except (zipfile.BadZipFile, ValueError, UnicodeDecodeError, struct.error, EOFError) as error:
            raise StoreCorrupt(f"{path} is not a whole archive: {error}; {COLLECT_AGAIN}") from error
        entries = {}
        for i, (name, x) in enumerate(tensors.items()):
            record = records.get(f"data/{i}")
            size = x.numel() * x.dtype.itemsize
            if record is None or record.file_size != size or record.compress_type != zipfile.ZIP_STORED:
                raise StoreCorrupt(
                    f"{path}: the record of {name[:60]} has not the {size:,} bytes it should; {COLLECT_AGAIN}"
                )
            local = bytearray(30)
            files.read_into(fd, path, memoryview(local), record.header_offset)
            name_length, extra_length = struct.unpack("<HH", local[26:30])
            entries[name] = Entry(x.dtype, tuple(x.shape), record.header_offset + 30 + name_length + extra_length)
    return entries


def _seal_holds(fd: int, path: Path, size: int) -> bool:
    """Whether the archive's comment is the digest of what stands before it; one written by torch itself has no comment."""
    length = len(SEAL) + 64
    tail = bytearray(min(size, length + 2))
    files.read_into(fd, path, memoryview(tail), size - len(tail))
    if tail.endswith(b"\0\0") and SEAL not in tail:
        return True
    if len(tail) < length + 2 or tail[2 : 2 + len(SEAL)] != SEAL:
        return False
    return files.digest_of(fd, path, 0, size - 64) == tail[-64:].decode("ascii", errors="replace")


@contextmanager
def sealed_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A new archive at ``path`` that gets its seal when it is closed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        yield archive
        archive.comment = SEAL + b"0" * 64
    with files.reading(path) as fd:
        size = os.fstat(fd).st_size
        found = files.digest_of(fd, path, 0, size - 64)
    with path.open("r+b") as stream:
        stream.seek(size - 64)
        stream.write(found.encode("ascii"))


def texts(manifest: Manifest, digests: Mapping[str, str]) -> dict[str, str]:
    """The strings of a run in one file, with their seal."""
    manifest_text = json.dumps(manifest.to_json(), separators=(",", ":"), allow_nan=False)
    tensors_text = json.dumps(dict(digests), separators=(",", ":"))
    sha = seal(manifest_text, tensors_text)
    return {"format": FORMAT, "version": VERSION, "manifest": manifest_text, "tensors": tensors_text, "sha256": sha}
