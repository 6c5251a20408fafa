"""Features that other tools have written, read as rows: arrays, dictionaries of tensors, columns of vectors, and their stores."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from rankscope.data.arrow import parquet_table
from rankscope.errors import DataError, StoreCorrupt
from rankscope.store import files, ptfile
from rankscope.store.exported import description, holds_rows, read_export, read_site
from rankscope.store.matrices import IDS, Foreign, from_arrays, id_texts
from rankscope.store.numpy_files import as_tensor, numpy_arrays
from rankscope.store.plain import LIMIT, member, named_file, parse
from rankscope.store.tables import arrow_table, from_columns
from rankscope.store.tensors import read_header, read_tensor

_ACTIVATIONS = ("activation", "out")
_RESID = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_NUMBERED = re.compile(r"(layers?|blocks?|h|hidden_states?|)[._-]?(\d+)")
_HIDDEN = re.compile(r"(.*[._])?hidden_states?")
_WEIGHTS = (".weight", ".lora_A", ".lora_B")
"""What the names of a network's parameters end in."""
_MOST_NOTES = 5
"""Reasons given in the refusal of a file that has no features."""


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

    A dictionary whose names are those of samples (a common stem with a number that counts no part of a network, or names of files)
    has a matrix of tokens or a vector for each sample; the names of any other dictionary are sites.

    Args:
        path: ``.npy``, ``.npz``, ``.pt``, ``.safetensors``, ``.parquet``, ``.arrow``, a data set saved by Hugging Face
            (as SAELens caches activations), a bundle of TorchLens, or what ``rankscope export`` wrote.
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
        raise DataError(f"{path} is not of a kind that can be imported, which are {', '.join(_READERS)}, and folders")
    found = _read_folder(path) if path.is_dir() else _READERS[path.suffix](path)
    missing = [name for name in columns or () if name not in found.sites]
    if missing or not found.sites:
        asked = f"no {missing[0]!r}" if missing else "no floating-point array of two or three dimensions"
        there = f"it holds {', '.join(found.sites)}" if found.sites else "; ".join(found.notes[:_MOST_NOTES])
        raise DataError(f"{path} ({found.form}) holds {asked}; {there or 'it is empty'}")
    weights = next((name for name in found.sites if name.endswith(_WEIGHTS)), None) if columns is None else None
    if weights is not None:
        raise DataError(
            f"{path} holds the weights of a model, such as {weights}, and no features; 'rankscope collect' reads features with "
            "the model's folder, or name with columns what shall be taken for features all the same"
        )
    chosen = {name: matrix for name, matrix in found.sites.items() if columns is None or name in columns}
    sizes = {name: len(matrix.counts) for name, matrix in chosen.items()}
    if len(set(sizes.values())) > 1:
        some = ", ".join(f"{name}: {size}" for name, size in list(sizes.items())[:6])
        raise DataError(
            f"{path}: the arrays have different numbers of samples ({some}); choose some by name with columns"
        )
    return replace(found, sites=chosen)


def _read_npy(path: Path) -> Foreign:
    described = description(path.parent)
    if described is not None and path.stem in member(described, "sites", dict, path.parent):
        return read_export(path.parent, described, only=path.stem)
    return from_arrays("a NumPy array", {name: as_tensor(a) for name, a in numpy_arrays(path).items()})


def _read_npz(path: Path) -> Foreign:
    arrays = numpy_arrays(path)
    features = {name: as_tensor(a) for name, a in arrays.items() if a.dtype.kind == "f"}
    return from_arrays("NumPy arrays", features, {name: a for name, a in arrays.items() if name not in features})


def _read_pt(path: Path) -> Foreign:
    value = _by_name(ptfile.load_values(path))
    named = {str(name): v for name, v in value.items()} if isinstance(value, dict) else {}
    listed = {name: texts for name in IDS if (texts := id_texts(named.get(name))) is not None}
    samples = {name: v for name, v in named.items() if name not in listed and _one_each(v, listed)}
    # What is listed by sample is no site for each of its members.
    rest = {k: v for k, v in value.items() if str(k) not in {*listed, *samples}} if isinstance(value, dict) else value
    arrays: dict[str, Tensor | Sequence[Tensor]] = {name or path.stem: x for name, x in _leaves(rest, "")}
    arrays |= {name: torch.stack(list(v)) if v[0].ndim == 1 else v for name, v in samples.items()}
    found = from_arrays("a dictionary of tensors", arrays, {k: v for k, v in named.items() if k not in arrays})
    last = [name for name in found.sites if name.endswith(".embed")]
    note = "the last of the hidden states comes after the final norm where the model has one: name it with --site NAME=STACK.final"
    return replace(found, notes=(*found.notes, note)) if last else found


def _by_name(value: object) -> object:
    """A list of records with the same names as one dictionary of lists; anything else as it is."""
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        return value
    if len({frozenset(row) for row in value}) > 1:
        raise DataError(
            f"the records have different names: {', '.join(sorted({str(k) for row in value for k in row}))}"
        )
    return {name: [row[name] for row in value] for name in value[0]}


def _one_each(value: object, ids: Mapping[str, Sequence[str]]) -> TypeGuard[Sequence[Tensor]]:
    """Whether a list has a tensor for each of the ids: a vector, or a matrix of tokens."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(x, Tensor) for x in value):
        return False
    count, shapes = len(value), {x.shape for x in value}
    if not any(len(texts) == count for texts in ids.values()):
        return False
    if value[0].ndim == 1:
        return len(shapes) == 1
    # A list of matrices that have a row for each id has as many sites as samples.
    return all(len(shape) == 2 for shape in shapes) and {shape[0] for shape in shapes} != {count}


def _leaves(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        entries = list(value.items() if isinstance(value, dict) else enumerate(value))
        if _are_hidden_states(value, name):  # transformers puts the embeddings before the blocks
            name, entries = name or "layer", [("embed" if i == 0 else i - 1, part) for i, part in entries]
        for key, part in entries:
            yield from _leaves(part, f"{name}.{key}" if name else str(key))


def _are_hidden_states(value: object, name: str) -> bool:
    """Whether a value is what transformers calls ``hidden_states``: a tuple of equal shape, or a list under that name."""
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(isinstance(x, Tensor) for x in value):
        return False
    if len({x.shape for x in value}) > 1:
        return False
    return bool(_HIDDEN.fullmatch(name)) or (isinstance(value, tuple) and not name and value[0].ndim == 3)


def _read_safetensors(path: Path) -> Foreign:
    with files.reading(path) as fd:
        arrays = {name: read_tensor(fd, path, entry) for name, entry in read_header(fd, path)[1].items()}
    return from_arrays("tensors", arrays)


def _read_table(path: Path) -> Foreign:
    """A Parquet or Arrow file: an exported site, or columns of vectors."""
    form, read = (
        ("a Parquet table", parquet_table) if path.suffix == ".parquet" else ("an Arrow table", _one_arrow_table)
    )
    table = read(path)
    return read_site(table, form, path) if holds_rows(table) else from_columns(table, form, path)


def _one_arrow_table(path: Path) -> object:
    return arrow_table([path])


_READERS: dict[str, Callable[[Path], Foreign]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".safetensors": _read_safetensors,
    ".parquet": _read_table,
    ".arrow": _read_table,
    ".feather": _read_table,
}
"""What reads a file, by its ending."""


def _read_folder(path: Path) -> Foreign:
    if (described := description(path)) is not None:
        return read_export(path, described)
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
    names = [named_file(item, "filename", path) for item in member(state, "_data_files", list, listing)]
    return from_columns(arrow_table([path / name for name in names]), "a saved data set", path)


def _read_torchlens(path: Path) -> Foreign:
    """A bundle of TorchLens: ``manifest.json`` lists one safetensors file for each operation. Its pickle is not read."""
    listing = path / "manifest.json"
    arrays: dict[str, Tensor] = {}
    for item in member(parse(files.read_small(listing, LIMIT), listing), "tensors", list, listing):
        if not isinstance(item, dict) or item.get("kind") not in _ACTIVATIONS:
            continue
        blob = path / named_file(item, "relative_path", path)
        if files.digest_of_file(blob)[1] != item.get("sha256"):
            raise StoreCorrupt(
                f"{blob} was altered: its SHA-256 is not the one in {listing.name}; save the bundle again"
            )
        with files.reading(blob) as fd:
            entries = read_header(fd, blob)[1]
            arrays[member(item, "label", str, listing)] = read_tensor(fd, blob, next(iter(entries.values())))
    found = from_arrays("a TorchLens bundle", arrays)
    samples = len(next(iter(found.sites.values())).counts) if found.sites else 0
    others = [name for name, matrix in found.sites.items() if len(matrix.counts) != samples]
    notes = tuple(f"{name} was left out: it does not have the {samples} samples of the first" for name in others)
    sites = {name: matrix for name, matrix in found.sites.items() if name not in others}
    return replace(found, sites=sites, notes=found.notes + notes)
