"""JSON that has one spelling: written as canonical bytes, and strictly read back (``FORMAT.md``, JSON).

A document is *sealed* by the SHA-256 of itself: its member ``sha256`` is the digest of the canonical line of all other
members. Reading demands exactly the bytes that writing would give, so that every byte is checked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar

from rankscope.errors import UnsafeError
from rankscope.store.files import corrupt, read_small

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A JSON value."""

T = TypeVar("T")

LIMIT = 1 << 28
"""The largest JSON document that is read, in bytes: about two million sample ids."""


def document(value: Mapping[str, Json]) -> bytes:
    """The canonical bytes of a document: sorted keys, one space of indent, ASCII, a line break at the end."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def line(value: Mapping[str, Json]) -> bytes:
    """The canonical bytes of a line: as a document, but without indent and spaces."""
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode("ascii")


def digest(value: Mapping[str, Json]) -> str:
    """SHA-256 of the canonical line, in hexadecimal."""
    return hashlib.sha256(line(value)).hexdigest()


def sealed(value: Mapping[str, Json]) -> dict[str, Json]:
    """The same object with its seal, the member ``sha256``."""
    return {**value, "sha256": digest(value)}


def read_sealed(path: Path) -> dict[str, Json]:
    """The members of a sealed document, without the seal.

    Raises:
        StoreCorrupt: if it is missing, not JSON, or not the bytes that were written.
    """
    return unsealed(read_small(path, LIMIT), path)


def unsealed(data: bytes, path: Path, *, written: str = "document") -> dict[str, Json]:
    """The members of a sealed document or ``line`` from its bytes, without the seal."""
    value = parse(data, path)
    # The seal covers the value, not its spelling, so the spelling is compared too: then every byte counts.
    if (document if written == "document" else line)(value) != data:
        raise corrupt(f"{path} was altered: its bytes are not as rankscope writes them")
    seal = value.pop("sha256", None)
    if seal != digest(value):
        raise corrupt(f"{path} was altered: it does not match the SHA-256 that it carries")
    return value


def parse(data: bytes | str, path: Path) -> dict[str, Json]:
    """The JSON object in ``data``. NaN, infinities and repeated keys are refused: numbers are finite, and no key occurs twice.

    Raises:
        StoreCorrupt: if it is anything else; the message names ``path``.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise corrupt(f"{path} is not the JSON that was written: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise corrupt(f"{path} holds a JSON {type(value).__name__} where an object belongs")
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def member(value: Mapping[str, Json], key: str, kind: type[T], path: Path) -> T:
    """The member ``key``, which must be a ``kind`` (a bool is not an int).

    Raises:
        StoreCorrupt: if it is missing or of another type; the message names the file, the key and what is there.
    """
    found = value.get(key)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        there = f"a {type(found).__name__}" if key in value else "nothing"
        raise corrupt(f"{path}: {key!r} should be a {kind.__name__}, and there is {there}")
    return found


def named_file(item: Json, key: str, path: Path) -> str:
    """The name of a file in a folder's own listing.

    Raises:
        UnsafeError: if it leads out of the folder.
    """
    name = item.get(key) if isinstance(item, dict) else None
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UnsafeError(f"{path} names a file outside of its folder: {str(name)[:80]!r}")
    return name
