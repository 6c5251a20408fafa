"""The ``.pt`` file of a run: as ``torch.save`` would write it, but one tensor at a time, and sealed (``FORMAT.md``, One file).

Such a file is an archive of uncompressed records: ``data/0``, ``data/1``, … with the bytes of the tensors and ``data.pkl``,
the pickle of a dictionary that refers to them. The comment of the archive is the SHA-256 of all bytes before the digest.
To read one, torch resolves the dictionary with ``weights_only=True`` and without data, and the bytes are located here.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from rankscope.errors import StoreCorrupt, StoreError, UnsafeError
from rankscope.store import files
from rankscope.store.files import corrupt
from rankscope.store.tensors import Entry

SEAL = b"sha256:"
"""The beginning of the archive's comment; the digest of all bytes before it follows."""

MAGIC = b"PK\x03\x04"
"""The first bytes of an archive."""

_ZIP64_EXTRA = 20
_TORCH_ERRORS = (RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError, IndexError, OverflowError)


def read(path: Path) -> tuple[Mapping[object, object], dict[str, zipfile.ZipInfo]]:
    """The dictionary in a ``.pt`` file, with tensors that have shapes but no data, and the records of the archive.

    Raises:
        StoreCorrupt: if the archive is torn.
        StoreError: if it is an archive of something else.
        UnsafeError: if it holds more than tensors and plain values.
    """
    records = _records(path)
    value = load(path, records, "meta")
    return (value if isinstance(value, dict) else {type(value).__name__: value}), records


def load_values(path: Path) -> object:
    """The value in a ``.pt`` file, data included. Raises as :func:`read` does."""
    return load(path, _records(path), "cpu")


def load(path: Path, records: Mapping[str, zipfile.ZipInfo], device: str) -> object:
    """The value in the file as torch loads it, always with ``weights_only=True``. Raises as :func:`read` does."""
    if "data.pkl" not in records:
        raise StoreError(
            f"{path} is an archive, but not one of torch; 'rankscope import' reads the arrays of other tools"
        )
    try:
        value: object = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"more than tensors and text{f', {named[1]}' if named else ''}"
        raise UnsafeError(  # torch's own message advises weights_only=False, which would run that code
            f"{path} holds {what}, and could run code if it were loaded; where it was made, save its tensors alone, as a "
            "dictionary or as safetensors"
        ) from None
    except _TORCH_ERRORS as error:
        raise corrupt(f"{path} cannot be read as a .pt file: {str(error)[:200]}") from error
    return value


def _records(path: Path) -> dict[str, zipfile.ZipInfo]:
    with files.reading(path) as fd, os.fdopen(os.dup(fd), "rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError) as error:
            raise corrupt(f"{path} is not a whole .pt file: {error}") from error
        size = os.fstat(fd).st_size
    if any(r.compress_type != zipfile.ZIP_STORED or r.header_offset + r.file_size > size for r in infos):
        raise StoreCorrupt(f"{path}: its records are compressed or reach beyond the file, which torch never writes")
    records = {r.filename.split("/", 1)[-1]: r for r in infos}
    if len(records) != len(infos):
        raise corrupt(f"{path}: a record occurs in it twice")
    return records


def flat(value: Mapping[object, object], path: Path) -> dict[str, Tensor]:
    """The tensors of a run by the names that they have in the other formats, in the order of their data.

    Raises:
        StoreCorrupt: if the dictionary has another form.
    """
    features, rows = value.get("features"), value.get("rows")
    if (
        not isinstance(features, dict)
        or not isinstance(rows, dict)
        or not all(isinstance(v, dict) for v in rows.values())
    ):
        raise corrupt(f"{path} has no dictionaries 'features' and 'rows'")
    found = {**features, **{f"rows/{stack}/{key}": x for stack, places in rows.items() for key, x in places.items()}}
    if not all(isinstance(x, Tensor) and x.is_contiguous() and x.storage_offset() == 0 for x in found.values()):
        raise corrupt(f"{path}: what it holds under 'features' and 'rows' are not whole tensors")
    return {str(name): x for name, x in found.items()}


def places(path: Path, tensors: Mapping[str, Tensor], records: Mapping[str, zipfile.ZipInfo]) -> dict[str, Entry]:
    """The locations of the tensors. Their records are numbered in the order of the dictionary.

    Raises:
        StoreCorrupt: if a record is missing or is not of the size of its tensor.
    """
    entries = {}
    with files.reading(path) as fd:
        for i, (name, x) in enumerate(tensors.items()):
            record, size = records.get(f"data/{i}"), x.numel() * x.dtype.itemsize
            if record is None or record.file_size != size:
                raise corrupt(f"{path}: the record of {name[:60]} does not have the {size:,} bytes that it should")
            # A local header of 30 bytes ends with the lengths of the name and the extra field, which precede the data.
            local = files.read_bytes(fd, path, record.header_offset, record.header_offset + 30)
            name_length, extra_length = struct.unpack("<HH", local[26:30])
            entries[name] = Entry(x.dtype, tuple(x.shape), record.header_offset + 30 + name_length + extra_length)
    return entries


def seal_holds(path: Path) -> bool:
    """Whether the archive's comment is the digest of all bytes before it. An archive of torch itself has no comment."""
    with files.reading(path) as fd:
        size, length = os.fstat(fd).st_size, len(SEAL) + 64
        # The end record of an archive is 22 bytes, the last two of them the length of the comment, and then the comment.
        tail = files.read_bytes(fd, path, max(0, size - length - 22), size)
        if tail[-22:-18] == b"PK\x05\x06" and tail[-2:] == b"\0\0":
            return True
        if tail[:4] != b"PK\x05\x06" or tail[22 : 22 + len(SEAL)] != SEAL:
            return False
        return files.digest_of(fd, path, 0, size - 64) == tail[-64:].decode("ascii", errors="replace")


@dataclass(frozen=True)
class _Storage:
    """The bytes of a tensor, as the pickle refers to them."""

    key: str
    """The number of the record, as text."""
    kind: type
    """The class of storage that torch makes of it."""
    numel: int
    """Number of elements."""


@dataclass(frozen=True)
class Reference:
    """A tensor whose bytes are a record of their own."""

    record: int
    """The number of the record."""
    dtype: torch.dtype
    """Its dtype."""
    shape: tuple[int, ...]
    """Its shape."""

    def __reduce__(self) -> tuple[object, ...]:
        storage = _Storage(str(self.record), _KINDS[self.dtype], math.prod(self.shape))
        stride = tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))
        return torch._utils._rebuild_tensor_v2, (storage, 0, self.shape, stride, False, OrderedDict())


class _Pickler(pickle.Pickler):
    """Pickles as ``torch.save`` does, for tensors that are not in memory."""

    def persistent_id(self, obj: object) -> tuple[object, ...] | None:
        if isinstance(obj, _Storage):
            return "storage", obj.kind, obj.key, "cpu", obj.numel
        return None


_KINDS: dict[torch.dtype, type] = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.uint8: torch.ByteStorage,
}


@contextmanager
def archive(stream: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """A new archive in an open file, with a place for its seal, for :func:`seal` when the file is closed."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as made:
        yield made
        made.comment = SEAL + b"0" * 64


def seal(path: Path) -> None:
    """Write the digest of all bytes of an archive before it into its place at the end."""
    with files.reading(path) as fd:
        size = os.fstat(fd).st_size
        found = files.digest_of(fd, path, 0, size - 64)
    with path.open("r+b") as stream:
        stream.seek(size - 64)
        stream.write(found.encode("ascii"))


def start(name: str, offset: int) -> int:
    """Where the data of a record begin whose header begins at an offset: a multiple of 64, as torch needs it to map them."""
    return offset + 30 + len(_named(name)) + 4 + _padding(name, offset) + _ZIP64_EXTRA


def _padding(name: str, offset: int) -> int:
    # The data follow the header (30), the name, the padding field (4 and the padding) and the zip64 field (20).
    return -(offset + 30 + len(_named(name)) + _ZIP64_EXTRA + 4) % 64


def _named(name: str) -> str:
    return f"run/{name}"


def add_written(archive: zipfile.ZipFile, name: str, size: int, crc: int) -> None:
    """Add a record whose data are in the file already, at :func:`start`: its header is written, and the data are passed over.

    Args:
        archive: the archive, at the end of the record before.
        name: the name of the record.
        size: the number of bytes of its data.
        crc: their CRC-32.
    """
    assert archive.fp is not None
    info = zipfile.ZipInfo(_named(name))
    info.header_offset = archive.fp.tell()
    info.file_size = info.compress_size = size
    info.CRC = crc
    info.external_attr = 0o600 << 16  # as zipfile gives records that it writes itself
    pad = _padding(name, info.header_offset)
    info.extra = struct.pack("<HH", 0x4246, pad) + b"Z" * pad
    archive.fp.write(info.FileHeader(zip64=True))
    archive.start_dir = archive.fp.seek(size, os.SEEK_CUR)
    archive.filelist.append(info)
    archive.NameToInfo[info.filename] = info


def add_dictionary(archive: zipfile.ZipFile, value: Mapping[str, object]) -> None:
    """Add what makes an archive of records a ``.pt`` file: the pickled dictionary, the byte order and the version."""
    buffer = BytesIO()
    _Pickler(buffer, protocol=2).dump(value)
    assert archive.fp is not None
    for record, content in (("data.pkl", buffer.getvalue()), ("byteorder", b"little"), ("version", b"3\n")):
        begun = archive.fp.tell()
        archive.fp.seek(start(record, begun))
        archive.fp.write(content)
        archive.fp.seek(begun)
        add_written(archive, record, len(content), zlib.crc32(content))
