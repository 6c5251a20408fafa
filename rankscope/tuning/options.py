"""The options of a recipe: one name for each, the same in Python, on the command line and in a TOML file."""

from __future__ import annotations

import ast
import inspect
import math
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from rankscope.errors import UnknownName, UsageError
from rankscope.tuning.config import GROUPS, Recipe, Stage

PER_STAGE = tuple(f.name for f in fields(Stage) if f.name not in ("attach", "train", "objective"))
WHOLE = ("freeze_prefix", "precision", "gradient_checkpointing", "max_length", "keep_epochs", "save_steps")


class Option(NamedTuple):
    """What an option is."""

    kind: str
    """``int``, ``float``, ``bool``, ``str``, or ``names`` for a list of texts."""
    default: Any
    """Its default; None where that depends on the stage."""
    own: bool
    """Whether each stage can have its own value."""
    about: str
    """What it says, in a sentence."""


@cache
def options() -> dict[str, Option]:
    """Every option by name."""
    per_stage = {n: o._replace(own=True) for n, o in _listed(Stage) if n in PER_STAGE}
    per_stage["learning_rate"] = per_stage["learning_rate"]._replace(default=None)
    whole = {n: o for n, o in _listed(Recipe) if n in WHOLE}
    grouped = {f"{group}_{n}": o for group, kind in GROUPS.items() for n, o in _listed(kind)}
    return per_stage | whole | grouped


def _listed(kind: type[Any]) -> Iterator[tuple[str, Option]]:
    about = _told(kind)
    for f in fields(kind):
        written = str(f.type)
        short = "names" if written.startswith("tuple") else written if written in _READ else "str"
        yield f.name, Option(short, f.default, False, about.get(f.name, ""))


def _told(kind: type[Any]) -> dict[str, str]:
    """The sentence under each field in the source; nothing where there is no source."""
    found = {}
    for field, text in pairwise(_bodies(kind.__module__).get(kind.__name__, [])):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


@cache
def _bodies(module: str) -> dict[str, list[ast.stmt]]:
    """The statements of each class of a module, parsed once: the command line waits for them."""
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


_READ: dict[str, tuple[Callable[[Any], Any], str]] = {
    "int": (_int, "a whole number"), "float": (_float, "a number"), "bool": (_bool, "true or false"),
    "str": (_str, "a text"), "names": (_names, "a list of texts"),
}  # fmt: skip


def read(name: str, value: Any) -> Any:
    """The value of an option as a recipe takes it; text, as a command line has it, is read.

    Args:
        name: one of :func:`options`.
        value: the value; a list, or a text with commas, where each stage has its own.

    Raises:
        UnknownName: if there is no such option.
        UsageError: if the value is not what the option takes.
    """
    if name not in options():
        raise UnknownName(f"a recipe has no option {name!r}; it has {', '.join(options())}")
    option = options()[name]
    make, what = _READ[option.kind]
    several = value.split(",") if option.own and isinstance(value, str) and "," in value else value
    try:
        if option.own and isinstance(several, list | tuple):
            return [make(part) for part in several]
        return make(several)
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{name} is {what}{', or one a stage' if option.own else ''}; got {value!r}") from None


def read_options(path: Path) -> dict[str, Any]:
    """The options in a TOML file, by the names that :func:`~rankscope.tuning.recipes.recipe` takes; ``method`` and
    ``stages`` among them. ``[lora] rank = 4`` is the option ``lora_rank``.

    Raises:
        UsageError: if the file is missing or no TOML.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"there is no recipe {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= {f"{name}_{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat
