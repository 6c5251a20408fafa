"""Prediction files: our own lines, the results of the COCO caption evaluation, the submissions of VQA."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from rankscope.errors import DataError, StorageError
from rankscope.scores.ids import unique

_IDS = ("id", "image_id", "question_id")
_TEXTS = ("prediction", "caption", "answer", "text")


def read_predictions(path: str | os.PathLike[str]) -> dict[str, str]:
    """Predictions by id, in the order of the file.

    A file is either JSON lines or one JSON list; each entry holds an id under ``id``, ``image_id`` or ``question_id`` and
    a text under ``prediction``, ``caption``, ``answer`` or ``text``. That covers our ``predictions.jsonl``, COCO results
    and VQA submissions.

    Args:
        path: the file, UTF-8.

    Returns:
        Ids as text, and texts as they stand.

    Raises:
        DataError: no such file, no JSON, an entry without id or text, or an id twice; says which line or entry.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no UTF-8 text at byte {error.start}; predictions are JSON lines or a JSON list"
        ) from None
    entries = _entries(path, text)
    return unique([_pair(path, place, entry) for place, entry in entries], "predictions")


def _entries(path: Path, text: str) -> list[tuple[str, object]]:
    if text.lstrip()[:1] == "[":
        found = _parsed(path, "the list", text)
        if isinstance(found, list):
            return [(f"entry {i}", entry) for i, entry in enumerate(found)]
    # not str.splitlines: a line may hold U+2028 inside a string
    lines = [(f"line {i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [(place, _parsed(path, place, line)) for place, line in lines]


def _parsed(path: Path, place: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, {place} is no JSON ({error}); predictions are JSON lines or a JSON list") from None


def _pair(path: Path, place: str, entry: object) -> tuple[str, str]:
    fields = entry if isinstance(entry, dict) else {}
    names = [name for name in _IDS if type(fields.get(name)) in (str, int)]
    texts = [name for name in _TEXTS if isinstance(fields.get(name), str)]
    if not names or not texts:
        raise DataError(
            f"{path}, {place} is no prediction: it has {', '.join(map(str, fields)) or type(entry).__name__}; expected an "
            f"id under {' or '.join(_IDS)} and a text under {' or '.join(_TEXTS)}"
        )
    return str(fields[names[0]]), fields[texts[0]]


def write_predictions(path: str | os.PathLike[str], predictions: Mapping[str, str]) -> None:
    """Write our own form: a line ``{"id": …, "prediction": …}`` for each id, in order.

    Raises:
        StorageError: the file cannot be written.
    """
    _write(path, "".join(json.dumps({"id": key, "prediction": text}) + "\n" for key, text in predictions.items()))


def write_coco_results(path: str | os.PathLike[str], predictions: Mapping[str, str]) -> None:
    """Write what the COCO caption evaluation reads: ``[{"image_id": int, "caption": str}]``.

    Raises:
        DataError: an id that is no whole number.
        StorageError: the file cannot be written.
    """
    _write(path, json.dumps([{"image_id": _whole(key), "caption": text} for key, text in predictions.items()]))


def write_vqa_submission(path: str | os.PathLike[str], predictions: Mapping[str, str]) -> None:
    """Write what the VQA evaluation server takes: ``[{"question_id": int, "answer": str}]``.

    Raises:
        DataError: an id that is no whole number.
        StorageError: the file cannot be written.
    """
    _write(path, json.dumps([{"question_id": _whole(key), "answer": text} for key, text in predictions.items()]))


def _whole(key: str) -> int:
    if not (key.isascii() and key.isdigit()):
        raise DataError(f"id {key!r} is no whole number, as the official format wants; write predictions.jsonl instead")
    return int(key)


def _write(path: str | os.PathLike[str], text: str) -> None:
    path = Path(path)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
