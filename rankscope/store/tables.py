"""Tables of Arrow and Parquet, and their columns of vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rankscope.data.arrow import pyarrow
from rankscope.errors import DataError
from rankscope.store import files
from rankscope.store.matrices import IDS, Foreign, Matrix, id_texts


def arrow_table(paths: Sequence[Path]) -> Any:
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


def from_columns(table: Any, form: str, path: Path) -> Foreign:
    """The columns of vectors in a table; others are left out, with a note."""
    found = {name: column(table.column(name), name, path) for name in table.column_names}
    held = {n: id_texts(table.column(n).to_pylist()) for n in IDS if n in table.column_names and found[n] is None}
    ids = next((texts for texts in held.values() if texts is not None), None)
    others = [name for name, matrix in found.items() if matrix is None and name not in IDS]
    words = (
        "was left out: it is not a column of vectors"
        if len(others) == 1
        else "were left out: none is a column of vectors"
    )
    some = ", ".join(others[:3]) + (f" … ({len(others)} columns)" if len(others) > 3 else "")
    notes = (f"{some} {words}",) if others else ()
    return Foreign(form, {name: m for name, m in found.items() if m is not None}, ids, notes)


def column(values: Any, name: str, path: Path) -> Matrix | None:
    """A column of vectors (a row is a sample) or of lists of vectors (a row is a token); None if it is neither."""
    arrow = pyarrow("pyarrow")
    types = arrow.types
    chunks = [c.storage if isinstance(c, arrow.ExtensionArray) else c for c in values.chunks]
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
