"""The options of a recipe: one name for each, the same in Python, on the command line and in a TOML file."""

from __future__ import annotations

import ast
import inspect
import math
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from rankscope.errors import UnknownName, UsageError
from rankscope.tuning.config import GROUPS, Recipe, Stage

PER_STAGE = tuple(f.name for f in fields(Stage) if f.name not in ("attach", "train", "objective"))
WHOLE = tuple(f.name for f in fields(Recipe) if f.name not in ("stages", "method", "options"))


class Option(NamedTuple):
    """What an option is."""

    type: str
    """``int``, ``float``, ``bool``, ``str``, or ``names`` for a list of texts."""
    default: Any
    """Its default; None if that depends on the stage."""
    own: bool
    """Whether each stage can have its own value."""
    about: str
    """What it means, in a sentence."""
    title: str = ""
    """The heading of its group; empty for an option of the stages or of the recipe as a whole."""


@cache
def options() -> dict[str, Option]:
    """Every option by name."""
    per_stage = {n: o._replace(own=True) for n, o in _fields_of(Stage) if n in PER_STAGE}
    per_stage["learning_rate"] = per_stage["learning_rate"]._replace(default=None)
    whole = {n: o for n, o in _fields_of(Recipe) if n in WHOLE}
    grouped = {
        f"{name}_{n}": o._replace(title=group.title)
        for name, group in GROUPS.items()
        for n, o in _fields_of(group.options)
    }
    return per_stage | whole | grouped


def chosen_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a recipe among the arguments of a function, without those that were left at None."""
    return {name: given[name] for name in options() if given[name] is not None}


def _fields_of(record: type[Any]) -> Iterator[tuple[str, Option]]:
    """The fields of a dataclass as options; the sentence about each is the docstring under it, empty without a source."""
    body = _bodies(record.__module__).get(record.__name__, [])
    about = {
        ast.unparse(field.target): " ".join(str(ast.literal_eval(text.value)).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    for f in fields(record):
        written = str(f.type)
        type_ = "names" if written.startswith("tuple") else written if written in _READERS else "str"
        yield f.name, Option(type_, f.default, False, about.get(f.name, ""))


@cache
def _bodies(module: str) -> dict[str, list[ast.stmt]]:
    """The statements of each class of a module; parsed once, because the command line waits for them."""
    try:
        source = inspect.getsource(sys.modules[module])
    except OSError:
        return {}
    return {node.name: node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def _bool(value: Any) -> bool:
    return bool({"true": True, "false": False, True: True, False: False}[value])


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral | str):
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real | str) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(part for part in (_str(part).strip() for part in parts) if part)


_READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "int": (_int, "a whole number"), "float": (_float, "a number"), "bool": (_bool, "true or false"),
    "str": (_str, "a text"), "names": (_names, "a list of texts"),
}  # fmt: skip


def read(name: str, value: Any) -> Any:
    """The value of an option as a recipe takes it, or a list of them if each stage has its own.

    Args:
        name: one of :func:`options`.
        value: the value, or the text of it as typed on a command line; a list, or a text with commas, for one value a stage.

    Raises:
        UnknownName: if there is no such option.
        UsageError: if the value is not what the option takes.
    """
    if name not in options():
        raise UnknownName(f"a recipe has no option {name!r}; it has {', '.join(options())}")
    option = options()[name]
    make, what = _READERS[option.type]
    several = value.split(",") if option.own and isinstance(value, str) and "," in value else value
    try:
        if option.own and isinstance(several, list | tuple):
            return [make(part) for part in several]
        return make(several)
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{name} is {what}{', or one a stage' if option.own else ''}; got {value!r}") from None


def read_options(path: Path) -> dict[str, Any]:
    """The options in a TOML file by the names that ``recipe`` takes, ``method`` and ``stages`` among them.

    ``[lora] rank = 4`` is the option ``lora_rank``.

    Raises:
        UsageError: if there is no such file, or it is not TOML.
    """
    flat: dict[str, Any] = {}
    for name, value in read_toml(path, "recipe").items():
        flat |= {f"{name}_{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """What a TOML file says.

    Args:
        path: the file.
        what: what it is called, for the message.

    Raises:
        UsageError: if there is no such file, or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UsageError(f"there is no {what} {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
