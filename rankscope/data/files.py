"""Reading text, JSON and lines from files as people have them. Every error names the file and the place in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from rankscope.errors import DataError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What a JSON file can hold."""


def contents(path: Path) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        DataError: if the file is missing or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); convert it to UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def read_json(path: Path) -> Json:
    """The value in a JSON file.

    Raises:
        DataError: if the file cannot be read or is not JSON; the message names the line.
    """
    return parse(contents(path), str(path))


def read_object(path: Path, *keys: str) -> dict[str, Json]:
    """The object in a JSON file, which must have these keys.

    Raises:
        DataError: if it has not; the message says what the file seems to be.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} should be a JSON object with {', '.join(keys)}; it is {type(value).__name__}")
    missing = " and no ".join(key for key in keys if key not in value)
    if missing:
        raise DataError(f"{path} has no {missing}; it has {', '.join(value)}: an annotation file of another kind?")
    return value


def parse(text: str, where: str) -> Json:
    """The value of a JSON text.

    Raises:
        DataError: if it is not JSON; the message names ``where`` and the line.
    """
    try:
        value: Json = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{where} is not JSON: {error.msg} at {place}; is it complete?") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON that can be read: {error}") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    r"""Number (from 1), offset and bytes of every line, without its end. Only ``\n`` ends a line."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, offset, line.rstrip(b"\r\n")
                offset += len(line)
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None


def id_text(item: Mapping[str, Json], name: str) -> str | None:
    """An id as text, since ``391895`` and ``"391895"`` are one image in files from different sources. None if missing."""
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        return None
    return str(value)
