"""Predictions: matched by id to what they are scored against, and read from and written to files.

The files are JSON lines of our own, the results of the COCO caption evaluation, and the submissions of VQA.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from rankscope.errors import DataError
from rankscope.writing import write_output

_Value = TypeVar("_Value")
_SHOWN = 5
_IDS = ("id", "image_id", "question_id")
_TEXTS = ("prediction", "caption", "answer", "text")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


def by_text(items: Mapping[object, _Value], what: str) -> dict[str, _Value]:
    """The same mapping with its ids as text: ``391895`` and ``"391895"`` are one image.

    Args:
        items: anything by id.
        what: what the items are, for the error.

    Raises:
        DataError: if two ids read the same.
    """
    out = {str(key): value for key, value in items.items()}
    if len(out) != len(items):
        twice = [key for key, count in Counter(str(key) for key in items).items() if count > 1]
        raise DataError(f"{len(twice)} ids of the {what} occur both as a number and as text: {_some(twice)}")
    return out


def unique(pairs: Iterable[tuple[str, _Value]], what: str) -> dict[str, _Value]:
    """A mapping made of pairs of id and value.

    Raises:
        DataError: if an id occurs twice; the message counts those that do.
    """
    listed = list(pairs)
    out = dict(listed)
    if len(out) != len(listed):
        twice = [key for key, count in Counter(key for key, _ in listed).items() if count > 1]
        raise DataError(
            f"{len(twice)} of {len(out)} ids have more than one of the {what}: {_some(twice)}; keep one for each id"
        )
    return out


def check_ids(predicted: Mapping[str, object], expected: Mapping[str, object], what: str) -> None:
    """Check that every expected id has a prediction, and every prediction an expected id.

    Args:
        predicted: the predictions by id.
        expected: what they are scored against, by id.
        what: what the latter are, for the error: ``references``.

    Raises:
        DataError: if ids are missing or left over, or none are expected at all.
    """
    if not expected:
        raise DataError(f"there is nothing to score: no {what} were given")
    missing = [key for key in expected if key not in predicted]
    extra = [key for key in predicted if key not in expected]
    if missing or extra:
        faults = [f"{len(missing)} of {len(expected)} ids have no prediction ({_some(missing)})"] if missing else []
        faults += [f"{len(extra)} of {len(predicted)} predictions have no {what} ({_some(extra)})"] if extra else []
        raise DataError(f"predictions and {what} do not match: {'; '.join(faults)}; score the split that was predicted")


def read_predictions(path: str | os.PathLike[str]) -> dict[str, str]:
    """Predictions by id, in the order of the file.

    A file is either JSON lines or one JSON list. Each entry holds an id under ``id``, ``image_id`` or ``question_id`` and
    a text under ``prediction``, ``caption``, ``answer`` or ``text``, which covers our ``predictions.jsonl``, COCO results
    and VQA submissions.

    Args:
        path: the file, UTF-8.

    Returns:
        Ids as text, and the predicted texts unchanged.

    Raises:
        DataError: if the file is missing or is not JSON, an entry lacks an id or a text, or an id occurs twice; the
            message gives the line or entry.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text at byte {error.start}; predictions are JSON lines or a JSON list"
        ) from None
    pairs, faults = list[tuple[str, str]](), list[str]()
    for place, entry in _entries(path, text):
        try:
            pairs.append(_pair(path, place, _parsed(path, place, entry) if isinstance(entry, str) else entry))
        except DataError as error:
            faults.append(str(error))
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError("; ".join(faults[:_SHOWN]) + more)
    return unique(pairs, "predictions")


def _entries(path: Path, text: str) -> list[tuple[str, object]]:
    """The entries of a JSON list, or the lines of a text, which are not parsed yet; each with its place."""
    if text.lstrip()[:1] == "[":
        found = _parsed(path, "the list", text)
        if isinstance(found, list):
            # A bare text would be taken for a line.
            return [(f"entry {i}", [entry] if isinstance(entry, str) else entry) for i, entry in enumerate(found)]
    # Not str.splitlines, which would also split at a U+2028 inside a string.
    return [(f"line {i}", line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parsed(path: Path, place: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, {place} is not JSON ({error}); predictions are JSON lines or a JSON list") from None


def _pair(path: Path, place: str, entry: object) -> tuple[str, str]:
    fields = entry if isinstance(entry, dict) else {}
    # `type(...) in`, not isinstance, because True is an int.
    key = next((fields[name] for name in _IDS if type(fields.get(name)) in (str, int)), None)
    text = next((fields[name] for name in _TEXTS if isinstance(fields.get(name), str)), None)
    if key is None or text is None:
        raise DataError(
            f"{path}, {place} is not a prediction: it has {', '.join(map(str, fields)) or type(entry).__name__}; "
            f"expected an id under {' or '.join(_IDS)} and a text under {' or '.join(_TEXTS)}"
        )
    return str(key), text


def write_coco_results(path: str | os.PathLike[str], predictions: Mapping[str, str]) -> None:
    """Write what the COCO caption evaluation reads: ``[{"image_id": int, "caption": str}]``.

    Raises:
        DataError: if an id is not a whole number.
        StorageError: if the file cannot be written.
    """
    _write(path, [{"image_id": _whole(key), "caption": text} for key, text in predictions.items()])


def write_vqa_submission(path: str | os.PathLike[str], predictions: Mapping[str, str]) -> None:
    """Write what the VQA evaluation server takes: ``[{"question_id": int, "answer": str}]``.

    Raises:
        DataError: if an id is not a whole number.
        StorageError: if the file cannot be written.
    """
    _write(path, [{"question_id": _whole(key), "answer": text} for key, text in predictions.items()])


def _whole(key: str) -> int:
    if not (key.isascii() and key.isdigit()):
        raise DataError(f"id {key!r} is not a whole number, which the official format requires; keep predictions.jsonl")
    return int(key)


def _write(path: str | os.PathLike[str], entries: list[dict[str, int | str]]) -> None:
    write_output(Path(path), json.dumps(entries).encode())
