"""A run in one file: ``.safetensors``, or ``.pt`` as a plain dictionary (``FORMAT.md``, One file).

Each tensor is hashed when it is first read, and again when the file has changed since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from rankscope.errors import CheckpointError, RankscopeError, StoreCorrupt, StoreError
from rankscope.store import files, ptfile
from rankscope.store.files import corrupt
from rankscope.store.layout import PLACES, SHARD_FORMAT
from rankscope.store.manifest import Manifest
from rankscope.store.plain import digest, line, member, parse
from rankscope.store.run import Places, Problem, Verification, checked_places
from rankscope.store.tensors import Entry, header, read_header, read_rows, read_tensor

FORMAT = "rankscope-run"
VERSION = "1"


class SingleFile:
    """A run in one file."""

    def __init__(self, path: Path, *, check: bool = True) -> None:
        self._path, self._check = path, check
        self._zip = _begins_with(path, ptfile.MAGIC)
        strings, self._entries = (_read_pt if self._zip else _read_safetensors)(path)
        self.manifest, self._digests = _unsealed(strings, path)
        """What the run is."""
        self._size = path.stat().st_size
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._check_shapes()

    def _check_shapes(self) -> None:
        m, entries = self.manifest, self._entries
        counts = {s: entries[f"rows/{s}/sample"].shape[:1] for s in m.stacks if f"rows/{s}/sample" in entries}
        places = {f"rows/{s}/{k}": (dtype, counts.get(s)) for s in m.stacks for k, dtype in PLACES.items()}
        sites = {site: (m.torch_dtype, (*counts.get(m.stack(site), ()), m.width(site))) for site in m.sites}
        there = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
        if there != {**sites, **places} or self._digests.keys() != entries.keys():
            raise corrupt(f"{self._path}: its tensors are not those of its manifest")

    @property
    def pieces(self) -> tuple[SingleFile]:
        """The files that hold its rows: this one."""
        return (self,)

    def count(self, stack: str) -> int:
        """Number of rows at a stack."""
        return self._entries[f"rows/{stack}/sample"].shape[0]

    def places(self, stack: str) -> Places:
        """Where each row at a stack came from."""
        columns = {}
        for name in PLACES:
            with self._open(f"rows/{stack}/{name}", self._check) as (fd, entry):
                columns[name] = read_tensor(fd, self._path, entry)
        if (columns["sample"].diff() < 0).any():
            raise corrupt(f"{self._path}: its rows are not in the data's order")
        return checked_places(columns, self.manifest, self._path)

    def features(self, site: str, rows: Tensor) -> Tensor:
        """``(m, d)`` features of some rows, by their indices ``(m,)`` in the file, ascending."""
        with self._open(site, self._check) as (fd, entry):
            return read_rows(fd, self._path, entry, rows)

    @contextmanager
    def _open(self, name: str, check: bool) -> Iterator[tuple[int, Entry]]:
        """The open file and the location of a tensor, its bytes compared with their digest if that has not been done."""
        entry = self._entries[name]
        with files.reading(self._path) as fd:
            seen = files.stamp(fd)
            if seen[1] != self._size:
                raise corrupt(f"{self._path} had {self._size:,} bytes and has {seen[1]:,} now")
            if check and self._seen.get(name) != seen:
                if files.digest_of(fd, self._path, entry.start, entry.stop) != self._digests[name]:
                    raise corrupt(f"{self._path} was altered: the SHA-256 of its {name} differs")
                self._seen[name] = seen
            yield fd, entry

    def verify(self) -> Verification:
        """Read every byte and compare it with what was written."""
        problems: list[Problem] = []
        self._seen.clear()
        for name in self._entries:
            try:
                with self._open(name, True):
                    pass
            except RankscopeError as error:
                problems.append(Problem(str(self._path), str(error)))
        if self._zip and not ptfile.seal_holds(self._path):
            altered = corrupt(f"{self._path} was altered: the SHA-256 at its end is not that of its bytes")
            problems.append(Problem(str(self._path), str(altered)))
        return Verification(1, self._path.stat().st_size, tuple(problems))


def _begins_with(path: Path, magic: bytes) -> bool:
    with files.reading(path) as fd:
        return os.pread(fd, len(magic), 0) == magic


def strings(manifest: Manifest, digests: Mapping[str, str]) -> dict[str, str]:
    """The strings of a run in one file: manifest and digests as JSON, with their seal."""
    text = line(manifest.to_json()).decode("ascii").rstrip("\n")
    tensors = json.dumps(dict(digests), separators=(",", ":"))
    return {"format": FORMAT, "version": VERSION, "manifest": text, "tensors": tensors, "sha256": _seal(text, tensors)}


def _seal(manifest: str, tensors: str) -> str:
    """The digest that binds the manifest to the list of the tensors' digests, both as JSON text."""
    return digest({"format": FORMAT, "version": VERSION, "manifest": manifest, "tensors": tensors})


def _unsealed(strings: Mapping[str, str], path: Path) -> tuple[Manifest, dict[str, str]]:
    if strings.get("version") != VERSION:
        found = strings.get("version")
        raise StoreCorrupt(f"{path} is version {found!r}; this rankscope reads {FORMAT!r} version {VERSION}")
    manifest, tensors = strings.get("manifest", ""), strings.get("tensors", "")
    if strings.get("sha256") != _seal(manifest, tensors):
        raise corrupt(f"{path} was altered: its manifest does not match the SHA-256 beside it")
    digests = parse(tensors, path)
    return Manifest.from_json(parse(manifest, path), path), {k: member(digests, k, str, path) for k in digests}


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    # 0x80 begins a pickle, but also a safetensors file whose header has such a length.
    if path.suffix != ".safetensors" and _begins_with(path, b"\x80"):
        raise StoreError(
            f"{path} is a pickle, as old versions of torch wrote them, and not a run; 'rankscope collect' writes runs"
        )
    if path.suffix not in (".safetensors", ".pt"):
        raise StoreError(
            f"{path} is not a run: a run is a folder with store.json, or a file ending in .pt or .safetensors; 'rankscope "
            "import' makes one from features of other tools"
        )
    with files.reading(path) as fd:
        found, entries = read_header(fd, path)
        if found.get("format") != FORMAT:
            raise _not_a_run(path, list(entries), found.get("format"))
        head = header({name: (e.dtype, e.shape) for name, e in entries.items()}, found)
        # Compared with the canonical spelling, so that every byte of the header counts although it has no digest.
        if files.read_bytes(fd, path, 0, len(head)) != head:
            raise corrupt(f"{path} was altered: its header is not as rankscope writes it")
    return found, entries


def _read_pt(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    value, records = ptfile.read(path)
    if value.get("format") != FORMAT:
        raise _not_a_run(path, [str(key) for key in value])
    found = {str(key): text for key, text in value.items() if isinstance(text, str)}
    return found, ptfile.places(path, ptfile.flat(value, path), records)


def _not_a_run(path: Path, names: list[str], form: str | None = None) -> StoreError | CheckpointError:
    """The error for a readable file of tensors that is not a run: it says what the file is and what to do."""
    if form == SHARD_FORMAT:
        return StoreError(f"{path} is one shard of a run; give the run's folder, {path.parent.parent}")
    some = ", ".join(repr(name[:60]) for name in names[:2]) or "none"
    return CheckpointError(
        f"{path} is not a run: it holds {len(names)} tensors, such as {some}, and looks like the weights of a checkpoint; "
        "give the checkpoint's folder to 'rankscope collect', or, if they are features, convert them with 'rankscope import'"
    )
