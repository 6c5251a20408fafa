"""The kinds of rows that can be read, known without torch, so that a kind that does not exist is refused at once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rankscope.errors import UnknownName
from rankscope.sites import check_selection

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


@dataclass(frozen=True)
class SiteRows:
    """Rows of one kind at some sites, written ``decoder.0-3:text``."""

    sites: str
    """The sites, as :func:`rankscope.sites.select` takes them."""
    kind: str = "tokens"
    """The kind of rows, one of :data:`KINDS`; by default all real ones, of which nothing is written."""

    def __str__(self) -> str:
        return self.sites if self.kind == "tokens" else f"{self.sites}:{self.kind}"


def rows_of(text: str) -> SiteRows:
    """The rows that ``decoder.0-3:text`` names. The mean over all rows is that over ``tokens``.

    Raises:
        UnknownName: if there is no such kind of rows.
        UsageError: if no network can have such sites.
    """
    sites, colon, kind = text.rpartition(":")
    if not colon or re.fullmatch(r"-?[0-9]*", kind):  # the end of a slice of sites, as 0:12:2
        sites, kind = text, "tokens"
    check_selection(sites)
    return SiteRows(sites, check_kind(kind).replace("mean", "tokens"))
