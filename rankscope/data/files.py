"""Reading files as people have them: text, JSON, CSV, and images in folders. Every fault names its file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rankscope.data.report import Ledger
from rankscope.errors import DataError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""What a JSON file can hold."""

BREAKS = re.compile("[\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029]+")
"""Everything at which some reader of lines would break a line: within a caption they shift all that follow."""


@dataclass(frozen=True)
class Options:
    """What a person may say about a data set beside its path."""

    images: Path | None = None
    """The folder of the images; where None, the folder of the file itself and what the format says."""
    answers: Path | None = None
    """VQAv2: the annotation file; where None, the one named like the questions."""
    regions: Path | None = None
    """Region features for models that read those: a feature TSV, a safetensors or ``.npz`` file, or a folder of ``.npz`` files."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Which column holds what: keys ``id``, ``text``, ``image``, ``targets``, ``label``."""
    restval: bool = True
    """Karpathy: whether ``restval`` counts as ``train``, as papers do."""


def contents(path: Path) -> str:
    """The text of a file in UTF-8, a byte order mark dropped.

    Raises:
        DataError: if it is not there, or is not UTF-8.
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
        DataError: if it cannot be read or is not JSON; the line is named.
    """
    return parse(contents(path), str(path))


def parse(text: str, where: str) -> Json:
    """The value of a JSON text.

    Raises:
        DataError: if it is not JSON; ``where`` and the line are named.
    """
    try:
        value: Json = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; is it complete?"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON that can be read: {error}") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line, without its end; only ``\\n`` ends a line. A byte order mark is dropped."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None


def text_lines(path: Path, ledger: Ledger) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank; a line that is not UTF-8 is a fault."""
    for number, line in lines(path):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            ledger.fault("line is not UTF-8", f"line {number}")
            continue
        if text.strip():
            yield number, text


def clean(text: str, place: str, ledger: Ledger) -> str:
    """One caption, question or answer on one line: line breaks of every kind become a space, with a notice."""
    one = BREAKS.sub(" ", text.strip())
    if one != text.strip():
        ledger.notice("line break inside a text, made a space", place)
    return one


def cleaned(texts: Sequence[Json], place: str, ledger: Ledger) -> tuple[str, ...]:
    """Captions or answers, each on one line; one that is empty or no text is a fault."""
    found = []
    for text in texts:
        if not isinstance(text, str):
            ledger.fault("caption or answer is no text", f"{place}: {str(text)[:40]!r}")
        elif not text.strip():
            ledger.fault("caption or answer is empty", place)
        else:
            found.append(clean(text, place, ledger))
    return tuple(found)


def objects(value: Json, what: str, ledger: Ledger) -> Iterator[tuple[int, dict[str, Json]]]:
    """Place and content of each object in a JSON list; anything else in it is a fault.

    Raises:
        DataError: if the value is no list at all.
    """
    if not isinstance(value, list):
        raise DataError(f"{what} should be a list of objects; it is {type(value).__name__}")
    for i, item in enumerate(value):
        if isinstance(item, dict):
            yield i, item
        else:
            ledger.fault(f"entry of {what} is no object", f"entry {i}")


def key(item: Mapping[str, Json], name: str) -> str | None:
    """An id, as text: ``391895`` and ``"391895"`` are one image in files from different hands. None where there is none."""
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        return None
    return str(value)


@dataclass(frozen=True)
class Images:
    """Images by name in a folder or its sub-folders, never outside of it."""

    root: Path

    @cached_property
    def _listed(self) -> dict[str, frozenset[str]]:
        return {}

    def _holds(self, folder: str, name: str) -> bool:
        if folder not in self._listed:
            where = self.root / folder
            self._listed[folder] = frozenset(p.name for p in where.iterdir()) if where.is_dir() else frozenset()
        return name in self._listed[folder]

    def find(self, name: str, *folders: str, place: str, ledger: Ledger) -> Path:
        """The file called ``name``, in the root or in the first of ``folders`` that has it.

        A file that is nowhere comes back as the path where it was expected, and is counted when its split is opened. A name that
        leaves the folder is a fault.
        """
        path = Path(name)
        for part in (path, *map(Path, folders)):
            if part.is_absolute() or ".." in part.parts or "\0" in str(part):
                ledger.fault("image name leaves the folder of the images", f"{place}: {str(part)[:80]!r}")
                return self.root / "refused"
        for folder in ("", *folders):
            if self._holds(str(Path(folder) / path.parent), path.name):
                return self.root / folder / path
        return self.root / (folders[0] if folders else "") / path
