"""Columns of vectors: Arrow and Parquet tables, and data sets that Hugging Face has saved."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from rankscope.errors import DataError, MissingTool
from rankscope.store import files
from rankscope.store.plain import LIMIT, member, parse
from rankscope.store.tables import IDS, Foreign, Table, named_file


def _arrow(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingTool("Arrow and Parquet are read by pyarrow: pip install 'rankscope[data]'") from error


def read_parquet(path: Path) -> Foreign:
    """The columns of a Parquet file."""
    parquet, arrow = _arrow("pyarrow.parquet"), _arrow("pyarrow")
    try:
        return _columns(parquet.read_table(path), "a Parquet table", path)
    except arrow.ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def read_arrow(path: Path) -> Foreign:
    """The columns of an Arrow file, in its stream or its file format."""
    return _columns(_arrow_table([path]), "an Arrow table", path)


def _arrow_table(paths: Sequence[Path]) -> Any:
    arrow, ipc = _arrow("pyarrow"), _arrow("pyarrow.ipc")
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


def _columns(table: Any, form: str, path: Path) -> Foreign:
    found = {name: _column(table.column(name), name, path) for name in table.column_names}
    ids = next((tuple(str(i) for i in table.column(n).to_pylist()) for n in IDS if n in table.column_names), None)
    notes = [
        f"{name} was left out: it is no column of vectors" for name, t in found.items() if t is None and name not in IDS
    ]
    return Foreign(form, {name: t for name, t in found.items() if t is not None}, ids, notes)


def _column(column: Any, name: str, path: Path) -> Table | None:
    """A column of vectors (a row a sample) or of lists of vectors (a row a token); None if it is neither."""
    arrow = _arrow("pyarrow")
    chunks = [c.storage if isinstance(c, arrow.ExtensionArray) else c for c in column.chunks]
    if not chunks:
        return None
    array, lengths = arrow.concat_arrays(chunks), []
    while (
        arrow.types.is_list(array.type)
        or arrow.types.is_fixed_size_list(array.type)
        or arrow.types.is_large_list(array.type)
    ):
        if array.null_count:
            raise DataError(f"{path}: the column {name} has {array.null_count} empty places")
        lengths.append(torch.tensor(_arrow("pyarrow.compute").list_value_length(array).to_pylist(), dtype=torch.int64))
        array = array.flatten()
    if len(lengths) not in (1, 2) or not arrow.types.is_floating(array.type):
        return None
    widths = set(lengths[-1].tolist())
    if len(widths) != 1 or array.null_count:
        raise DataError(
            f"{path}: the vectors of the column {name} have different lengths or holes: {sorted(widths)[:5]}"
        )
    x = torch.from_numpy(np.array(array.to_numpy(zero_copy_only=False))).reshape(-1, widths.pop())
    counts = lengths[0] if len(lengths) == 2 else torch.ones(len(x), dtype=torch.int64)
    return Table(x, counts, len(lengths) == 2)


def read_dataset(path: Path) -> Foreign:
    """A data set saved by Hugging Face, as SAELens caches activations: a column a hook, of (context, width) arrays."""
    state = parse(files.read_small(path / "state.json", LIMIT), path / "state.json")
    names = [named_file(item, "filename", path) for item in member(state, "_data_files", list, path / "state.json")]
    if state.get("_indices_data_files"):
        raise DataError(f"{path} is a selection of another data set; save it with flatten_indices() first")
    return _columns(_arrow_table([path / name for name in names]), "a saved data set", path)
