"""pyarrow, which an extra installs, and the tables in Parquet files."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from rankscope.errors import DataError, MissingTool


def pyarrow(module: str) -> ModuleType:
    """A module of pyarrow.

    Raises:
        MissingTool: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingTool("Arrow and Parquet need pyarrow: pip install 'rankscope[data]'") from error


def parquet_table(path: Path) -> Any:
    """The table in a Parquet file.

    Raises:
        MissingTool: if pyarrow is not installed.
        DataError: if it is no Parquet file.
    """
    parquet, arrow = pyarrow("pyarrow.parquet"), pyarrow("pyarrow")
    try:
        return parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
