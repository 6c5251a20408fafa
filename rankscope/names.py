"""Names that were read from a file, made fit to be printed and to name a file.

A run's name, its notes and the ids of its samples are texts in a file that somebody else may have made. A terminal obeys some
characters of a text instead of showing them, and a file system takes a slash for a folder.
"""

from __future__ import annotations

import re
import unicodedata

UNNAMED = "unnamed"
"""What is called so has a name of which nothing can be shown."""
LONGEST = 100
"""The most characters of a file name that is made of names, so that a suffix fits into the 255 bytes of a file system."""

_HIDDEN = frozenset(
    ("Cc", "Cs", "Zl", "Zp")
)  # control characters, halves of characters, breaks of lines and paragraphs
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # makes what follows read from right to left
_NOT_IN_FILES = re.compile(r"[^\w.+=#, -]+")


def printable(text: str, *, keep: str = "") -> str:
    """The text without characters that a terminal obeys instead of showing: control characters, and those that turn the
    direction of writing.

    Args:
        text: any text.
        keep: characters that stay all the same, such as a line break.
    """
    shown = (c for c in text if c in keep or unicodedata.category(c) not in _HIDDEN)
    return _TURNING.sub("", "".join(shown))


def file_name(text: str) -> str:
    """A file name that resembles the text: in the folder where it is put, and not hidden there."""
    return _NOT_IN_FILES.sub("_", printable(text)).lstrip(". -")[:LONGEST].strip() or UNNAMED
