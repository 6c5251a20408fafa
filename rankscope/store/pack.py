"""A run as one file, written a site at a time."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from rankscope.errors import OutputExists, UsageError
from rankscope.features import Rows
from rankscope.store import files
from rankscope.store.layout import PLACES, locked
from rankscope.store.opening import open_run
from rankscope.store.run import Run
from rankscope.store.single import sealed_archive, texts
from rankscope.store.tensors import header, raw

SUFFIXES = (".pt", ".safetensors")
"""The file types of a run in one file."""


def pack(folder: str | Path, target: str | Path, *, overwrite: bool = False) -> Run:
    """Writes a run as one file, with the rows in the data's order. Memory holds one site at a time.

    ``.pt`` is what ``torch.load(target, weights_only=True)`` reads: a dictionary with ``features`` (a tensor a site),
    ``rows`` (tensors of each stack) and strings; ``.safetensors`` has the same tensors, and the strings as metadata.

    Args:
        folder: a finished run, in any form.
        target: the file; its ending says which of the two.
        overwrite: whether a file that is there is replaced, in one step at the very end.

    Returns:
        The run in its new file.

    Raises:
        UsageError: if the ending is neither.
        OutputExists: if the file is there.
        StorageError: if the disk is full, read-only or failing; nothing is left of the file then.
    """
    run, path = open_run(folder), Path(target)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"a run in one file ends in {' or '.join(SUFFIXES)}; {path.name!r} does not")
    if os.path.lexists(path) and (path.is_dir() or not overwrite):
        raise OutputExists(f"{path} exists and is kept{'' if path.is_dir() else ' unless --overwrite is given'}")
    files.make_folder(path.absolute().parent)
    needed = _size(run)
    with _temporary(path) as temporary, files.storing(path, needed):
        (_write_pt if path.suffix == ".pt" else _write_safetensors)(run, temporary)
        with files.reading(temporary) as fd:
            os.fsync(fd)
        if not files.publish(temporary, path, replace=overwrite):
            raise OutputExists(f"{path} was made meanwhile by another process and is kept")
    return open_run(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """The name of a file beside ``path`` that only this process writes, and that is gone afterwards."""
    temporary = path.with_name(f"{files.TEMPORARY}{path.name}")
    with locked(temporary):
        try:
            yield temporary
        finally:
            files.remove(temporary)


def _size(run: Run) -> int:
    m = run.manifest
    features = sum(run.n(site) * run.width(site) for site in run.sites) * m.torch_dtype.itemsize
    return features + sum(len(run.rows_at(site)) * 17 for site in run.sites)


def _rows(run: Run) -> dict[str, Rows]:
    """The rows of each stack, in the order of the stacks."""
    first = {run.manifest.stack(site): site for site in reversed(run.sites)}
    return {stack: run.rows_at(first[stack]) for stack in run.manifest.stacks}


def _shapes(run: Run) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The dtype and shape of every tensor by name: the sites, then the rows of each stack."""
    m = run.manifest
    sites = {str(site): (m.torch_dtype, (run.n(site), run.width(site))) for site in run.sites}
    places = {f"rows/{s}/{k}": (dtype, (len(rows),)) for s, rows in _rows(run).items() for k, dtype in PLACES.items()}
    return {**sites, **places}


def _tensors(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by name, one at a time, in the order of :func:`_shapes`."""
    for site in run.sites:
        yield str(site), run.features(site)
    for stack, rows in _rows(run).items():
        for name, x in zip(PLACES, (rows.sample, rows.position, rows.role), strict=True):
            yield f"rows/{stack}/{name}", x


def _write_safetensors(run: Run, path: Path) -> None:
    """The header is written last, into the place that was kept for it: only then are the digests known."""
    shapes = _shapes(run)
    head = header(shapes, texts(run.manifest, dict.fromkeys(shapes, "0" * 64)))
    digests = {}
    with path.open("r+b") as stream:
        stream.truncate(0)
        stream.write(head)
        for name, x in _tensors(run):
            data = raw(x)
            stream.write(data)
            digests[name] = hashlib.sha256(data).hexdigest()
        stream.seek(0)
        stream.write(header(shapes, texts(run.manifest, digests)))


@dataclass(frozen=True)
class _Storage:
    """Stands for the bytes of a tensor in the pickle of a ``.pt`` file."""

    key: str
    kind: type
    numel: int


@dataclass(frozen=True)
class _Reference:
    """A tensor whose bytes lie in a record of their own."""

    storage: _Storage
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[object, ...]:
        stride = tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))
        return torch._utils._rebuild_tensor_v2, (self.storage, 0, self.shape, stride, False, OrderedDict())


class _Pickler(pickle.Pickler):
    """Pickles as ``torch.save`` does, for tensors that are not in memory."""

    def persistent_id(self, obj: object) -> tuple[object, ...] | None:
        if isinstance(obj, _Storage):
            return "storage", obj.kind, obj.key, "cpu", obj.numel
        return None


_KINDS = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.uint8: torch.ByteStorage,
}


def _write_pt(run: Run, path: Path) -> None:
    """An archive as ``torch.save`` writes it: a record a tensor, and the pickle that tells what they are."""
    digests, references = {}, {}
    with sealed_archive(path) as archive:
        for i, (name, x) in enumerate(_tensors(run)):
            data = raw(x)
            _record(archive, f"data/{i}", [data])
            digests[name] = hashlib.sha256(data).hexdigest()
            references[name] = _Reference(_Storage(str(i), _KINDS[x.dtype], x.numel()), tuple(x.shape))
        _record(archive, "data.pkl", [_pickle(run, references, texts(run.manifest, digests))])
        for record, content in (("byteorder", b"little"), ("version", b"3\n")):
            _record(archive, record, [content])


def _pickle(run: Run, references: Mapping[str, _Reference], strings: Mapping[str, str]) -> bytes:
    features = {str(site): references[str(site)] for site in run.sites}
    rows = {stack: {key: references[f"rows/{stack}/{key}"] for key in PLACES} for stack in run.manifest.stacks}
    buffer = BytesIO()
    _Pickler(buffer, protocol=2).dump({**strings, "features": features, "rows": rows})
    return buffer.getvalue()


def _record(archive: zipfile.ZipFile, name: str, chunks: Iterable[bytes | memoryview]) -> None:
    """Adds a record whose data begin at a multiple of 64 bytes, as torch wants them for mapping into memory."""
    info = zipfile.ZipInfo(f"run/{name}")
    assert archive.fp is not None
    begin = archive.fp.tell() + 30 + len(info.filename) + _ZIP64_EXTRA + 4
    pad = -begin % 64
    info.extra = struct.pack("<HH", 0x4246, pad) + b"Z" * pad
    with archive.open(info, "w", force_zip64=True) as stream:
        for chunk in chunks:
            stream.write(chunk)


_ZIP64_EXTRA = 20
