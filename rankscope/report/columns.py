"""Records as columns, which take a tenth of the room that records take as JSON, and back.

A block holds the records of one measure. Each column is ``{"all": value}``, where all records have the same, or ``{"each": [...]}``;
the parts of small types are columns of their own (``estimate.low``). Numbers keep :data:`DIGITS` digits. Texts of notes are kept once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")

DIGITS = 6
"""Significant digits of every number in a report."""


def to_columns(records: Sequence[Any], texts: dict[str, int]) -> list[dict[str, Any]]:
    """A block for each measure.

    Args:
        records: any records with a ``measure``.
        texts: the texts of notes so far with their numbers; new ones are added.
    """
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(record.measure, []).append(place)
    return [{"at": at, "columns": _block([records[i] for i in at], texts)} for at in places.values()]


def from_columns(kind: type[T], blocks: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> tuple[T, ...]:
    """The records that :func:`to_columns` was given, in their order, their numbers to :data:`DIGITS` digits.

    Raises:
        KeyError, TypeError, ValueError, IndexError: if they are no such blocks.
    """
    found: dict[int, T] = {}
    for block in blocks:
        for i, place in enumerate(block["at"]):
            flat = {name: c["all"] if "all" in c else c["each"][i] for name, c in block["columns"].items()}
            flat["notes"] = [texts[number] for number in flat["notes"]]
            found[place] = _built(kind, flat)
    return tuple(found[place] for place in range(len(found)))


def shortened(value: Any) -> Any:
    """A number with :data:`DIGITS` digits; anything else as it is."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _block(records: Sequence[Any], texts: dict[str, int]) -> dict[str, Any]:
    rows = [dict(_leaves(record)) for record in records]
    for row in rows:
        row["notes"] = [texts.setdefault(text, len(texts)) for text in row["notes"]]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [shortened(row.get(name)) for row in rows]
        columns[name] = {"all": values[0]} if all(value == values[0] for value in values) else {"each": values}
    return columns


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(value):
        part = getattr(value, field.name)
        if is_dataclass(part):
            yield from _leaves(part, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, part


def _built(kind: type[T], flat: Mapping[str, Any], prefix: str = "") -> T:
    """A record of its leaves; what they lack has its default, and what the type lacks is left out."""
    given = {}
    for field, inner in _fields(kind):  # type: ignore[arg-type]
        name = prefix + field
        if name in flat:
            given[field] = tuple(flat[name]) if isinstance(flat[name], list) else flat[name]
        elif inner is not None and any(leaf.startswith(f"{name}.") for leaf in flat):
            given[field] = _built(inner, flat, f"{name}.")
    return kind(**given)


@cache
def _fields(kind: type) -> tuple[tuple[str, type | None], ...]:
    """The fields of a record, each with the small type that it is made of, if it is."""
    hints = get_type_hints(kind)
    inner: dict[str, list[Any]] = {n: [x for x in (h, *get_args(h)) if is_dataclass(x)] for n, h in hints.items()}
    return tuple((field.name, next(iter(inner[field.name]), None)) for field in fields(kind))
