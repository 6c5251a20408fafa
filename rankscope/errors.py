"""Every error that rankscope raises on purpose.

Each is a :class:`RankscopeError` and also the builtin that a caller would expect, says what was asked, what is there
and what to do, and carries the exit code with which the command line ends.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_ON_THE_COMMAND_LINE = {"layers": "sites", "vqa_rule": "rule", "column": "columns", "arm": "arms"}
"""Keywords whose name on the command line is another."""


class RankscopeError(Exception):
    """The root of the tree: ``except RankscopeError`` catches whatever this package refuses on purpose."""

    exit_code: ClassVar[int] = 1
    """The status with which the command line ends."""

    def __str__(self) -> str:
        """The message itself; ``KeyError`` among the parents would otherwise print its ``repr``."""
        return " ".join(str(part) for part in self.args)


class UsageError(RankscopeError, ValueError):
    """An argument that cannot be meant: an unknown row kind, an option that excludes another."""

    exit_code = 2


class WrongCall(UsageError, TypeError):
    """A call with a keyword that the function does not take, with too many arguments, or without one that it needs."""


class UnknownName(UsageError, KeyError):
    """A site, measure, method or data set that does not exist; the message lists those that do."""


class OutputExists(UsageError, FileExistsError):
    """The output is already there and is kept unless overwriting was asked for."""


class CheckpointError(RankscopeError, ValueError):
    """A folder that is no checkpoint, a base that is missing, an adapter that does not land."""

    exit_code = 3


class DataError(RankscopeError, ValueError):
    """A data set that cannot be read, or does not hold what was asked of it."""

    exit_code = 3


class UnsafeError(RankscopeError, ValueError):
    """Something that would run code of unknown origin, or leave the folder it was given."""

    exit_code = 3


class StoreError(RankscopeError):
    """A store of features that cannot be used as it is."""

    exit_code = 4


class StoreCorrupt(StoreError, ValueError):
    """Bytes that are not those that were written: truncated, altered, or of another kind of file."""


class StoreIncomplete(StoreError, RuntimeError):
    """A collect that has not finished; the same command continues it."""


class StoreMismatch(StoreError, ValueError):
    """An unfinished store of another plan: continuing it would mix two runs."""


class NotComparable(RankscopeError, ValueError):
    """Two runs between which the asked-for number has no meaning: other rows, other widths, too few rows."""

    exit_code = 5


class MissingTool(RankscopeError, ImportError):
    """An optional package or program that this needs is not installed."""

    exit_code = 6


class StoreLocked(StoreError, BlockingIOError):
    """Another process is writing this store."""

    exit_code = 7


class StorageError(RankscopeError, OSError):
    """The disk is full, read-only or failing; what was committed is kept."""

    exit_code = 8


class NonFinite(RankscopeError, ArithmeticError):
    """Features, a loss or weights that are NaN or infinite."""

    exit_code = 9


def public(function: Callable[P, T]) -> Callable[P, T]:
    """The function itself, except that a call which does not fit its signature raises an error that says what to write.

    A type checker sees the signature of the function as it was written.

    Raises:
        WrongCall: naming the nearest keyword and all that the function takes.
    """
    signature = inspect.signature(function)
    options = [name for name, parameter in signature.parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongCall(
                f"{function.__name__}(): {_correction(kwargs, signature) or error}; its options are {', '.join(options)}"
            ) from error
        return function(*args, **kwargs)

    return called


def _correction(given: Iterable[str], signature: inspect.Signature) -> str:
    """What is wrong with the first keyword that a signature does not have, and which was probably meant."""
    known = list(signature.parameters)
    for name in given:
        if name not in known:
            near = get_close_matches(_ON_THE_COMMAND_LINE.get(name, name), known, n=1)
            return f"there is no option {name!r}" + "".join(f", write {one}=" for one in near)
    return ""
