"""A Hugging Face dataset on disk, as ``save_to_disk`` writes it. Images are decoded when they are needed.

Loading scripts are never run; a dataset of the Hub is first saved to disk with the ``datasets`` package.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rankscope.data.intake import Intake
from rankscope.data.probes import EncodedPicture, Example
from rankscope.data.records import examples_of
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
    return [example for split, dataset in splits.items() for example in _split(split, dataset, intake, path)]


def _split(split: str, dataset: Dataset, intake: Intake, path: Path) -> list[Example]:
    import datasets

    pictures = [n for n, f in dataset.features.items() if isinstance(f, datasets.Image)]
    for name in pictures:
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    plain = dataset.select_columns([c for c in dataset.column_names if c not in pictures])
    # Rows are named by their split and number where no column names them.
    rows = [
        (f"{split}/{row}".lstrip("/"), {**item, **{name: Cell(dataset, row, name) for name in pictures}})
        for row, item in enumerate(plain if plain.column_names else [{}] * len(dataset))
    ]
    made = examples_of(rows, intake, path, str(path))
    return [replace(e, about={**e.about, "split": split}) if split else e for e in made]
