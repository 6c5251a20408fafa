"""Features of image regions, and their tags: from VinVL's TSV files, ``.npz`` or safetensors. Read when asked for.

A feature TSV has lines ``key<TAB>{"num_boxes": N, "features": "<base64 of float32, N × 2054>"}``, or
``key<TAB>N<TAB><base64>`` as Oscar's question answerer reads them, and beside it a ``.lineidx`` with the byte offset of each
line; a label TSV has lines ``key<TAB>[{"class": "dog", …}]``. In ``.npz`` and safetensors files each array ``(N, D)`` bears
the name of its image; in a folder of ``.npz`` files the file does, and the array is called ``features``.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rankscope.data.files import contents, parse
from rankscope.data.report import Ledger
from rankscope.errors import DataError


class RegionFeatures(NamedTuple):
    """The regions of one image."""

    features: NDArray[np.float32]
    """``(N, D)``: for VinVL 2048 features and six numbers of position and size."""
    tags: tuple[str, ...]
    """The names of the objects, in the file's order."""


class Regions(Protocol):
    """Regions that are read when they are asked for."""

    @abstractmethod
    def open(self) -> RegionFeatures:
        """The features and tags.

        Raises:
            DataError: if what holds them is not what it should be.
        """

    def digest(self) -> str:
        """The sha256 of features and tags."""
        found = self.open()
        text = f"{found.features.shape}{found.tags}".encode()
        return hashlib.sha256(text + np.ascontiguousarray(found.features).tobytes()).hexdigest()


@dataclass(frozen=True)
class TsvRegions(Regions):
    """Regions on a line of a feature TSV."""

    path: Path
    offset: int
    """The byte at which the line starts."""
    name: str
    """The key with which it starts."""
    tags: tuple[str, ...] = ()

    def open(self) -> RegionFeatures:
        where = f"the regions of image {self.name!r} at byte {self.offset} of {self.path}"
        with self.path.open("rb") as file:
            file.seek(self.offset)
            line = file.readline().rstrip(b"\r\n")
        name, _, text = line.partition(b"\t")
        if name.decode(errors="replace") != self.name:
            raise DataError(f"{where} are not there: the line starts with {name[:40]!r}; make the .lineidx anew")
        return RegionFeatures(_features(text.decode(errors="replace"), where), self.tags)


def _features(line: str, where: str) -> NDArray[np.float32]:
    """The array of a feature line, without its key."""
    boxes, text = _boxes(line, where)
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error, or letters that are not ASCII.
        raise DataError(f"{where} are not base64: {error}; is the line complete?") from None
    if boxes < 1 or len(data) % (4 * boxes):
        raise DataError(f"{where} have {len(data)} bytes, which is not {boxes} boxes of float32")
    return np.frombuffer(data, dtype="<f4").reshape(boxes, -1)


def _boxes(line: str, where: str) -> tuple[int, str]:
    """How many boxes there are, and their features in base64: in two columns, or in one of JSON."""
    count, tab, packed = line.partition("\t")
    if tab and count.strip().isdecimal():
        return int(count), packed.strip()
    value = parse(line, where)
    if isinstance(value, dict):
        boxes, text = value.get("num_boxes"), value.get("features")
        if isinstance(boxes, int) and isinstance(text, str):
            return boxes, text
    raise DataError(f"{where} have no num_boxes, or no features in base64")


@dataclass(frozen=True)
class ArrayRegions(Regions):
    """Regions in an array of a ``.npz`` or safetensors file."""

    path: Path
    name: str
    """The name of the array."""
    tags: tuple[str, ...] = ()

    def open(self) -> RegionFeatures:
        array = _read_array(self.path, self.name)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise DataError(
                f"the regions {self.name!r} of {self.path} are {array.dtype} of shape {array.shape}; floats (N, D) are wanted"
            )
        return RegionFeatures(array.astype(np.float32), self.tags)


def _read_array(path: Path, name: str) -> NDArray[np.floating]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return np.asarray(file[name])
        from safetensors import SafetensorError, safe_open
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"the regions {name!r} cannot be read from {path}: {error}") from error
    try:
        with safe_open(path, "np") as tensors:
            return np.asarray(tensors.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise DataError(f"the regions {name!r} cannot be read from {path}: {error}") from error


def _array_names(path: Path) -> list[str]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return list(file.files)
        from safetensors import SafetensorError, safe_open
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no .npz file of plain arrays: {error}") from error
    try:
        with safe_open(path, "np") as tensors:
            return list(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is no safetensors file: {error}") from error


def offsets(path: Path, ledger: Ledger) -> Iterator[tuple[int, str]]:
    """Offset and key of each line of a TSV file, by its ``.lineidx`` where there is one; what is wrong with that is a fault."""
    index = path.with_suffix(".lineidx")
    listed = _index(index, path, ledger) if index.is_file() else None
    if listed is None:
        ledger.notice("no .lineidx; the file is scanned", path.name)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for number, offset in enumerate(listed if listed is not None else _scan(path), 1):
            file.seek(max(offset - 1, 0))
            before = file.read(1) if offset else b"\n"
            name, tab, _ = file.readline(256).partition(b"\t")
            if before != b"\n" or not tab or offset >= size:
                ledger.fault(
                    "offset in .lineidx is not the start of a line, or the line has no key",
                    f"{index.name} line {number}: {offset}",
                )
            else:
                yield offset, name.decode(errors="replace")


def _index(index: Path, path: Path, ledger: Ledger) -> list[int]:
    """The offsets in a ``.lineidx``, which must be numbers and reach the last line of the file."""
    words = contents(index).split()
    listed = [int(word) for word in words if word.isdecimal()]
    for number, word in enumerate(words, 1):
        if not word.isdecimal():
            ledger.fault(".lineidx holds something else than offsets", f"{index.name} line {number}: {word[:20]!r}")
    with path.open("rb") as file:
        file.seek(max(listed, default=0))
        file.readline()
        if file.read(1).strip():
            ledger.fault(".lineidx ends before the file does; make it anew", f"{index.name} has {len(listed)} lines")
    return listed


def _scan(path: Path) -> Iterator[int]:
    """The offset of each line that is not empty."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield offset
            offset += len(line)


def read_tags(path: Path, ledger: Ledger) -> dict[str, tuple[str, ...]]:
    """The tags of each image, from a label TSV; a line that is not a key and a list of objects with ``class`` is a fault."""
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(contents(path).split("\n"), 1):
        name, tab, text = line.rstrip("\r").partition("\t")
        if not line.strip():
            continue
        try:
            value = parse(text, f"line {number}") if tab else None
        except DataError:
            value = None
        items = value if isinstance(value, list) else [None]
        tags = tuple(str(item["class"]) for item in items if isinstance(item, dict) and "class" in item)
        if len(tags) != len(items):
            ledger.fault("label line is not KEY<TAB>LIST of objects with a class", f"{path.name} line {number}")
            continue
        found[name] = tags
    return found


def index_regions(source: Path, ledger: Ledger, *, labels: Path | None = None) -> dict[str, Regions]:
    """The regions of each image in a feature TSV, a ``.npz`` or safetensors file, or a folder of ``.npz`` files, by its name.

    Args:
        labels: the label TSV; where None and the features are ``X.feature.tsv``, ``X.label.tsv`` if it is there.

    Raises:
        DataError: if the source is none of these.
    """
    beside = source.with_name(source.name.replace(".feature.tsv", ".label.tsv"))
    labels = labels or (beside if beside != source and beside.is_file() else None)
    tags = read_tags(labels, ledger) if labels else {}
    if source.is_dir():
        return {p.stem: ArrayRegions(p, "features", tags.get(p.stem, ())) for p in sorted(source.glob("*.npz"))}
    if source.suffix in (".npz", ".safetensors"):
        return {name: ArrayRegions(source, name, tags.get(name, ())) for name in _array_names(source)}
    if source.suffix != ".tsv" or not source.is_file():
        raise DataError(
            f"{source} holds no region features; give a .tsv, .npz or .safetensors file, or a folder of .npz files"
        )
    found: dict[str, Regions] = {}
    for offset, name in offsets(source, ledger):
        if name in found:
            ledger.fault("key of regions stands twice", f"{source.name}: {name}")
        found[name] = TsvRegions(source, offset, name, tags.get(name, ()))
    return found
