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
from rankscope.features import ROLES
from rankscope.store import files, ptfile
from rankscope.store.plain import LIMIT, Json, member, parse
from rankscope.store.tensors import read_header, read_tensor

IDS = ("id", "ids", "sample", "sample_id", "sample_ids", "image_id", "image_ids", "question_id", "question_ids", "uid", "uids",
       "key", "keys", "file_name", "file_names", "filename", "filenames", "name", "names")  # fmt: skip
"""The names under which the ids of samples are looked for; the first that has them wins."""

ROWS = ("sample", "position", "role")
"""The columns in which ``rankscope export`` says where rows came from."""
EXPORTED = "run.json"
"""The file by which what ``rankscope export`` wrote is recognised."""
_ACTIVATIONS = ("activation", "out")
_RESID = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_NUMBERED = re.compile(r"(layers?|blocks?|h|hidden_states?|)[._-]?(\d+)")
_HIDDEN = re.compile(r"(.*[._])?hidden_states?")
_OF_A_MODEL = re.compile(
    r"layer|block|stage|hidden|coder|conv|norm|att|mlp|resid|embed|feat|act|out|modul|level|head|linear|relu|vision|text|site"
    r"|former|run|seed|epoch|step|split|fold|model|checkpoint|^(h|l|fc)$"
)
"""Words by which a numbered name is a part of a network, or a run, and no sample."""
_MOST_SITES = 999
"""A plain number above it counts no layer."""
_FILE = re.compile(r".*\.(jpe?g|png|gif|webp|bmp|tiff?|txt|json)", re.IGNORECASE)


class Matrix(NamedTuple):
    """The rows at one site."""

    x: Tensor
    """``(n, d)`` features, the samples one after another."""
    counts: Tensor
    """``(samples,)`` int64, the number of rows of each sample."""
    tokens: bool
    """Whether a row is a token, and not a whole sample."""
    position: Tensor | None = None
    """``(n,)`` int64 positions, if they are known; otherwise tokens are counted from 0 in each sample."""
    role: Tensor | None = None
    """``(n,)`` uint8 roles, if they are known; otherwise tokens are text."""


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
    exact: bool = False
    """Whether the names are sites already."""


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


def _from_arrays(form: str, arrays: Mapping[str, Tensor], named: Mapping[str, object] | None = None) -> Foreign:
    """The arrays of samples, or of samples and tokens; others are left out, with a note.

    Args:
        form: what they come from, in words.
        arrays: the tensors by name.
        named: whatever else the source has by name, among which the ids may be.
    """
    held = {**(named or {}), **arrays}
    found = {name: texts for name in IDS if name in held and (texts := id_texts(held[name])) is not None}
    if not found and (samples := _of_samples(form, arrays)) is not None:
        return samples
    sites, notes = (
        {},
        [
            f"{name} was left out: ids are whole numbers or texts"
            for name in IDS
            if name in held and name not in found and name not in arrays
        ],
    )
    for name, x in arrays.items():
        if name in found:
            continue
        x = x if x.layout is torch.strided else x.to_dense()
        if not x.is_floating_point() or x.ndim not in (2, 3) or not x.numel():
            notes.append(f"{name} was left out: its shape is {tuple(x.shape)}")
            continue
        tokens = x.shape[1] if x.ndim == 3 else 1
        counts = torch.full((len(x),), tokens, dtype=torch.int64)
        sites[name] = Matrix(x.reshape(-1, x.shape[-1]), counts, x.ndim == 3)
    samples = {len(matrix.counts) for matrix in sites.values()}
    fitting = [name for name, texts in found.items() if len(texts) in samples]
    # Lists of another length may be something else; if none fits, the first is refused with the number of its ids.
    ids = found[(fitting or list(found))[0]] if found else None
    return Foreign(form, sites, ids, tuple(notes))


def id_texts(value: object) -> tuple[str, ...] | None:
    """Ids as texts: from a tensor, an array or a list of whole numbers, texts or bytes, one for each sample.

    Whole numbers of every dtype give the same text, and a column of shape ``(n, 1)`` is a list. None if these are no ids.
    """
    if isinstance(value, Tensor):
        value = (value.double() if value.is_floating_point() else value).detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        if not value.size or value.size != max(value.shape, default=0):
            return None
        value = value.reshape(-1).tolist()
    if not isinstance(value, list | tuple):
        return None
    texts = [_id_text(item) for item in value]
    return tuple(t for t in texts if t is not None) if texts and None not in texts else None


def _id_text(value: object) -> str | None:
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def _of_samples(form: str, arrays: Mapping[str, Tensor]) -> Foreign | None:
    """A dictionary of samples as one matrix; None if it is one of sites."""
    parts = list(arrays.values())
    shapes = {(x.ndim, x.shape[-1] if x.ndim else 0) for x in parts}
    if (
        len(parts) < 2
        or len(shapes) > 1
        or parts[0].ndim not in (1, 2)
        or not all(x.is_floating_point() for x in parts)
    ):
        return None
    if not _are_samples(list(arrays), ragged=len({len(x) for x in parts}) > 1 or parts[0].ndim == 1):
        return None
    rows = [x if x.ndim == 2 else x[None] for x in parts]
    counts = torch.tensor([len(x) for x in rows])
    note = f"{len(parts)} names such as {next(iter(arrays))!r} were taken for samples, not for sites"
    matrix = Matrix(torch.cat(rows), counts, parts[0].ndim == 2)
    return Foreign(form, {"features": matrix}, tuple(arrays), (note,))


def _are_samples(names: Sequence[str], *, ragged: bool) -> bool:
    """Whether names are those of samples: of files, or one stem with numbers that count no part of a network."""
    if all(map(_FILE.fullmatch, names)):
        return True
    stems = {re.sub(r"\d+", "", name) for name in names}
    if len(stems) > 1 or not all(re.search(r"\d", name) for name in names):
        return False
    stem = stems.pop()
    if not re.search(r"[^\W\d_]", stem):  # numbers alone may count layers, which have equally many rows
        return ragged or any(int(re.sub(r"\D", "", name)) > _MOST_SITES for name in names)
    parts = [part for part in re.split(r"[^A-Za-z]+", stem.lower()) if part]
    return not any(map(_OF_A_MODEL.search, parts)) and "." not in stem


def _read_npy(path: Path) -> Foreign:
    if (path.parent / EXPORTED).is_file():
        return _read_export(path.parent, only=path.stem)
    return _from_arrays("a NumPy array", {path.stem: _tensor(_numpy(path, lambda: np.load(path, allow_pickle=False)))})


def _read_npz(path: Path) -> Foreign:
    with _numpy(path, lambda: np.load(path, allow_pickle=False)) as archive:
        arrays = _numpy(path, lambda: {name: archive[name] for name in archive.files})
    features = {name: _tensor(a) for name, a in arrays.items() if a.dtype.kind == "f"}
    return _from_arrays("NumPy arrays", features, {name: a for name, a in arrays.items() if name not in features})


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
    # Torch has no float longer than 64 bits.
    dtype = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype))


def _read_pt(path: Path) -> Foreign:
    value = ptfile.load_values(path)
    arrays = {name or path.stem: x for name, x in _leaves(value, "")}
    named = {str(name): v for name, v in value.items()} if isinstance(value, dict) else {}
    listed = {k for k in IDS if k in named and not isinstance(named[k], Tensor) and id_texts(named[k]) is not None}
    # A list of single numbers, each a tensor, is no feature.
    arrays = {name: x for name, x in arrays.items() if name.partition(".")[0] not in listed}
    found = _from_arrays("a dictionary of tensors", arrays, {k: v for k, v in named.items() if k not in arrays})
    last = [name for name in found.sites if name.endswith(".embed")]
    note = "the last of the hidden states comes after the final norm where the model has one: name it with --site NAME=STACK.final"
    return replace(found, notes=(*found.notes, note)) if last else found


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
    if set(ROWS) | {"features"} <= set(table.column_names):
        ids = _exported_ids(path.parent)
        return _from_rows(form, {path.stem: table}, ids)
    found = {name: _column(table.column(name), name, path) for name in table.column_names}
    held = {n: id_texts(table.column(n).to_pylist()) for n in IDS if n in table.column_names and found[n] is None}
    ids = next((texts for texts in held.values() if texts is not None), None)
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
    if (path / EXPORTED).is_file():
        return _read_export(path)
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


def _exported_ids(folder: Path) -> list[str] | None:
    """The ids of all samples of the run that was exported into a folder, also of those without rows; None if it does not say."""
    listing = folder / EXPORTED
    if not listing.is_file():
        return None
    probe = member(parse(files.read_small(listing, LIMIT), listing), "probe", dict, listing)
    return [str(i) for i in member(probe, "ids", list, listing)]


def _read_export(path: Path, only: str | None = None) -> Foreign:
    """The folder that ``rankscope export`` wrote, as arrays, Parquet files or data sets; ``only`` one of its sites."""
    listing = path / EXPORTED
    described = parse(files.read_small(listing, LIMIT), listing)
    sites = member(described, "sites", dict, listing)
    tables: dict[str, Any] = {}
    for site in sites if only is None else [only]:
        if not isinstance(sites.get(site), dict) or _named_file({"site": site}, "site", path) != Path(site).name:
            raise DataError(f"{path} has no site {site!r}; it has {', '.join(sites)}")
        stack = member(sites[site], "stack", str, listing)
        tables[site] = _exported_table(path, site, _named_file({"stack": stack}, "stack", path))
    found = _from_rows("a run that was exported", tables, _exported_ids(path))
    if described.get("dtype") != "bfloat16":
        return found
    # Arrays and Arrow have no bfloat16, and float32 holds each of its values exactly.
    return replace(found, sites={name: m._replace(x=m.x.bfloat16()) for name, m in found.sites.items()})


def _exported_table(path: Path, site: str, stack: str) -> Any:
    """The rows of a site: a table, or a mapping of its columns."""
    if (path / f"{site}.npy").is_file():
        x = _numpy(path, lambda: np.load(path / f"{site}.npy", allow_pickle=False))
        with _numpy(path, lambda: np.load(path / f"{stack}.rows.npz", allow_pickle=False)) as archive:
            return {**{name: archive[name].tolist() for name in ROWS}, "features": _tensor(x)}
    if (path / f"{site}.parquet").is_file():
        return pyarrow("pyarrow.parquet").read_table(path / f"{site}.parquet")
    if (path / site / "state.json").is_file():
        return _arrow_table(sorted((path / site).glob("*.arrow")))
    raise DataError(f"{path} lacks the features of {site}; export the run again")


def _from_rows(form: str, tables: Mapping[str, Any], ids: Sequence[str] | None) -> Foreign:
    """Rows that say which sample, position and role they are; in the order of the samples.

    Raises:
        DataError: if there are not as many of each as rows, or a sample or role is unknown.
    """
    sites: dict[str, Matrix] = {}
    for name, table in tables.items():
        plain = isinstance(table, dict)
        sample, position, role = (table[c] if plain else table.column(c).to_pylist() for c in ROWS)
        matrix = None if plain else _column(table.column("features"), "features", Path(name))
        x = table["features"] if matrix is None else matrix.x
        ids = list(dict.fromkeys(map(str, sample))) if ids is None else ids
        places = {text: i for i, text in enumerate(ids)}
        lost = [r for r in role if r not in ROLES] + [s for s in sample if str(s) not in places]
        if lost or x.ndim != 2 or not len(x) == len(sample) == len(position) == len(role):
            raise DataError(
                f"the rows of {name} do not fit its features: {lost[0] if lost else f'{len(sample)} of them for {len(x)}'}"
            )
        index = torch.tensor([places[str(s)] for s in sample], dtype=torch.int64)
        order = torch.argsort(index, stable=True)
        at, kinds = (
            torch.tensor(position)[order],
            torch.tensor([ROLES.index(r) for r in role], dtype=torch.uint8)[order],
        )
        sites[name] = Matrix(x[order], torch.bincount(index, minlength=len(ids)), bool((at >= 0).any()), at, kinds)
    return Foreign(form, sites, tuple(ids or ()), exact=True)


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
