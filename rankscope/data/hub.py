"""A Hugging Face dataset on disk, as ``save_to_disk`` writes it. Images are decoded when they are needed.

Loading scripts are never run; a dataset of the Hub is first saved to disk with the ``datasets`` package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rankscope.data.intake import Intake
from rankscope.data.probes import EncodedPicture, Example
from rankscope.data.records import assign, listed
from rankscope.errors import DataError, MissingTool

if TYPE_CHECKING:
    from datasets import Dataset

MARKS = ("dataset_dict.json", "dataset_info.json")
"""The files by which such a folder is recognised."""


@dataclass(frozen=True)
class Cell(EncodedPicture):
    """An image in a column of a dataset."""

    dataset: Dataset = field(repr=False)
    """The dataset, its images not decoded."""
    row: int
    """The number of the row."""
    column: str
    """The name of the column."""

    @property
    def where(self) -> str:
        return f"the image in column {self.column}, row {self.row}"

    def encoded(self) -> bytes:
        value = self.dataset[self.row][self.column]
        if value["bytes"] is not None:
            return bytes(value["bytes"])
        path = Path(value["path"])
        if not path.is_file():
            raise DataError(f"{self.where}, is missing: {path}; the dataset refers to files outside of it")
        return path.read_bytes()


def read_saved(path: Path, intake: Intake) -> list[Example]:
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
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    return [example for split, dataset in splits.items() for example in _split(split, dataset, intake, str(path))]


def _split(split: str, dataset: Dataset, intake: Intake, where: str) -> list[Example]:
    import datasets

    columns = assign(dataset.column_names, intake.columns, where)
    pictures = [n for n, f in dataset.features.items() if isinstance(f, datasets.Image)]
    for name in pictures:
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    plain = dataset.select_columns([c for c in columns.values() if c not in pictures])
    found = []
    for row, item in enumerate(plain):
        place = f"{split} row {row}".strip()
        picture = Cell(dataset, row, columns["image"]) if columns.get("image") in pictures else None
        text = item.get(columns.get("text", ""), "") or ""
        if not isinstance(text, str) or not (text.strip() or picture):
            intake.fault("text is empty or not text", place)
            continue
        name = str(item[columns["id"]]) if "id" in columns else f"{split}/{row}".lstrip("/")
        label = item.get(columns.get("label", ""), None)
        targets = intake.clean_all(listed(item.get(columns.get("targets", ""), None)), place)
        found.append(Example(name, text, picture, targets, label, about={"split": split} if split else {}))
    return found
