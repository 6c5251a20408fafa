"""The kinds of rows that can be read, known without torch, so that a kind that does not exist is refused at once."""

from __future__ import annotations

from rankscope.errors import UnknownName

KINDS = ("last", "first", "mean", "tokens", "text", "image", "query", "answer", "audio")
"""The kinds of rows: the last or the first real token of a sample, the mean over its real tokens, all its real tokens,
or those with the roles that the name says. Special tokens count as real only where they were asked for."""


def check_kind(kind: str) -> str:
    """``kind``, if there is such a kind of rows.

    Raises:
        UnknownName: if there is not; the message lists those there are.
    """
    if kind not in KINDS:
        raise UnknownName(f"there is no row kind {kind!r}; there are {', '.join(KINDS)}")
    return kind
