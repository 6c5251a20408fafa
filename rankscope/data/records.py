"""Records: JSON lines, a JSON list, CSV and TSV, Parquet, and plain lines of text.

Columns are recognised by name, or named by the caller. Conversations (``messages``), instructions with their ``input`` and pairs of
``prompt`` and ``completion`` are records too.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rankscope.data.arrow import parquet_table
from rankscope.data.chat import CHATS, unfolded
from rankscope.data.files import HALF, HalfCharacter, Json, contents, id_text, parse, read_json
from rankscope.data.intake import Images, Intake
from rankscope.data.probes import Example, HeldPicture, Picture, Turn
from rankscope.errors import DataError

COLUMNS = {
    "id": ("id", "question_id", "sample_id", "uid"),
    "text": ("text", "question", "prompt", "instruction", "input", "sentence"),
    "image": ("image", "file_name", "image_path", "filename", "img"),
    "audio": ("audio", "sound"),
    "targets": ("targets", "target", "captions", "caption", "answers", "answer", "output", "response", "completion"),
    "label": ("label",),
}
"""The columns that are taken for each field; the first that is there wins."""
NAMELESS = re.compile(r"|Unnamed: \d+(?:_level_\d+)?|__index_level_\d+__")
"""What the index of a pandas table is called in its files: nothing, or a name that pandas made up."""
MORE = {"instruction": "input"}
"""A column of text, and the column that goes on where it ends (Alpaca)."""


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
            f"{where} was asked for columns that it does not have ({asked}); it has {', '.join(there)}; the fields are {', '.join(COLUMNS)}"
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
    item: Mapping[str, Json],
    turns: tuple[Turn, ...],
    columns: Mapping[str, str],
    number: object,
    images: Images,
    intake: Intake,
) -> Example | None:
    """One record as an example; None, and a fault, if it cannot be one."""
    place = f"record {number}"
    name = id_text(item, columns["id"]) if "id" in columns else str(number)
    text, taken = _text(item, columns)
    picture = _picture(cell(item, columns, "image"), f"the image of {place}")
    lacks_image = "image" in columns and picture is None and intake.images_needed
    sound = cell(item, columns, "audio")
    wrong = {
        "record has no id": name is None,
        "text is missing or not text": not isinstance(text, str),
        "image is missing or not a file name": lacks_image,
        "audio is missing or not a file name": "audio" in columns and not isinstance(sound, str),
        "text is empty": isinstance(text, str)
        and not text.strip()
        and picture is None
        and sound is None
        and intake.images_needed
        and not lacks_image,
    }
    for kind in (kind for kind, holds in wrong.items() if holds):
        intake.fault(kind, place)
    label = _label(cell(item, columns, "label"), place, intake)
    image = images.find(picture, place=place) if isinstance(picture, str) else picture
    heard = images.find(sound, place=place) if isinstance(sound, str) else None
    targets = intake.clean_all(listed(cell(item, columns, "targets")), place)
    if any(wrong.values()) or name is None or not isinstance(text, str):
        return None
    about = {k: str(v) for k, v in item.items() if k not in taken and isinstance(v, str | int)}
    # The text keeps its line breaks, unlike captions and answers: it may be a document.
    return Example(name, text, image, targets, label, turns=turns, audio=heard, about=about)


def cell(item: Mapping[str, Json], columns: Mapping[str, str], field: str) -> Json:
    """What a record has for a field; None if no column is taken for it."""
    return item.get(columns[field]) if field in columns else None


def _text(item: Mapping[str, Json], columns: Mapping[str, str]) -> tuple[Json, set[str]]:
    """The text of a record, with what goes on in a second column, and the columns that have a field."""
    if "text" not in columns:
        return "", set(columns.values())
    text, more = item.get(columns["text"], ""), MORE.get(columns["text"], "")
    if not more or more in columns.values():
        return text, set(columns.values())
    after = item.get(more)
    both = isinstance(text, str) and isinstance(after, str) and after.strip()
    return f"{text}\n{after}" if both else text, {*columns.values(), more}


def _picture(value: object, name: str) -> str | Picture | None:
    """The file name of an image, or the image itself where the record holds it; None if it is neither."""
    if isinstance(value, str | Picture):
        return value or None
    if not isinstance(value, Mapping):
        return None
    held, path = value.get("bytes"), value.get("path")
    return HeldPicture(name, held) if isinstance(held, bytes) else path if isinstance(path, str) and path else None


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
    items: Sequence[tuple[object, Mapping[str, Json]]], intake: Intake, folder: Path, where: str
) -> list[Example]:
    """Numbered records as examples; columns are recognised over all of them.

    Raises:
        DataError: if a column that the caller names is missing, or no column has text or image.
    """
    if not items:
        return []
    opened = [(number, *unfolded(_without_index(item, intake), f"record {number}", intake)) for number, item in items]
    columns = assign(dict.fromkeys(name for _, item, _ in opened for name in item), intake.columns, where)
    images = intake.images_beside(folder)
    made = (_example(item, turns, columns, number, images, intake) for number, item, turns in opened)
    return [example for example in made if example is not None]


def _without_index(item: Mapping[str, Json], intake: Intake) -> Mapping[str, Json]:
    """A record without columns that have no name of their own, unless the caller asks for them."""
    nameless = [c for c in item if NAMELESS.fullmatch(c) and c not in intake.columns.values()]
    for name in nameless:
        if not (finding := intake.notices.get(kind := "column without a name, left out")) or not finding.count:
            intake.notice(kind, name or "an index, as pandas writes it")
    return {k: v for k, v in item.items() if k not in nameless} if nameless else item


def json_lines(path: Path, intake: Intake) -> Iterator[tuple[int, dict[str, Json]]]:
    """Line number and object of each line; a line that is not a JSON object is a fault."""
    for number, line in intake.text_lines(path):
        try:
            value = parse(line, f"line {number}")
        except DataError as error:
            kind = HALF if isinstance(error, HalfCharacter) else "line is not JSON"
            intake.fault(kind, str(error)[:120])
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            intake.fault("line is not a JSON object", f"line {number}")


def csv_rows(path: Path, intake: Intake, delimiter: str = ",") -> Iterator[tuple[int, dict[str, Json]]]:
    """Row number and cells of each row of a CSV file with a header; a row with too few or too many cells is a fault.

    Raises:
        DataError: if the file cannot be read.
    """
    reader = csv.reader(io.StringIO(contents(path, intake.fault), newline=""), delimiter=delimiter)
    header, number = list[str](), 0
    while True:
        number += 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            intake.fault("row is not CSV", f"line {reader.line_num}: {error}")
            continue
        if cells is None:
            return
        if number == 1:
            header = [name.strip() for name in cells]
            twice = sorted({name for name in header if name and header.count(name) > 1})
            for name in twice:
                intake.fault(f"more than one column {name!r}", "give each its own name")
        elif len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        elif cells:
            intake.fault(f"row does not have {len(header)} cells", f"row {number} has {len(cells)}")


def parquet_rows(path: Path, intake: Intake) -> Iterator[tuple[int, dict[str, Json]]]:
    """Number (from 1) and cells of each row of a Parquet file."""
    yield from enumerate(parquet_table(path).to_pylist(), 1)


def read_jsonl(path: Path, intake: Intake) -> list[Example]:
    """A file with a JSON object on each line."""
    return examples_of(list(json_lines(path, intake)), intake, path.parent, str(path))


def read_list(path: Path, intake: Intake) -> list[Example]:
    """A JSON file that is a list of objects."""
    return examples_of(list(intake.objects(read_json(path, intake.fault), str(path))), intake, path.parent, str(path))


def read_csv(path: Path, intake: Intake) -> list[Example]:
    """A CSV file with a header."""
    return examples_of(list(csv_rows(path, intake)), intake, path.parent, str(path))


def read_tsv(path: Path, intake: Intake) -> list[Example]:
    """A file of cells separated by tabs, with a header; cells may be quoted as in CSV."""
    return examples_of(list(csv_rows(path, intake, "\t")), intake, path.parent, str(path))


def read_parquet(path: Path, intake: Intake) -> list[Example]:
    """A Parquet file; its images are file names, or structures of ``bytes`` and ``path`` as Hugging Face writes them."""
    return examples_of(list(parquet_rows(path, intake)), intake, path.parent, str(path))


def named_columns() -> frozenset[str]:
    """Every name by which a column is recognised."""
    return frozenset((*(name for names in COLUMNS.values() for name in names), *CHATS))


def read_text(path: Path, intake: Intake) -> list[Example]:
    """Plain text: every line that is not blank is an example, named by its line number."""
    return [Example(str(number), intake.clean(line, f"line {number}")) for number, line in intake.text_lines(path)]
