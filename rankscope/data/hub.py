"""A Hugging Face dataset on disk, as ``save_to_disk`` writes it. Images are decoded when they are asked for.

Loading scripts are never run; a data set of the hub is first saved to disk with the ``datasets`` package.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rankscope.data.files import Options, cleaned
from rankscope.data.probes import Example, decode_picture
from rankscope.data.records import assign, listed
from rankscope.data.report import Ledger
from rankscope.errors import DataError, MissingTool

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

MARKS = ("dataset_dict.json", "dataset_info.json")
"""The files by which such a folder is recognised."""


@dataclass(frozen=True)
class Cell:
    """An image in a column of a dataset: a :class:`~rankscope.data.probes.Picture`."""

    table: Dataset = field(repr=False)
    """The dataset, its images not decoded."""
    row: int
    column: str

    def _bytes(self) -> bytes:
        value = self.table[self.row][self.column]
        if value["bytes"] is not None:
            return bytes(value["bytes"])
        path = Path(value["path"])
        if not path.is_file():
            raise DataError(
                f"the image of row {self.row} is not there: {path}; the dataset refers to files outside of it"
            )
        return path.read_bytes()

    def open(self) -> Image:
        """The picture."""
        return decode_picture(self._bytes(), f"the image in column {self.column}, row {self.row}")

    def digest(self) -> str:
        """The sha256 of the encoded bytes."""
        return hashlib.sha256(self._bytes()).hexdigest()


def read_saved(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """All splits of a dataset on disk.

    Raises:
        MissingTool: if the ``datasets`` package is not installed.
        DataError: if the folder cannot be loaded.
    """
    try:
        import datasets
    except ImportError:
        raise MissingTool(
            f"{path} is a Hugging Face dataset; reading it needs the package datasets: pip install 'rankscope[data]'"
        ) from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} looks like a dataset written by save_to_disk, and cannot be loaded: {error}"
        ) from error
    tables = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    return [example for split, table in tables.items() for example in _table(split, table, options, ledger, str(path))]


def _table(split: str, table: Dataset, options: Options, ledger: Ledger, where: str) -> list[Example]:
    import datasets

    columns = assign(table.column_names, options.columns, where)
    pictures = [n for n, f in table.features.items() if isinstance(f, datasets.Image)]
    for name in pictures:
        table = table.cast_column(name, datasets.Image(decode=False))
    plain = table.select_columns([c for c in columns.values() if c not in pictures])
    found = []
    for row, item in enumerate(plain):
        place = f"{split} row {row}".strip()
        picture = Cell(table, row, columns["image"]) if columns.get("image") in pictures else None
        text = item.get(columns.get("text", ""), "") or ""
        if not isinstance(text, str) or not (text.strip() or picture):
            ledger.fault("text is empty or no text", place)
            continue
        name = str(item[columns["id"]]) if "id" in columns else f"{split}/{row}".lstrip("/")
        label = item.get(columns.get("label", ""), None)
        targets = cleaned(listed(item.get(columns.get("targets", ""), None)), place, ledger)
        found.append(Example(name, text, picture, targets, label, about={"split": split} if split else {}))
    return found
