"""The safetensors format, written the same to the byte and read with every claim checked (``FORMAT.md``, Shard).

Eight bytes give the length of a JSON header, little-endian; the header names each tensor's dtype, shape and location; the
data follow without gaps. Here the header is canonical: ``__metadata__`` first, then the tensors in the order of their
data, padded with spaces to a multiple of eight bytes. So the same tensors give the same file.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rankscope.errors import StoreCorrupt
from rankscope.store.files import corrupt, read_bytes, read_into
from rankscope.store.plain import Json, member, parse

CODES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes of the safetensors format that are read, by the code in the header."""

_NAMES = {dtype: code for code, dtype in CODES.items()}
HEADER_LIMIT = 100_000_000
"""The longest header that the safetensors format allows, in bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The location of a tensor in a file."""

    dtype: torch.dtype
    """Its dtype."""
    shape: tuple[int, ...]
    """Its shape."""
    start: int
    """Its first byte, counted from the beginning of the file."""

    @property
    def stop(self) -> int:
        """The first byte after it."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def raw(x: Tensor) -> memoryview:
    """The bytes of a tensor in row-major order, without a copy if it is stored so on the CPU already."""
    flat = x.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def header(shapes: Mapping[str, tuple[torch.dtype, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file with these tensors in this order: length and header."""
    value: dict[str, Json] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        stop = offset + math.prod(shape) * dtype.itemsize
        value[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    text += b" " * (-len(text) % 8)  # so that the data begin at a multiple of eight
    return struct.pack("<Q", len(text)) + text


def read_header(fd: int, path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    """The metadata and the locations of the tensors, with each claim checked against the file.

    Raises:
        StoreCorrupt: if the header is torn or is not a header, or its tensors leave gaps, overlap or reach beyond the file.
    """
    size = os.fstat(fd).st_size
    if size < 8:
        raise _broken(path, f"{size} bytes are too few for a safetensors file")
    length = struct.unpack("<Q", read_bytes(fd, path, 0, 8))[0]
    if not 2 <= length <= min(size - 8, HEADER_LIMIT):
        raise _broken(path, f"its header claims {length:,} bytes, in a file of {size:,}")
    value = parse(read_bytes(fd, path, 8, 8 + length), path)
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, "the metadata of its header are not strings")
    entries = {name: _entry(name, item, 8 + length, path) for name, item in value.items()}
    _check_extents(entries, 8 + length, size, path)
    return {k: str(v) for k, v in metadata.items()}, entries


def _broken(path: Path, why: str) -> StoreCorrupt:
    return corrupt(f"{path} is not a whole safetensors file: {why}")


def _entry(name: str, item: Json, base: int, path: Path) -> Entry:
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"tensor {name[:60]!r} has no dtype, shape and data_offsets")
    code, shape, offsets = member(item, "dtype", str, path), _whole(item["shape"]), _whole(item["data_offsets"])
    if code not in CODES:
        raise _broken(path, f"tensor {name[:60]!r} has the dtype {code[:20]!r}; known are {', '.join(CODES)}")
    if shape is None or offsets is None or len(offsets) != 2 or len(shape) > 8:
        raise _broken(path, f"tensor {name[:60]!r} has no plausible shape and data_offsets")
    entry = Entry(CODES[code], tuple(shape), base + offsets[0])
    if entry.stop != base + offsets[1]:
        raise _broken(
            path, f"tensor {name[:60]!r} of shape {tuple(shape)} does not fill bytes {offsets[0]} to {offsets[1]}"
        )
    return entry


def _whole(value: Json) -> list[int] | None:
    if not isinstance(value, list):
        return None
    numbers = [v for v in value if isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 1 << 62]
    return numbers if len(numbers) == len(value) else None


def _check_extents(entries: Mapping[str, Entry], base: int, size: int, path: Path) -> None:
    end = base  # sorted by start, and of equal starts the empty tensors first, each must begin where the last one ended
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise _broken(path, f"tensor {name[:60]!r} leaves a gap or overlaps another")
        end = entry.stop
    if end != size:
        raise _broken(path, f"its tensors end at byte {end:,}, and the file has {size:,}")


def read_tensor(fd: int, path: Path, entry: Entry) -> Tensor:
    """A whole tensor, read into memory of its own.

    Raises:
        StoreCorrupt: if the file ends before the tensor does.
    """
    out = torch.empty(entry.shape, dtype=entry.dtype)
    if out.numel():
        read_into(fd, path, raw(out), entry.start)
    return out


def read_rows(fd: int, path: Path, entry: Entry, rows: Tensor) -> Tensor:
    """Some rows of a tensor. Adjacent rows are read at once.

    Args:
        fd: the file.
        path: its name, for errors.
        entry: the tensor.
        rows: ``(m,)`` int64 indices of the rows, ascending.

    Returns:
        ``(m, *)`` rows.

    Raises:
        StoreCorrupt: if the file ends before the last of them.
    """
    out = torch.empty((len(rows), *entry.shape[1:]), dtype=entry.dtype)
    stride = math.prod(entry.shape[1:]) * entry.dtype.itemsize
    # A run of adjacent rows ends where the next index is not one more.
    ends = [*((rows.diff() != 1).nonzero().flatten() + 1).tolist(), len(rows)]
    for start, stop in zip([0, *ends], ends, strict=False):
        if stride and stop > start:
            read_into(fd, path, raw(out[start:stop]), entry.start + int(rows[start]) * stride)
    return out
