"""Image folders with ``metadata.jsonl``, ``.csv`` or ``.parquet`` beside the images, whole or in a sub-folder per split.

What such a folder does elsewhere in silence is said here: an image without a row is named (it is left out), a row without an image
and a row that stands twice are faults.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rankscope.data.files import Json, Options
from rankscope.data.probes import Example
from rankscope.data.records import csv_rows, examples, json_lines
from rankscope.data.report import Ledger
from rankscope.errors import DataError, MissingTool

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"))
"""The file names that count as images."""


def parts(folder: Path) -> dict[str, Path]:
    """The metadata file of each split: ``{"": file}`` where the folder itself has one; empty where there is none."""
    own = [folder / name for name in METADATA if (folder / name).is_file()]
    if own:
        return {"": own[0]}
    below = sorted(p for p in folder.iterdir() if p.is_dir())
    return {sub.name: sub / name for sub in below for name in reversed(METADATA) if (sub / name).is_file()}


def _parquet_rows(path: Path, ledger: Ledger) -> Iterator[tuple[int, dict[str, Json]]]:
    """Number (from 1) and cells of each row of a Parquet file.

    Raises:
        MissingTool: if the ``pyarrow`` package is not installed.
        DataError: if it is no Parquet file.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingTool(f"reading {path} needs the package pyarrow: pip install 'rankscope[data]'") from None
    try:
        yield from enumerate(parquet.read_table(path).to_pylist(), 1)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is no Parquet file: {error}") from error


_READERS = {".jsonl": json_lines, ".csv": csv_rows, ".parquet": _parquet_rows}
"""The rows of a metadata file, numbered, by its ending."""


def read_folder(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """All splits of an image folder."""
    found = []
    for split, metadata in parts(path).items():
        rows = list(_READERS[metadata.suffix](metadata, ledger))
        items = [(number, _one_image(row, f"{metadata.name} line {number}", ledger)) for number, row in rows]
        kept = [(number, row) for number, row in items if row is not None]
        made = examples(kept, options, metadata.parent, str(metadata), ledger)
        _unlisted(metadata.parent, made, ledger)
        found += [_named(example, split) for example in made]
    return found


def _one_image(row: dict[str, Json], place: str, ledger: Ledger) -> dict[str, Json] | None:
    """The row with its image under ``file_name``; datasets also writes ``image_file_name`` and ``file_names``."""
    if isinstance(row.get("file_name"), str):
        return row
    other = [name for name in row if name.endswith("_file_name") or name == "file_names"]
    value = row.get(other[0]) if len(other) == 1 else None
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(one, str):
        return {"file_name": one, **{k: v for k, v in row.items() if k != other[0]}}
    ledger.fault("row has not exactly one file_name", place)
    return None


def _named(example: Example, split: str) -> Example:
    """The example under its split; ids of rows, which are numbers, are made the image's name."""
    file = example.image.name if isinstance(example.image, Path) else example.id
    name = f"{split}/{file}" if split else file
    given = {**example.about, "row": example.id}
    return replace(
        example, id=name if example.id.isdecimal() else example.id, about=given | ({"split": split} if split else {})
    )


def _unlisted(folder: Path, made: list[Example], ledger: Ledger) -> None:
    listed = {e.image.resolve() for e in made if isinstance(e.image, Path)}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in SUFFIXES and file.resolve() not in listed:
            ledger.notice("image without a row in the metadata, left out", str(file.relative_to(folder)))


def read_images(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """A folder of nothing but images: each is an example without text, named by its path in the folder.

    Raises:
        DataError: if there is none.
    """
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"{path} holds neither {' or '.join(METADATA)}, nor a dataset written by save_to_disk, nor images"
        )
    return [Example(str(p.relative_to(path)), "", p) for p in files]
