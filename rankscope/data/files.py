"""Reading text, JSON and lines from files as people have them. Every error names the file and the place in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rankscope.errors import DataError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What a JSON file can hold."""
Fault = Callable[[str, str], None]
"""Takes note of a fault, its kind and its place, so that a reader can go on."""
HALF = "text holds half of a character"
"""The kind of fault of one half of a surrogate pair."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


class HalfCharacter(DataError):
    """A text with one half of a surrogate pair, which is no character and cannot be written, encoded or tokenised."""


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that the system cannot even look up, because it is too long, is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def exists(path: Path) -> bool:
    """Whether a file or folder is there; a name that the system cannot even look up is not."""
    try:
        return path.exists()
    except OSError:
        return False


def writable(text: str) -> bool:
    """Whether a text can be encoded: whether it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def contents(path: Path, fault: Fault | None = None) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Args:
        path: the file.
        fault: takes note of every line that is not UTF-8, whose bytes are replaced then; if None, such a file is refused.

    Raises:
        DataError: if the file is missing, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except UnicodeDecodeError as error:
        if fault is None:
            raise DataError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); convert it to UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(data.split(b"\n"), 1):
        if not _is_utf8(line):
            fault("line is not UTF-8", f"line {number} of {path.name}")
    return data.decode("utf-8-sig", errors="replace")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_json(path: Path, fault: Fault | None = None) -> Json:
    """The value in a JSON file.

    Args:
        path: the file.
        fault: takes note of what does not keep the file from being read, as half of a character; if None, that is refused.

    Raises:
        DataError: if the file cannot be read or is not JSON; the message names the line.
    """
    text = contents(path, fault)
    if fault is None:
        return parse(text, str(path))
    try:
        value = _load(text, str(path))
    except DataError:
        contents(path)  # where the bytes are none of UTF-8, that is the cause
        raise
    for line, escape in _lone_surrogates(text) if "\\u" in text else ():
        fault(HALF, f"{escape} in line {line}")
    return value


def read_object(path: Path, *keys: str, fault: Fault | None = None) -> dict[str, Json]:
    """The object in a JSON file, which must have these keys; ``fault`` as for :func:`read_json`.

    Raises:
        DataError: if it has not; the message says what the file seems to be.
    """
    value = read_json(path, fault)
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
        HalfCharacter: if a text in it has a lone surrogate; the message names every line that has one.
    """
    value = _load(text, where)
    # Only an escape can make a lone surrogate, for UTF-8 has none.
    halves = _lone_surrogates(text) if "\\u" in text else []
    if halves:
        more = ", …" if len(halves) > 5 else ""
        places = ", ".join(f"{escape} in line {line}" for line, escape in halves[:5])
        raise HalfCharacter(
            f"{where} holds {len(halves)} × half of a surrogate pair: {places}{more}; write the whole character"
        )
    return value


def _load(text: str, where: str) -> Json:
    try:
        value: Json = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{where} is not JSON: {error.msg} at {place}; is it complete?") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON that can be read: {error}") from None
    return value


def _lone_surrogates(text: str) -> list[tuple[int, str]]:
    """Line and spelling of each escape in a JSON text that is half of a pair without the other half."""
    found: list[tuple[int, str]] = []
    high: re.Match[str] | None = None
    for match in _ESCAPE.finditer(text):
        code = int(match[1], 16) if match[1] else 0
        if high is not None and not (high.end() == match.start() and 0xDC00 <= code < 0xE000):
            found.append((text.count("\n", 0, high.start()) + 1, high[0]))
            high = None
        if 0xD800 <= code < 0xDC00:
            high = match
        elif 0xDC00 <= code < 0xE000 and high is None:
            found.append((text.count("\n", 0, match.start()) + 1, match[0]))
        else:
            high = None
    return found + ([(text.count("\n", 0, high.start()) + 1, high[0])] if high is not None else [])


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
