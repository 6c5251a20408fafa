"""What becomes of output that nobody can take: a reader that has gone, or a disk that is full.

Python, click and rich each answer a broken pipe in their own way, the last two with exit code 1. So the failure is given another
name where it happens, in the stream itself, and reaches the end of the program as what it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from rankscope.errors import StorageError

BROKEN_PIPE = 141
"""The exit status of a program whose reader has gone, as a shell counts it: 128 and the number of SIGPIPE."""


class ReaderGone(Exception):
    """Nobody reads the output any more: ``rankscope definitions | head -1``."""


class Checked:
    """A text stream whose failures have their own names."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            ReaderGone: if nobody reads it any more.
            StorageError: if it cannot be written for another reason.
        """
        with self._named():
            return self._stream.write(text)

    def flush(self) -> None:
        """Deliver what was written. Raises as :meth:`write` does."""
        with self._named():
            self._stream.flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            raise ReaderGone from error
        except OSError as error:
            raise StorageError(f"cannot write the result: {error.strerror}; choose another output") from error


class Courteous(Checked):
    """A text stream for what is said besides the result: that nobody takes it stops no work."""

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            drop(self._stream)

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        super().write(text)
        return len(text)


@contextmanager
def checked() -> Iterator[None]:
    """Within it, failures of stdout have their own names and those of stderr stop nothing."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Checked(before[0]), Courteous(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def drop(stream: IO[str]) -> None:
    """Send what a stream still holds nowhere, and what follows: at its exit Python would try once more, and fail."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
