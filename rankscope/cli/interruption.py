"""What an interrupted command says: what is kept, if anything is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SAID: list[Callable[[], str]] = []
"""What the command that runs says of what it has kept so far; the last one counts."""


@contextmanager
def keeping(said: Callable[[], str]) -> Iterator[None]:
    """Within it, an interruption says what is kept.

    Args:
        said: looks at the disk, and says what is kept and how to go on; empty where nothing is.
    """
    _SAID.append(said)
    try:
        yield
    finally:
        _SAID.pop()


def words() -> str:
    """What an interruption says now."""
    kept = _SAID[-1]() if _SAID else ""
    return f"interrupted; {kept or 'nothing was kept'}"
