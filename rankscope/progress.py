"""How long work says where it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with the number of steps done, their total, and what comes next."""


def silent(done: int, total: int, what: str) -> None:
    """Show no progress."""
