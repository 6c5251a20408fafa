"""Every error that rankscope raises on purpose.

Each is a :class:`RankscopeError` and also the builtin that a caller would expect. Its message says what was asked, what
is there and what to do, and it carries the exit code of the command line.
"""

from __future__ import annotations

from typing import ClassVar


class RankscopeError(Exception):
    """The root of all errors: ``except RankscopeError`` catches everything that this package refuses on purpose."""

    exit_code: ClassVar[int] = 1
    """The exit status of the command line."""

    def __str__(self) -> str:
        """The message itself; the parent ``KeyError`` would otherwise print its ``repr``."""
        return " ".join(str(part) for part in self.args)


class UsageError(RankscopeError, ValueError):
    """An invalid argument: an unknown kind of rows, two options that exclude each other."""

    exit_code = 2


class UnknownName(UsageError, KeyError):
    """A site, measure, method or data set that does not exist; the message lists those that do."""


class OutputExists(UsageError, FileExistsError):
    """The output already exists, and is kept unless overwriting was requested."""


class CheckpointError(RankscopeError, ValueError):
    """A folder that is not a checkpoint, a missing base, an adapter that does not fit its base."""

    exit_code = 3


class DataError(RankscopeError, ValueError):
    """A data set that cannot be read, or does not contain what was asked for."""

    exit_code = 3


class UnsafeError(RankscopeError, ValueError):
    """Input that would run code of unknown origin, or write outside the given folder."""

    exit_code = 3


class StoreError(RankscopeError):
    """A store of features that cannot be used in its present state."""

    exit_code = 4


class StoreCorrupt(StoreError, ValueError):
    """Bytes other than those that were written: truncated, altered, or of another kind of file."""


class StoreIncomplete(StoreError, RuntimeError):
    """A run whose collection has not finished; the same command continues it."""


class StoreMismatch(StoreError, ValueError):
    """An unfinished store of another plan: continuing it would mix two runs."""


class NotComparable(RankscopeError, ValueError):
    """Two runs for which the requested number has no meaning: different rows, different widths, too few rows."""

    exit_code = 5


class MissingTool(RankscopeError, ImportError):
    """A required optional package or program is not installed."""

    exit_code = 6


class StoreLocked(StoreError, BlockingIOError):
    """Another process is writing this store."""

    exit_code = 7


class StorageError(RankscopeError, OSError):
    """The disk is full, read-only or failing; everything committed so far is kept."""

    exit_code = 8


class NonFinite(RankscopeError, ArithmeticError):
    """Features, a loss or weights that are NaN or infinite."""

    exit_code = 9
