"""Region features and their tags, from VinVL's TSV files, ``.npz`` or safetensors, and the data sets made of them.

A feature TSV has lines ``key<TAB>{"num_boxes": N, "features": "<base64 of float32, N × 2054>"}``, or
``key<TAB>N<TAB><base64>`` as Oscar's question answerer reads them, and beside it a ``.lineidx`` with the byte offset of each
line. A label TSV has lines ``key<TAB>[{"class": "dog", …}]``. In ``.npz`` and safetensors files each array ``(N, D)`` has
the name of its image; in a folder of ``.npz`` files the file has, and the array is called ``features``.

Features are read when they are needed.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rankscope.data.captions import captions_by_image
from rankscope.data.files import contents, lines, parse
from rankscope.data.intake import Intake
from rankscope.data.probes import Example
from rankscope.errors import DataError


class RegionFeatures(NamedTuple):
    """The regions of one image."""

    features: NDArray[np.float32]
    """``(N, D)``: for VinVL 2048 features and six numbers for position and size."""
    tags: tuple[str, ...]
    """The names of the objects, in the file's order."""


class Regions(Protocol):
    """Regions that are read when they are needed."""

    @abstractmethod
    def open(self) -> RegionFeatures:
        """The features and tags.

        Raises:
            DataError: if the file does not hold them as it should.
        """

    def digest(self) -> str:
        """The SHA-256, in hex, of features and tags."""
        found = self.open()
        text = f"{found.features.shape}{found.tags}".encode()
        return hashlib.sha256(text + np.ascontiguousarray(found.features).tobytes()).hexdigest()


@dataclass(frozen=True)
class TsvRegions(Regions):
    """Regions on a line of a feature TSV."""

    path: Path
    """The file."""
    offset: int
    """The byte at which the line starts."""
    name: str
    """The key with which it starts."""
    tags: tuple[str, ...] = ()
    """The names of the objects."""

    def open(self) -> RegionFeatures:
        where = f"the regions of image {self.name!r} at byte {self.offset} of {self.path}"
        with self.path.open("rb") as file:
            file.seek(self.offset)
            line = file.readline().rstrip(b"\r\n")
        name, _, text = line.partition(b"\t")
        if name.decode(errors="replace") != self.name:
            raise DataError(f"{where} are not there: the line starts with {name[:40]!r}; write the .lineidx again")
        return RegionFeatures(_features(text.decode(errors="replace"), where), self.tags)


def _features(line: str, where: str) -> NDArray[np.float32]:
    """The array of a feature line, without its key."""
    boxes, text = _boxes(line, where)
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error, or letters that are not ASCII
        raise DataError(f"{where} are not base64: {error}; is the line complete?") from None
    if boxes < 1 or len(data) % (4 * boxes):
        raise DataError(f"{where} have {len(data)} bytes, which is not {boxes} boxes of float32")
    return np.frombuffer(data, dtype="<f4").reshape(boxes, -1)


def _boxes(line: str, where: str) -> tuple[int, str]:
    """The number of boxes and their features in base64: in two columns, or in one of JSON."""
    count, tab, packed = line.partition("\t")
    if tab and count.strip().isdecimal():
        return int(count), packed.strip()
    value = parse(line, where)
    boxes, text = (value.get("num_boxes"), value.get("features")) if isinstance(value, dict) else (None, None)
    if not isinstance(boxes, int) or not isinstance(text, str):
        raise DataError(f"{where} have no num_boxes, or no features in base64")
    return boxes, text


@dataclass(frozen=True)
class ArrayRegions(Regions):
    """Regions in an array of a ``.npz`` or safetensors file."""

    path: Path
    """The file."""
    name: str
    """The name of the array."""
    tags: tuple[str, ...] = ()
    """The names of the objects."""

    def open(self) -> RegionFeatures:
        with _arrays(self.path, f"the regions {self.name!r}") as (_, read):
            array = read(self.name)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            there = f"{array.dtype} of shape {array.shape}"
            raise DataError(f"the regions {self.name!r} of {self.path} are {there}; expected floats of shape (N, D)")
        return RegionFeatures(array.astype(np.float32), self.tags)


@contextmanager
def _arrays(path: Path, what: str) -> Iterator[tuple[list[str], Callable[[str], NDArray[np.floating]]]]:
    """The names of the arrays in a ``.npz`` or safetensors file, and what reads one of them."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                yield list(file.files), file.__getitem__
        else:
            with safe_open(path, "np") as tensors:
                yield list(tensors.keys()), tensors.get_tensor
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(f"{what} cannot be read from {path}: {error}") from error


def offsets(path: Path, intake: Intake) -> Iterator[tuple[int, str]]:
    """Offset and key of each line of a TSV file, by its ``.lineidx`` if there is one; what is wrong with that is a fault."""
    index = path.with_suffix(".lineidx")
    if index.is_file():
        starts = _index(index, path, intake)
    else:
        intake.notice("no .lineidx; the file is scanned", path.name)
        starts = [offset for _, offset, line in lines(path) if line.strip()]
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for number, offset in enumerate(starts, 1):
            file.seek(max(offset - 1, 0))
            before = file.read(1) if offset else b"\n"
            name, tab, _ = file.readline(256).partition(b"\t")
            if before != b"\n" or not tab or offset >= size:
                kind = "offset in .lineidx is not the start of a line, or the line has no key"
                intake.fault(kind, f"{index.name} line {number}: {offset}")
            else:
                yield offset, name.decode(errors="replace")


def _index(index: Path, path: Path, intake: Intake) -> list[int]:
    """The offsets in a ``.lineidx``, which must be numbers and reach the last line of the file."""
    words = contents(index, intake.fault).split()
    starts = [int(word) for word in words if word.isdecimal()]
    for number, word in enumerate(words, 1):
        if not word.isdecimal():
            intake.fault(".lineidx holds something other than offsets", f"{index.name} line {number}: {word[:20]!r}")
    with path.open("rb") as file:
        file.seek(max(starts, default=0))
        file.readline()
        if file.read(1).strip():
            intake.fault(".lineidx ends before the file does; write it again", f"{index.name} has {len(starts)} lines")
    return starts


def read_tags(path: Path, intake: Intake) -> dict[str, tuple[str, ...]]:
    """The tags of each image, from a label TSV; a line that is not a key and a list of objects with ``class`` is a fault."""
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(contents(path, intake.fault).split("\n"), 1):
        name, tab, text = line.rstrip("\r").partition("\t")
        if not line.strip():
            continue
        try:
            value = parse(text, f"line {number}") if tab else None
        except DataError:
            value = None
        items = value if isinstance(value, list) else [None]
        tags = tuple(str(item["class"]) for item in items if isinstance(item, dict) and "class" in item)
        if len(tags) == len(items):
            found[name] = tags
        else:
            kind = "label line is not KEY<TAB>LIST of objects with a class"
            intake.fault(kind, f"{path.name} line {number}")
    return found


def index_regions(source: Path, intake: Intake, *, labels: Path | None = None) -> dict[str, Regions]:
    """The regions of each image, by its name, in a file or folder of region features.

    Args:
        source: a feature TSV, a ``.npz`` or safetensors file, or a folder of ``.npz`` files.
        intake: where faults are noted.
        labels: the label TSV; if None and the features are ``X.feature.tsv``, ``X.label.tsv`` where that exists.

    Raises:
        DataError: if the source is none of these.
    """
    beside = source.with_name(source.name.replace(".feature.tsv", ".label.tsv"))
    labels = labels or (beside if beside != source and beside.is_file() else None)
    tags = read_tags(labels, intake) if labels else {}
    if source.is_dir():
        return {p.stem: ArrayRegions(p, "features", tags.get(p.stem, ())) for p in sorted(source.glob("*.npz"))}
    if source.suffix in (".npz", ".safetensors"):
        with _arrays(source, "region features") as (names, _):
            return {name: ArrayRegions(source, name, tags.get(name, ())) for name in names}
    if source.suffix != ".tsv" or not source.is_file():
        raise DataError(
            f"{source} holds no region features; give a .tsv, .npz or .safetensors file, or a folder of .npz files"
        )
    found: dict[str, Regions] = {}
    for offset, name in offsets(source, intake):
        if name in found:
            intake.fault("key of regions occurs twice", f"{source.name}: {name}")
        found[name] = TsvRegions(source, offset, name, tags.get(name, ()))
    return found


def read_features(path: Path, intake: Intake) -> list[Example]:
    """Region features alone: an example for each image, without text."""
    found = index_regions(path, intake)
    return [Example(name, regions=regions, about={"image_id": name}) for name, regions in found.items()]


def read_oscar(path: Path, intake: Intake) -> list[Example]:
    """Oscar's data set: the keys ``feature``, ``label`` and ``caption`` of a flat YAML file are paths from its folder.

    Raises:
        DataError: if it names no features, or a file that is missing.
    """
    named = _flat_yaml(path, intake)
    if not named.get("feature"):
        there = ", ".join(named) or "no keys"
        raise DataError(f"{path} names no feature file; it has {there}; Oscar's files have feature, label, caption")
    files = {key: path.parent / named[key] for key in ("feature", "label", "caption") if named.get(key)}
    absent = [str(file) for file in files.values() if not file.is_file()]
    if absent:
        raise DataError(f"{path} names files that are not there: {', '.join(absent)}")
    regions = index_regions(files["feature"], intake, labels=files.get("label"))
    captions = captions_by_image(files["caption"], intake) if "caption" in files else {}
    for name in captions:
        if name not in regions:
            intake.fault("caption of an image without regions", f"image {name}")
    return [
        Example(name, targets=captions.get(name, ()), regions=r, about={"image_id": name, "task": "caption"})
        for name, r in regions.items()
    ]


def _flat_yaml(path: Path, intake: Intake) -> dict[str, str]:
    """The ``key: value`` lines of a YAML file; Oscar's hold nothing else, and any other line is a fault."""
    found = {}
    for number, line in enumerate(contents(path, intake.fault).split("\n"), 1):
        text = line.split(" #")[0].rstrip()
        if not text.strip() or text.lstrip().startswith("#") or text.strip() == "---":
            continue
        name, colon, value = text.partition(":")
        if not colon or line[0] in " \t-":
            intake.fault("line is not flat YAML", f"{path.name}, line {number}, is not KEY: VALUE: {line[:60]!r}")
            continue
        found[name.strip()] = value.strip().strip("\"'")
    return found


def with_regions(examples: Sequence[Example], source: Path, intake: Intake) -> list[Example]:
    """The examples with the regions of their image; an image without regions is a fault.

    The image is looked up under its ``image_id``, its file name with and without its ending, and the example's id.
    """
    regions, found = index_regions(source, intake), []
    for example in examples:
        file = example.about.get("file_name", example.image.name if isinstance(example.image, Path) else "")
        names = (example.about.get("image_id", ""), file, Path(file).stem, example.id)
        own = next((regions[name] for name in names if name in regions), None)
        if own is None:
            intake.fault("image without regions", f"example {example.id}")
        found.append(replace(example, regions=own))
    return found
