"""Records: JSON lines, a JSON list, CSV, and plain lines of text. Columns are recognised by name, or named by the caller."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rankscope.data.files import Json, contents, id_text, parse, read_json
from rankscope.data.intake import Images, Intake
from rankscope.data.probes import Example
from rankscope.errors import DataError

COLUMNS = {
    "id": ("id", "question_id", "sample_id", "uid"),
    "text": ("text", "question", "prompt", "input", "sentence"),
    "image": ("image", "file_name", "image_path", "filename", "img"),
    "audio": ("audio", "sound"),
    "targets": ("targets", "target", "captions", "caption", "answers", "answer", "output", "response"),
    "label": ("label",),
}
"""The columns that are taken for each field; the first that is there wins."""


def assign(names: Iterable[str], columns: Mapping[str, str], where: str) -> dict[str, str]:
    """Which column holds which field.

    Raises:
        DataError: if a column that the caller names is missing, or no column has text or image.
    """
    there = list(names)
    unknown = [c for c in columns.values() if c not in there]
    if unknown or any(f not in COLUMNS for f in columns):
        asked = ", ".join(f"{f}={c}" for f, c in columns.items())
        raise DataError(
            f"{where} was asked for the columns {asked}; it has {', '.join(there)}; the fields are {', '.join(COLUMNS)}"
        )
    free = [c for c in there if c not in columns.values()]  # a column that the caller named is taken once
    found = {field: next((c for c in choices if c in free), "") for field, choices in COLUMNS.items()}
    found |= columns
    if not any(found[field] for field in ("text", "image", "audio")):
        raise DataError(
            f"{where} has neither text nor image; its columns are {', '.join(there)}; name one with --column text=NAME, or audio=NAME"
        )
    return {field: column for field, column in found.items() if column}


def _example(
    item: Mapping[str, Json], columns: Mapping[str, str], number: int, images: Images, intake: Intake
) -> Example | None:
    """One record as an example; None, and a fault, if it cannot be one."""
    place = f"record {number}"
    name = id_text(item, columns["id"]) if "id" in columns else str(number)
    text = item.get(columns.get("text", ""), "")
    picture, sound = (item.get(columns.get(field, ""), None) for field in ("image", "audio"))
    if name is None:
        intake.fault("record has no id", place)
    elif not isinstance(text, str):
        intake.fault("text is missing or not text", place)
    elif "image" in columns and not isinstance(picture, str):
        intake.fault("image is missing or not a file name", place)
    elif "audio" in columns and not isinstance(sound, str):
        intake.fault("audio is missing or not a file name", place)
    elif not text.strip() and not isinstance(picture, str) and not isinstance(sound, str):
        intake.fault("text is empty", place)
    else:
        label = _label(item.get(columns.get("label", ""), None), place, intake)
        path = images.find(picture, place=place) if isinstance(picture, str) else None
        heard = images.find(sound, place=place) if isinstance(sound, str) else None
        targets = intake.clean_all(listed(item.get(columns.get("targets", ""), None)), place)
        about = {k: str(v) for k, v in item.items() if k not in columns.values() and isinstance(v, str | int)}
        # The text keeps its line breaks, unlike captions and answers: it may be a document.
        return Example(name, text, path, targets, label, audio=heard, about=about)
    return None


def _label(value: Json, place: str, intake: Intake) -> int | None:
    """A class: a whole number, or one written as text, as in CSV files."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    intake.fault("label is not a whole number", f"{place}: {value!r}"[:80])
    return None


def listed(value: Json) -> list[Json]:
    """Targets as a list: from one text, from texts, or from VQA's ``{"answer": …}`` objects."""
    if value is None:
        return []
    many = value if isinstance(value, list) else [value]
    return [v["answer"] if isinstance(v, dict) and "answer" in v else v for v in many]


def examples_of(
    items: Sequence[tuple[int, Mapping[str, Json]]], intake: Intake, folder: Path, where: str
) -> list[Example]:
    """Numbered records as examples; columns are recognised over all of them."""
    if not items:
        return []
    columns = assign(dict.fromkeys(name for _, item in items for name in item), intake.columns, where)
    images = intake.images_beside(folder)
    made = (_example(item, columns, number, images, intake) for number, item in items)
    return [example for example in made if example is not None]


def json_lines(path: Path, intake: Intake) -> Iterator[tuple[int, dict[str, Json]]]:
    """Line number and object of each line; a line that is not a JSON object is a fault."""
    for number, line in intake.text_lines(path):
        try:
            value = parse(line, f"line {number}")
        except DataError as error:
            intake.fault("line is not JSON", str(error)[:120])
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            intake.fault("line is not a JSON object", f"line {number}")


def csv_rows(path: Path, intake: Intake) -> Iterator[tuple[int, dict[str, Json]]]:
    """Row number and cells of each row of a CSV file with a header; a row with too few or too many cells is a fault."""
    reader = csv.reader(io.StringIO(contents(path), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        for number, cells in enumerate(reader, 2):
            if len(cells) == len(header):
                yield number, dict(zip(header, cells, strict=True))
            elif cells:
                intake.fault(f"row has not {len(header)} cells", f"row {number} has {len(cells)}")
    except csv.Error as error:
        raise DataError(f"{path} is not CSV at line {reader.line_num}: {error}") from None


def read_jsonl(path: Path, intake: Intake) -> list[Example]:
    """A file with a JSON object on each line."""
    return examples_of(list(json_lines(path, intake)), intake, path.parent, str(path))


def read_list(path: Path, intake: Intake) -> list[Example]:
    """A JSON file that is a list of objects."""
    return examples_of(list(intake.objects(read_json(path), str(path))), intake, path.parent, str(path))


def read_csv(path: Path, intake: Intake) -> list[Example]:
    """A CSV file with a header."""
    return examples_of(list(csv_rows(path, intake)), intake, path.parent, str(path))


def read_text(path: Path, intake: Intake) -> list[Example]:
    """Plain text: every line that is not blank is an example, named by its line number."""
    return [Example(str(number), intake.clean(line, f"line {number}")) for number, line in intake.text_lines(path)]
