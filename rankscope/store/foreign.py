"""Features that other tools have written, read as rows: arrays, dictionaries of tensors, columns of vectors, and their stores."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rankscope.errors import DataError, MissingTool, StoreCorrupt, UnsafeError
from rankscope.store import files, ptfile
from rankscope.store.plain import LIMIT, Json, member, parse
from rankscope.store.tensors import read_header, read_tensor

IDS = ("id", "ids", "sample", "sample_id", "sample_ids")
"""The names under which the ids of samples are looked for."""

_ACTIVATIONS = ("activation", "out")
_RESID = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_NUMBERED = re.compile(r"(layers?|blocks?|h|hidden_states?|)[._-]?(\d+)")


class Matrix(NamedTuple):
    """The rows at one site."""

    x: Tensor
    """``(n, d)`` features, the samples one after another."""
    counts: Tensor
    """``(samples,)`` int64, the number of rows of each sample."""
    tokens: bool
    """Whether a row is a token, and not a whole sample."""


@dataclass(frozen=True)
class Foreign:
    """The content of another tool's file or folder."""

    form: str
    """What it is, in words."""
    sites: dict[str, Matrix]
    """The rows at each site, by the other tool's name for it."""
    ids: tuple[str, ...] | None = None
    """The ids of the samples, if it has any."""
    notes: tuple[str, ...] = ()
    """What was left out, in sentences."""


def site_name(name: str) -> str:
    """The site for another tool's name of a reading point.

    ``decoder.3`` stays; the residual stream of TransformerLens (``blocks.3.hook_resid_post``) is a block's output;
    ``layer_3`` is ``layer.3``; anything else is a module of its own, with the point ``output``.
    """
    if match := _RESID.fullmatch(name):
        block = int(match[1]) - (match[2] == "pre")  # the stream before block 3 is the output of block 2
        return f"decoder.{block}" if block >= 0 else "decoder.embed"
    if match := _NUMBERED.fullmatch(name):
        return f"{match[1] or 'layer'}.{int(match[2])}"
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".-") or "features"
    point = clean.rpartition(".")[2]
    return clean if "." in clean and (point in ("embed", "final", "output") or point.isdecimal()) else f"{clean}.output"


def read_foreign(path: Path, columns: Sequence[str] | None = None) -> Foreign:
    """The features in another tool's file or folder.

    Args:
        path: ``.npy``, ``.npz``, ``.pt``, ``.safetensors``, ``.parquet``, ``.arrow``, a data set saved by Hugging Face
            (as SAELens caches activations), or a bundle of TorchLens.
        columns: the names to read; all that can be features if None.

    Raises:
        DataError: if it holds no features, or is of no known kind.
        MissingTool: if the package that reads it is not installed.
        UnsafeError: if it would run code.
        StoreCorrupt: if its bytes are not whole.
    """
    if not path.exists():
        raise DataError(f"there is nothing to import at {path}")
    if not path.is_dir() and path.suffix not in _READERS:
        raise DataError(f"{path} is of no kind that is imported; these are: {', '.join(_READERS)}, and folders")
    found = _read_folder(path) if path.is_dir() else _READERS[path.suffix](path)
    missing = [name for name in columns or () if name not in found.sites]
    if missing or not found.sites:
        asked = f"no {missing[0]!r}" if missing else "no floating-point array of two or three dimensions"
        raise DataError(f"{path} ({found.form}) holds {asked}; it holds {', '.join(found.sites) or 'no features'}")
    chosen = {name: matrix for name, matrix in found.sites.items() if columns is None or name in columns}
    sizes = {name: len(matrix.counts) for name, matrix in chosen.items()}
    if len(set(sizes.values())) > 1:
        some = ", ".join(f"{name}: {size}" for name, size in list(sizes.items())[:6])
        raise DataError(
            f"{path}: the arrays have different numbers of samples ({some}); choose some by name with columns"
        )
    return replace(found, sites=chosen)


def _from_arrays(form: str, arrays: Mapping[str, Tensor], ids: Sequence[object] | None = None) -> Foreign:
    """The arrays of samples, or of samples and tokens; others are left out, with a note."""
    sites, notes = {}, []
    for name, x in arrays.items():
        if not x.is_floating_point() or x.ndim not in (2, 3) or not x.numel():
            notes.append(f"{name} was left out: its shape is {tuple(x.shape)}")
            continue
        tokens = x.shape[1] if x.ndim == 3 else 1
        counts = torch.full((len(x),), tokens, dtype=torch.int64)
        sites[name] = Matrix(x.reshape(-1, x.shape[-1]), counts, x.ndim == 3)
    return Foreign(form, sites, tuple(map(str, ids)) if ids else None, tuple(notes))


def _read_npy(path: Path) -> Foreign:
    return _from_arrays("a NumPy array", {path.stem: _tensor(_numpy(path, lambda: np.load(path, allow_pickle=False)))})


def _read_npz(path: Path) -> Foreign:
    with _numpy(path, lambda: np.load(path, allow_pickle=False)) as archive:
        arrays = _numpy(path, lambda: {name: archive[name] for name in archive.files})
    texts = [a for name, a in arrays.items() if name in IDS and a.ndim == 1 and a.dtype.kind in "USi"]
    features = {name: _tensor(a) for name, a in arrays.items() if a.dtype.kind == "f"}
    return _from_arrays("NumPy arrays", features, texts[0].tolist() if texts else None)


def _numpy(path: Path, read: Callable[[], Any]) -> Any:
    """What NumPy reads, its errors made ours."""
    try:
        return read()
    except (ValueError, EOFError, OSError) as error:
        if "pickle" in str(error).lower():
            raise UnsafeError(
                f"{path} holds Python objects, and could run code if it were loaded; save it as plain arrays"
            ) from error
        raise DataError(f"{path} cannot be read by NumPy: {error}") from error


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind != "f":
        return torch.zeros(array.shape, dtype=torch.bool)  # left out later, with its shape in the note
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _read_pt(path: Path) -> Foreign:
    value = ptfile.load_values(path)
    arrays = {name or path.stem: x for name, x in _leaves(value, "")}
    listed = value.items() if isinstance(value, dict) else ()
    ids = next((v for k, v in listed if k in IDS and isinstance(v, list | tuple)), None)
    return _from_arrays("a dictionary of tensors", arrays, ids)


def _leaves(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, f"{name}.{key}" if name else str(key))


def _read_safetensors(path: Path) -> Foreign:
    with files.reading(path) as fd:
        arrays = {name: read_tensor(fd, path, entry) for name, entry in read_header(fd, path)[1].items()}
    return _from_arrays("tensors", arrays)


def pyarrow(module: str) -> ModuleType:
    """A module of pyarrow.

    Raises:
        MissingTool: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingTool("Arrow and Parquet need pyarrow: pip install 'rankscope[data]'") from error


def _read_parquet(path: Path) -> Foreign:
    parquet, arrow = pyarrow("pyarrow.parquet"), pyarrow("pyarrow")
    try:
        return _from_columns(parquet.read_table(path), "a Parquet table", path)
    except arrow.ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _read_arrow(path: Path) -> Foreign:
    return _from_columns(_arrow_table([path]), "an Arrow table", path)


def _arrow_table(paths: Sequence[Path]) -> Any:
    """The table in Arrow files of the same columns, each in the stream or the file format."""
    arrow, ipc = pyarrow("pyarrow"), pyarrow("pyarrow.ipc")
    tables = []
    for path in paths:
        with files.reading(path) as fd, os.fdopen(os.dup(fd), "rb") as stream:
            opener = ipc.open_file if stream.read(6) == b"ARROW1" else ipc.open_stream
            stream.seek(0)
            try:
                tables.append(opener(stream).read_all())
            except (arrow.ArrowException, OSError) as error:
                raise DataError(f"{path} cannot be read as Arrow: {error}") from error
    try:
        return arrow.concat_tables(tables)
    except arrow.ArrowException as error:
        raise DataError(f"{paths[0].parent}: its parts have different columns: {error}") from error


def _from_columns(table: Any, form: str, path: Path) -> Foreign:
    """The columns of vectors in a table; others are left out, with a note."""
    found = {name: _column(table.column(name), name, path) for name in table.column_names}
    ids = next((tuple(str(i) for i in table.column(n).to_pylist()) for n in IDS if n in table.column_names), None)
    left_out = [name for name, matrix in found.items() if matrix is None and name not in IDS]
    notes = tuple(f"{name} was left out: it is not a column of vectors" for name in left_out)
    return Foreign(form, {name: m for name, m in found.items() if m is not None}, ids, notes)


def _column(column: Any, name: str, path: Path) -> Matrix | None:
    """A column of vectors (a row is a sample) or of lists of vectors (a row is a token); None if it is neither."""
    arrow = pyarrow("pyarrow")
    types = arrow.types
    chunks = [c.storage if isinstance(c, arrow.ExtensionArray) else c for c in column.chunks]
    if not chunks:
        return None
    array, lengths = arrow.concat_arrays(chunks), []
    while types.is_list(array.type) or types.is_fixed_size_list(array.type) or types.is_large_list(array.type):
        if array.null_count:
            raise DataError(f"{path}: the column {name} has {array.null_count} empty entries")
        lengths.append(torch.tensor(pyarrow("pyarrow.compute").list_value_length(array).to_pylist(), dtype=torch.int64))
        array = array.flatten()
    # One level of lists holds a vector for each sample; two levels hold a vector for each token of each sample.
    if len(lengths) not in (1, 2) or not types.is_floating(array.type):
        return None
    widths = set(lengths[-1].tolist())
    if len(widths) != 1 or array.null_count:
        found = sorted(widths)[:5]
        raise DataError(f"{path}: the vectors of the column {name} have different lengths or missing values: {found}")
    x = torch.from_numpy(np.array(array.to_numpy(zero_copy_only=False))).reshape(-1, widths.pop())
    counts = lengths[0] if len(lengths) == 2 else torch.ones(len(x), dtype=torch.int64)
    return Matrix(x, counts, len(lengths) == 2)


_READERS: dict[str, Callable[[Path], Foreign]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}
"""What reads a file, by its ending."""


def _read_folder(path: Path) -> Foreign:
    if (path / "manifest.json").is_file() and (path / "blobs").is_dir():
        return _read_torchlens(path)
    if (path / "state.json").is_file():
        return _read_dataset(path)
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.parent.name for p in path.glob("*/state.json"))
        raise DataError(f"{path} holds several data sets; import one of {', '.join(splits)}")
    raise DataError(
        f"{path} is neither a saved data set (with state.json) nor a TorchLens bundle (manifest.json and blobs/)"
    )


def _read_dataset(path: Path) -> Foreign:
    """A data set saved by Hugging Face, as SAELens caches activations: a column of (context, width) arrays for each hook."""
    listing = path / "state.json"
    state = parse(files.read_small(listing, LIMIT), listing)
    if state.get("_indices_data_files"):
        raise DataError(f"{path} is a selection of another data set; save it with flatten_indices() first")
    names = [_named_file(item, "filename", path) for item in member(state, "_data_files", list, listing)]
    return _from_columns(_arrow_table([path / name for name in names]), "a saved data set", path)


def _read_torchlens(path: Path) -> Foreign:
    """A bundle of TorchLens: ``manifest.json`` lists one safetensors file for each operation. Its pickle is not read."""
    listing = path / "manifest.json"
    arrays: dict[str, Tensor] = {}
    for item in member(parse(files.read_small(listing, LIMIT), listing), "tensors", list, listing):
        if not isinstance(item, dict) or item.get("kind") not in _ACTIVATIONS:
            continue
        blob = path / _named_file(item, "relative_path", path)
        if files.digest_of_file(blob)[1] != item.get("sha256"):
            raise StoreCorrupt(
                f"{blob} was altered: its SHA-256 is not the one in {listing.name}; save the bundle again"
            )
        with files.reading(blob) as fd:
            entries = read_header(fd, blob)[1]
            arrays[member(item, "label", str, listing)] = read_tensor(fd, blob, next(iter(entries.values())))
    found = _from_arrays("a TorchLens bundle", arrays)
    samples = len(next(iter(found.sites.values())).counts) if found.sites else 0
    others = [name for name, matrix in found.sites.items() if len(matrix.counts) != samples]
    notes = tuple(f"{name} was left out: it has not the {samples} samples of the first" for name in others)
    sites = {name: matrix for name, matrix in found.sites.items() if name not in others}
    return replace(found, sites=sites, notes=found.notes + notes)


def _named_file(item: Json, key: str, path: Path) -> str:
    """The name of a file in a folder's own listing.

    Raises:
        UnsafeError: if it leads out of the folder.
    """
    name = item.get(key) if isinstance(item, dict) else None
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UnsafeError(f"{path} names a file outside of its folder: {str(name)[:80]!r}")
    return name
