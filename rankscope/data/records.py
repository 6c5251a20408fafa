"""Records: JSON lines, a JSON list, CSV, and plain lines of text. Columns are recognised by name, or named by the caller."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rankscope.data.files import (
    Images,
    Json,
    Options,
    clean,
    cleaned,
    contents,
    key,
    objects,
    parse,
    read_json,
    text_lines,
)
from rankscope.data.probes import Example
from rankscope.data.report import Ledger
from rankscope.errors import DataError

COLUMNS = {
    "id": ("id", "question_id", "sample_id", "uid"),
    "text": ("text", "question", "prompt", "input", "sentence"),
    "image": ("image", "file_name", "image_path", "filename", "img"),
    "targets": ("targets", "target", "captions", "caption", "answers", "answer", "output", "response"),
    "label": ("label",),
}
"""For each field the columns that are taken for it, the first that is there."""


def assign(names: Iterable[str], columns: Mapping[str, str], where: str) -> dict[str, str]:
    """Which column holds which field.

    Raises:
        DataError: if a column that the caller names is not there, or no column has text or image.
    """
    there = list(names)
    unknown = [c for c in columns.values() if c not in there]
    if unknown or any(f not in COLUMNS for f in columns):
        asked = ", ".join(f"{f}={c}" for f, c in columns.items())
        raise DataError(
            f"{where} was asked for the columns {asked}; it has {', '.join(there)}; the fields are {', '.join(COLUMNS)}"
        )
    free = [c for c in there if c not in columns.values()]
    found = {field: next((c for c in choices if c in free), "") for field, choices in COLUMNS.items()}
    found |= columns
    if not found["text"] and not found["image"]:
        raise DataError(
            f"{where} has neither text nor image; its columns are {', '.join(there)}; name one with --column text=NAME"
        )
    return {field: column for field, column in found.items() if column}


def example(
    item: Mapping[str, Json], columns: Mapping[str, str], number: int, images: Images, ledger: Ledger
) -> Example | None:
    """One record as an example; None, and a fault, where it cannot be one."""
    place = f"record {number}"
    name = key(item, columns["id"]) if "id" in columns else str(number)
    if name is None:
        ledger.fault("record has no id", place)
        return None
    text = item.get(columns.get("text", ""), "")
    if not isinstance(text, str):
        ledger.fault("text is missing or no text", place)
        return None
    picture = item.get(columns.get("image", ""), None)
    if "image" in columns and not isinstance(picture, str):
        ledger.fault("image is missing or no file name", place)
        return None
    if not text.strip() and not isinstance(picture, str):
        ledger.fault("text is empty", place)
        return None
    label = _label(item.get(columns.get("label", ""), None), place, ledger)
    path = images.find(picture, place=place, ledger=ledger) if isinstance(picture, str) else None
    targets = cleaned(listed(item.get(columns.get("targets", ""), None)), place, ledger)
    about = {k: str(v) for k, v in item.items() if k not in columns.values() and isinstance(v, str | int)}
    # A text of its own keeps its line breaks: it may be a document.
    return Example(name, text, path, targets, label, about=about)


def _label(value: Json, place: str, ledger: Ledger) -> int | None:
    """A class: a whole number, or one written as text, as CSV files have it."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    ledger.fault("label is no whole number", f"{place}: {value!r}"[:80])
    return None


def listed(value: Json) -> list[Json]:
    """Targets as a list: of one text, of texts, or of VQA's ``{"answer": …}`` objects."""
    if value is None:
        return []
    many = value if isinstance(value, list) else [value]
    return [v["answer"] if isinstance(v, dict) and "answer" in v else v for v in many]


def examples(
    items: Sequence[tuple[int, Mapping[str, Json]]], options: Options, root: Path, where: str, ledger: Ledger
) -> list[Example]:
    """Numbered records as examples; columns are recognised over all of them."""
    if not items:
        return []
    names = dict.fromkeys(name for _, item in items for name in item)
    columns = assign(names, options.columns, where)
    images = Images(options.images or root)
    made = (example(item, columns, number, images, ledger) for number, item in items)
    return [m for m in made if m is not None]


def json_lines(path: Path, ledger: Ledger) -> Iterator[tuple[int, dict[str, Json]]]:
    """Line number and object of each line; a line that is no JSON object is a fault."""
    for number, line in text_lines(path, ledger):
        try:
            value = parse(line, f"line {number}")
        except DataError as error:
            ledger.fault("line is not JSON", str(error)[:120])
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            ledger.fault("line is no JSON object", f"line {number}")


def csv_rows(path: Path, ledger: Ledger, *, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Json]]]:
    """Row number and cells of each row of a CSV file with a header; a row with too few or too many cells is a fault."""
    reader = csv.reader(io.StringIO(contents(path), newline=""), delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
        for number, cells in enumerate(reader, 2):
            if len(cells) == len(header):
                yield number, dict(zip(header, cells, strict=True))
            elif cells:
                ledger.fault(f"row has not {len(header)} cells", f"row {number} has {len(cells)}")
    except csv.Error as error:
        raise DataError(f"{path} is no CSV at line {reader.line_num}: {error}") from None


def read_jsonl(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """A file of JSON objects, one a line."""
    return examples(list(json_lines(path, ledger)), options, path.parent, str(path), ledger)


def read_list(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """A JSON file that is a list of objects."""
    return examples(list(objects(read_json(path), str(path), ledger)), options, path.parent, str(path), ledger)


def read_csv(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """A CSV file with a header."""
    return examples(list(csv_rows(path, ledger)), options, path.parent, str(path), ledger)


def read_text(path: Path, options: Options, ledger: Ledger) -> list[Example]:
    """Plain text: every line that is not blank is an example, named by its line number."""
    return [Example(str(number), clean(line, f"line {number}", ledger)) for number, line in text_lines(path, ledger)]
