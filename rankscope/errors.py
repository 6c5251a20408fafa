"""Every error that rankscope raises on purpose.

Each is a :class:`RankscopeError` and also the builtin that a caller would expect. Its message says what was asked, what
is there and what to do, and it carries the exit code of the command line.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from typing import ClassVar, ParamSpec, TypeVar

from rankscope import memory

P = ParamSpec("P")
T = TypeVar("T")

MORE_MEMORY = "give the process more memory, or choose fewer or narrower sites (--layers)"
"""What to do where memory is short."""
_ON_THE_COMMAND_LINE = {"vqa_rule": "rule", "column": "columns", "arm": "arms"}
"""Keywords whose name on the command line is another."""


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


class WrongCall(UsageError, TypeError):
    """A call with a keyword that the function does not take, with too many arguments, or without one that it needs."""


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


class TooLarge(NotComparable, MemoryError):
    """What needs more memory at once than there is."""


class MissingTool(RankscopeError, ImportError):
    """A required optional package or program is not installed."""

    exit_code = 6


class BrokenPlugin(RankscopeError, ImportError):
    """A plug-in of another package that cannot be loaded, is not what its entry point promises, or fails."""

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


def is_shortage(error: BaseException) -> bool:
    """Whether an error is an allocator's: Python's, NumPy's, or torch's, which on a CPU has no type of its own."""
    return isinstance(error, MemoryError) or re.search(r"(allocate|out of) memory|bad_alloc", str(error)) is not None


@contextmanager
def naming_shortage(what: str, remedy: str) -> Iterator[None]:
    """Turn the error of an allocator into one that says what was needed, what is free, and what to do.

    Args:
        what: what does not fit into memory, in words.
        remedy: what to do.

    Raises:
        TooLarge: in its place.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RankscopeError) or not is_shortage(error):
            raise
        asked = re.search(r"allocate ([\d.,]+ ?[a-zA-Z]+)", str(error))
        told = [f"{asked[1]} more were asked for"] if asked else []
        told += [f"{memory.free() / 1e9:.3g} GB are free"] if "CUDA" not in str(error) else []
        raise TooLarge(f"{what} does not fit into memory ({' and '.join(told)}); {remedy}") from error


def public(function: Callable[P, T]) -> Callable[P, T]:
    """The function itself, except that a call which does not fit its signature raises an error that says what to write.

    A type checker sees the signature of the function as it was written. ``layers=`` is taken for ``sites=``, as
    ``--sites`` is for ``--layers``.

    Raises:
        WrongCall: naming the nearest keyword and all that the function takes.
        TooLarge: in the place of an allocator's error.
    """
    signature = inspect.signature(function)
    name = function.__qualname__.removesuffix(".__init__")
    options = [name for name, parameter in signature.parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    listed = ", ".join(options or signature.parameters)

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        if "layers" in kwargs and "sites" in signature.parameters and "sites" not in kwargs:
            kwargs["sites"] = kwargs.pop("layers")
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise WrongCall(f"{name}(): {_correction(kwargs, signature) or error}; its options are {listed}") from error
        with naming_shortage(f"{name}()", MORE_MEMORY):
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
