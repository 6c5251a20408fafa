"""Image folders with ``metadata.jsonl``, ``.csv`` or ``.parquet`` beside the images, whole or in a sub-folder for each split.

What other tools pass over in silence is reported here: an image without a row is named (and left out); a row without an
image, and a row that occurs twice, are faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rankscope.data.files import Json
from rankscope.data.intake import Intake
from rankscope.data.probes import Example
from rankscope.data.records import csv_rows, examples_of, json_lines, parquet_rows
from rankscope.errors import DataError

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"))
"""The endings of file names that count as images."""


def metadata_files(folder: Path) -> dict[str, Path]:
    """The metadata file of each split: ``{"": file}`` if the folder itself has one; empty if there is none."""
    own = [folder / name for name in METADATA if (folder / name).is_file()]
    if own:
        return {"": own[0]}
    below = sorted(p for p in folder.iterdir() if p.is_dir())
    # Reversed, so that of several the first of METADATA is written into the dictionary last.
    return {sub.name: sub / name for sub in below for name in reversed(METADATA) if (sub / name).is_file()}


_ROWS = {".jsonl": json_lines, ".csv": csv_rows, ".parquet": parquet_rows}
"""The numbered rows of a metadata file, by its ending."""


def read_folder(path: Path, intake: Intake) -> list[Example]:
    """All splits of an image folder."""
    found = []
    for split, metadata in metadata_files(path).items():
        rows = _ROWS[metadata.suffix](metadata, intake)
        items = [(number, _one_image(row, f"{metadata.name} line {number}", intake)) for number, row in rows]
        kept = [(number, row) for number, row in items if row is not None]
        made = examples_of(kept, intake, metadata.parent, str(metadata))
        _note_unlisted(metadata.parent, made, intake)
        found += [_named(example, split) for example in made]
    return found


def _one_image(row: dict[str, Json], place: str, intake: Intake) -> dict[str, Json] | None:
    """The row with its image under ``file_name``; datasets also writes ``image_file_name`` and ``file_names``."""
    if isinstance(row.get("file_name"), str):
        return row
    other = [name for name in row if name.endswith("_file_name") or name == "file_names"]
    value = row.get(other[0]) if len(other) == 1 else None
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(one, str):
        return {"file_name": one, **{k: v for k, v in row.items() if k != other[0]}}
    intake.fault("row does not have exactly one file_name", place)
    return None


def _named(example: Example, split: str) -> Example:
    """The example in its split; an id that is only a row number becomes the image's name."""
    file = example.image.name if isinstance(example.image, Path) else example.id
    name = (f"{split}/{file}" if split else file) if example.id.isdecimal() else example.id
    return replace(example, id=name, about={**example.about, "row": example.id} | ({"split": split} if split else {}))


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)


def _note_unlisted(folder: Path, made: Sequence[Example], intake: Intake) -> None:
    listed = {e.image.resolve() for e in made if isinstance(e.image, Path)}
    for file in _images_in(folder):
        if file.resolve() not in listed:
            intake.notice("image without a row in the metadata, left out", str(file.relative_to(folder)))


def read_images(path: Path, intake: Intake) -> list[Example]:
    """A folder of nothing but images: each is an example without text, named by its path in the folder.

    Raises:
        DataError: if it holds no images.
    """
    found = _images_in(path)
    if not found:
        raise DataError(
            f"{path} holds neither {' or '.join(METADATA)}, nor a dataset written by save_to_disk, nor images"
        )
    return [Example(str(p.relative_to(path)), "", p) for p in found]
