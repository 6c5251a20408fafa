"""Features that other tools have written, read as rows: arrays, dictionaries of tensors, columns, and their stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rankscope.errors import DataError, StoreCorrupt, UnsafeError
from rankscope.store import files, ptfile
from rankscope.store.columns import read_arrow, read_dataset, read_parquet
from rankscope.store.plain import LIMIT, member, parse
from rankscope.store.tables import IDS, Foreign, Table, named_file
from rankscope.store.tensors import read_header, read_tensor

_ACTIVATIONS = ("activation", "out")


def read_foreign(path: Path, columns: Sequence[str] | None = None) -> Foreign:
    """The features in another tool's file or folder.

    Args:
        path: ``.npy``, ``.npz``, ``.pt``, ``.safetensors``, ``.parquet``, ``.arrow``, a data set saved by Hugging Face
            (SAELens caches activations so), or a bundle of TorchLens.
        columns: the names to read; all that can be features if None.

    Raises:
        DataError: if it holds no features, or is of no kind that is read.
        MissingTool: if the package that reads it is not installed.
        UnsafeError: if it would run code.
        StoreCorrupt: if its bytes are not whole.
    """
    if not path.exists():
        raise DataError(f"there is nothing to import at {path}")
    if path.is_dir():
        return _chosen(_read_folder(path), path, columns)
    readers = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".pt": _read_pt,
        ".pth": _read_pt,
        ".safetensors": _read_safetensors,
    }
    readers |= {".parquet": read_parquet, ".arrow": read_arrow, ".feather": read_arrow}
    if path.suffix not in readers:
        raise DataError(f"{path} is of no kind that is imported; these are: {', '.join(readers)}, and folders")
    return _chosen(readers[path.suffix](path), path, columns)


def _chosen(found: Foreign, path: Path, columns: Sequence[str] | None) -> Foreign:
    missing = [name for name in columns or () if name not in found.tables]
    if missing or not found.tables:
        asked = f"no {missing[0]!r}" if missing else "no floating-point array of two or three dimensions"
        raise DataError(f"{path} ({found.form}) holds {asked}; it holds {', '.join(found.tables) or 'no features'}")
    tables = {name: table for name, table in found.tables.items() if columns is None or name in columns}
    sizes = {name: len(table.counts) for name, table in tables.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name}: {size}" for name, size in list(sizes.items())[:6])
        raise DataError(
            f"{path}: the arrays have different numbers of samples ({told}); choose some by name with columns"
        )
    return Foreign(found.form, tables, found.ids, found.notes)


def _table(x: Tensor) -> Table | None:
    """The rows of an array of samples, or of samples and tokens; None if it can be neither."""
    if not x.is_floating_point() or x.ndim not in (2, 3) or not x.numel():
        return None
    tokens = x.shape[1] if x.ndim == 3 else 1
    return Table(x.reshape(-1, x.shape[-1]), torch.full((len(x),), tokens, dtype=torch.int64), x.ndim == 3)


def _tables(arrays: Mapping[str, Tensor]) -> tuple[dict[str, Table], list[str]]:
    tables = {name: _table(x) for name, x in arrays.items()}
    left_out = [
        f"{name} was left out: its shape is {tuple(arrays[name].shape)}" for name, t in tables.items() if t is None
    ]
    return {name: t for name, t in tables.items() if t is not None}, left_out


def _read_npy(path: Path) -> Foreign:
    array = _numpy(path)
    tables, notes = _tables({path.stem: _tensor(array)})
    return Foreign("a NumPy array", tables, None, notes)


def _read_npz(path: Path) -> Foreign:
    with _numpy(path) as archive:
        arrays = {name: archive[name] for name in _names(archive, path)}
    texts = [a for name, a in arrays.items() if name in IDS and a.ndim == 1 and a.dtype.kind in "USi"]
    tables, notes = _tables({name: _tensor(a) for name, a in arrays.items() if a.dtype.kind == "f"})
    return Foreign("NumPy arrays", tables, tuple(str(i) for i in texts[0].tolist()) if texts else None, notes)


def _numpy(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _numpy_error(path, error) from error


def _names(archive: Any, path: Path) -> list[str]:
    try:
        return [name for name in archive.files if archive[name] is not None]
    except (ValueError, EOFError, OSError) as error:
        raise _numpy_error(path, error) from error


def _numpy_error(path: Path, error: Exception) -> UnsafeError | DataError:
    if "allow_pickle" in str(error) or "pickle" in str(error).lower():
        return UnsafeError(
            f"{path} holds Python objects, and could run code if it were loaded; save it as plain arrays"
        )
    return DataError(f"{path} cannot be read by NumPy: {error}")


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind != "f":
        return torch.zeros(array.shape, dtype=torch.bool)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _read_pt(path: Path) -> Foreign:
    value = ptfile.load_values(path)
    arrays = dict(_leaves(value, ""))
    ids = (
        next((v for k, v in value.items() if k in IDS and isinstance(v, list | tuple)), None)
        if isinstance(value, dict)
        else None
    )
    tables, notes = _tables({name or path.stem: x for name, x in arrays.items()})
    return Foreign("a dictionary of tensors", tables, tuple(str(i) for i in ids) if ids else None, notes)


def _leaves(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, f"{name}.{key}" if name else str(key))


def _read_safetensors(path: Path) -> Foreign:
    with files.reading(path) as fd:
        arrays = {name: read_tensor(fd, path, entry) for name, entry in read_header(fd, path)[1].items()}
    tables, notes = _tables(arrays)
    return Foreign("tensors", tables, None, notes)


def _read_folder(path: Path) -> Foreign:
    if (path / "manifest.json").is_file() and (path / "blobs").is_dir():
        return _read_torchlens(path)
    if (path / "state.json").is_file():
        return read_dataset(path)
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.parent.name for p in path.glob("*/state.json"))
        raise DataError(f"{path} holds several data sets; import one of {', '.join(splits)}")
    raise DataError(
        f"{path} is neither a saved data set (with state.json) nor a TorchLens bundle (manifest.json and blobs/)"
    )


def _read_torchlens(path: Path) -> Foreign:
    """A bundle of TorchLens: ``manifest.json`` lists one safetensors file an operation. Its pickle is not read."""
    told = path / "manifest.json"
    arrays: dict[str, Tensor] = {}
    for item in member(parse(files.read_small(told, LIMIT), told), "tensors", list, told):
        if not isinstance(item, dict) or item.get("kind") not in _ACTIVATIONS:
            continue
        blob = path / named_file(item, "relative_path", path)
        if files.digest_of_file(blob)[1] != item.get("sha256"):
            raise StoreCorrupt(
                f"{blob} was altered: its SHA-256 is not the one that {told.name} tells; save the bundle again"
            )
        with files.reading(blob) as fd:
            entries = read_header(fd, blob)[1]
            arrays[member(item, "label", str, told)] = read_tensor(fd, blob, next(iter(entries.values())))
    tables, notes = _tables(arrays)
    samples = len(next(iter(tables.values())).counts) if tables else 0
    others = [name for name, table in tables.items() if len(table.counts) != samples]
    notes += [f"{name} was left out: it has not the {samples} samples of the first" for name in others]
    return Foreign("a TorchLens bundle", {k: t for k, t in tables.items() if k not in others}, None, notes)
