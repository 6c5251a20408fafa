"""JSON that means one thing: canonical bytes out, and strictly read back.

A document is *sealed* by the SHA-256 of itself: its member ``sha256`` is the digest of the canonical bytes of all other
members. Reading demands that the bytes are exactly those that writing would give, so every byte is checked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, TypeAlias, TypeVar

from rankscope.errors import StoreCorrupt
from rankscope.store.files import COLLECT_AGAIN, read_small

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A JSON value."""

T = TypeVar("T")

LIMIT = 1 << 28
"""The largest JSON document that is read, in bytes: some two million sample ids."""


def document(value: Mapping[str, Json]) -> bytes:
    """The canonical bytes of a document: sorted keys, one space of indent, ASCII, a line break at the end."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def line(value: Mapping[str, Json]) -> bytes:
    """The canonical bytes of a line of a log: sorted keys, no spaces, ASCII, a line break at the end."""
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode("ascii")


def digest(value: Mapping[str, Json]) -> str:
    """SHA-256 of the canonical line, in hexadecimal."""
    return hashlib.sha256(line(value)).hexdigest()


def sealed(value: Mapping[str, Json]) -> dict[str, Json]:
    """The same with its seal, the member ``sha256``."""
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
    if (document if written == "document" else line)(value) != data:
        raise StoreCorrupt(f"{path} was altered: its bytes are not as rankscope writes them; {COLLECT_AGAIN}")
    seal = value.pop("sha256", None)
    if seal != digest(value):
        raise StoreCorrupt(f"{path} was altered: it does not match the SHA-256 that it carries; {COLLECT_AGAIN}")
    return value


def parse(data: bytes | str, path: Path) -> dict[str, Json]:
    """The JSON object in ``data``; not-a-number, infinities and repeated keys are refused.

    Raises:
        StoreCorrupt: if it is anything else; the message names ``path``.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise StoreCorrupt(f"{path} is not the JSON that was written: {_short(error)}; {COLLECT_AGAIN}") from error
    if not isinstance(value, dict):
        raise StoreCorrupt(f"{path} holds a JSON {type(value).__name__} where an object belongs; {COLLECT_AGAIN}")
    return value


def _short(error: Exception) -> str:
    return str(error)[:200]


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def member(value: Mapping[str, Json], key: str, kind: type[T], path: Path) -> T:
    """The member ``key``, which must be a ``kind`` (a bool is no int).

    Raises:
        StoreCorrupt: if it is missing or of another type; the message names the file, the key and what is there.
    """
    found = value.get(key)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        there = f"a {type(found).__name__}" if key in value else "nothing"
        raise StoreCorrupt(f"{path}: {key!r} should be a {kind.__name__}, and there is {there}; {COLLECT_AGAIN}")
    return found
