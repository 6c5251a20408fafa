"""Markdown in somebody's file: texts that stay texts, tables, and a block between two markers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rankscope.errors import DataError, StorageError, UsageError
from rankscope.names import printable
from rankscope.writing import write_output

BEGIN, END = "<!-- rankscope:begin -->", "<!-- rankscope:end -->"
"""The lines between which a block is put, and replaced."""
_MARKUP = re.compile(r"([\\`*_\[\]<>|~$#&!])")
_MARKERS = re.compile(rf"^(?:{BEGIN}|{END})(?=\r?$)", re.MULTILINE)


def escaped(text: str) -> str:
    """A text on one line, of which Markdown takes nothing for markup; it may come from a file."""
    return _MARKUP.sub(r"\\\1", printable(" ".join(text.split())))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts; the first column on the left, the others on the right."""
    lines = [[escaped(cell) for cell in row] for row in (columns, *rows)]
    lines.insert(1, ["---", *["---:"] * (len(columns) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_block(text: str, block: str, path: Path) -> str:
    """A text with a block between its markers, in place of an earlier one, or at its end where it has no markers.

    Args:
        text: the text.
        block: what is put between the markers.
        path: where the text is from, for the message.

    Raises:
        UsageError: if the text has markers, but not one at the beginning and one at the end of a block.
    """
    whole = f"{BEGIN}\n{block}\n{END}"
    found = [*_MARKERS.finditer(text)]
    if not found:
        return f"{text.rstrip()}\n\n{whole}\n".lstrip()
    if [mark[0] for mark in found] != [BEGIN, END]:
        raise UsageError(
            f"{path} must have one line {BEGIN} and after it one line {END}, or neither; it has "
            f"{', '.join(mark[0] for mark in found)}"
        )
    return text[: found[0].start()] + whole + text[found[1].end() :]


def put(block: str, path: Path) -> None:
    """Put a block between the markers of a file, of which the rest stays as it is; a file that is missing is made.

    Raises:
        UsageError: if the file's markers are not a pair.
        DataError: if the file is no text in UTF-8.
        StorageError: if it cannot be written.
    """
    path = path.resolve()  # a link stays one
    write_output(path, with_block(_read(path), block, path).encode())


def check_place(path: Path) -> None:
    """Check that a block can be put into a file, before it is made. Raises as :func:`put`."""
    with_block(_read(path), "", path)
    if not path.resolve().parent.is_dir():
        raise StorageError(f"cannot write {path}: there is no folder {path.parent}; make it first")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; give a file in it, such as {path / 'README.md'}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from error
