"""Matching predictions to what they are scored against: by id, both ways, with counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from rankscope.errors import DataError

_Value = TypeVar("_Value")
_SHOWN = 5


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


def by_text(items: Mapping[object, _Value], what: str) -> dict[str, _Value]:
    """The same mapping with ids as text: ``391895`` and ``"391895"`` are one image.

    Args:
        items: anything by id.
        what: what the items are, for the error.

    Raises:
        DataError: two ids that read the same.
    """
    out = {str(key): value for key, value in items.items()}
    if len(out) != len(items):
        twice = [key for key, count in Counter(str(key) for key in items).items() if count > 1]
        raise DataError(f"{len(twice)} ids of the {what} stand there both as number and as text: {_some(twice)}")
    return out


def unique(pairs: Iterable[tuple[str, _Value]], what: str) -> dict[str, _Value]:
    """A mapping from pairs of id and value.

    Raises:
        DataError: an id that comes twice; says how many do.
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
    """Every expected id has a prediction, and every prediction an expected id.

    Args:
        predicted: the predictions by id.
        expected: what they are scored against, by id.
        what: what the latter are, for the error: ``references``.

    Raises:
        DataError: ids are missing or too many, or there are none at all.
    """
    if not expected:
        raise DataError(f"there is nothing to score: no {what} were given")
    missing = [key for key in expected if key not in predicted]
    extra = [key for key in predicted if key not in expected]
    if missing or extra:
        parts = [f"{len(missing)} of {len(expected)} ids have no prediction ({_some(missing)})"] if missing else []
        parts += [f"{len(extra)} of {len(predicted)} predictions have no {what} ({_some(extra)})"] if extra else []
        raise DataError(f"predictions and {what} do not match: {'; '.join(parts)}; score the split that was predicted")
