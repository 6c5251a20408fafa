"""The reference pages that are made from the package itself: the public names, every measure, the commands, the exit codes.

``conf.py`` calls :func:`write` before each build, so that none of these pages can say something else than the code does. The pages
lie in ``reference/generated/``, which git ignores.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import typer

import rankscope
import rankscope.results
from rankscope import errors
from rankscope.catalogue import ALIASES
from rankscope.cli import EXIT_CODES, app
from rankscope.definition import Comparison, Definition, WeightDefinition, in_full
from rankscope.registry import COMPARISONS, DEFINITIONS, WEIGHT_DEFINITIONS

Known = Definition | Comparison | WeightDefinition

GROUPS = {
    "Collect, open, import": ("collect", "load", "Run", "open_data", "embedded_checkpoint", "Features", "Rows", "Site"),
    "Measure and compare": (
        "measure",
        "profile",
        "spectra",
        "compare",
        "compare_arms",
        "between",
        "examples",
        "curve",
        "weigh",
    ),
    "Report": ("make_report", "write_report", "open_report"),
    "Train, generate, score": ("train", "generate", "score", "SpectrumCallback", "BottleneckConfig"),
    "Models": ("load_model", "register"),
    "Measures": ("Definition", "Comparison", "Spectrum"),
}
"""Heading → public names. Names that stand nowhere here come last, under a heading of their own."""

BAR = r"\|"
"""A bar inside a cell."""


def write(folder: Path) -> list[Path]:
    """Write every page into a folder.

    Returns:
        The pages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"api": api(), "definitions": definitions(), "command-line": command_line(), "exit-codes": exit_codes()}
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:  # Sphinx reads a page again only if it has changed
            path.write_text(text)
    return [folder / f"{name}.md" for name in pages]


def api() -> str:
    """The public names by what they are for, and then the values that they return, from their docstrings."""
    grouped = {name for names in GROUPS.values() for name in names}
    groups = GROUPS | {"More": tuple(name for name in rankscope.__all__ if name not in grouped)}
    text = "# Python\n\nEverything here is reached as `rankscope.NAME`; importing the package imports nothing heavy.\n"
    for title, names in groups.items():
        text += f"\n## {title}\n\n" + "\n".join(_documented("rankscope", name) for name in names)
    text += (
        "\n## What analyses return\n\nEach has `to_frame()`, `to_records()` and, where there is a figure, `plot()`.\n\n"
    )
    return text + "\n".join(_documented(one.__module__, one.__name__) for one in returned())


def returned() -> Iterator[type]:
    """The dataclasses of the package ``results``, in the order of its files."""
    for file in pkgutil.iter_modules(rankscope.results.__path__, "rankscope.results."):
        for name, one in vars(importlib.import_module(file.name)).items():
            if inspect.isclass(one) and is_dataclass(one) and one.__module__ == file.name and name[0] != "_":
                yield one


def _documented(module: str, name: str) -> str:
    """The directive that puts a docstring into the page; a table of measures is shown on its own page instead."""
    value = getattr(importlib.import_module(module), name)
    if isinstance(value, Mapping):
        return f"`rankscope.{name}`\n: Measures by name; [all of them](definitions.md).\n"
    kind = "autoclass" if inspect.isclass(value) else "autofunction"
    members = "   :members:\n" if kind == "autoclass" and not issubclass(value, Exception) else ""
    return f"```{{eval-rst}}\n.. {kind}:: {module}.{name}\n{members}```\n"


def definitions() -> str:
    """Every measure, with what is needed to read its value."""
    text = "# Measures\n\nAs `rankscope definitions` prints them. *n* is the number of rows, *d* that of features.\n"
    text += "A value that is asked for under a name of the field, in the last table, is the same.\n"
    one, two = "Numbers of one run", "Numbers of two runs"
    for title, known in ((one, DEFINITIONS), (two, COMPARISONS), ("Numbers of weights", WEIGHT_DEFINITIONS)):
        text += f"\n## {title}\n\n" + table(
            ("name", "formula", "range", "bias", "noise scores", "source"), map(_row, known.values())
        )
    also = ((f"`{name}`", f"`{meant}`") for name, meant in sorted(ALIASES.items()))
    return text + "\n## Other names\n\n" + table(("in the field", "here"), also)


def _row(known: Known) -> tuple[str, ...]:
    formula = known.formula if isinstance(known, WeightDefinition) else in_full(known)
    # What noise scores depends on the shape of the features for a number of one run; it is measured beside every value.
    noise = getattr(known, "noise", "measured beside each value")
    span = f"{known.low} … {known.high} {known.unit}"
    return f"`{known.name}`", f"`{formula}`", *map(plain, (span, known.bias, noise, known.citation))


def command_line() -> str:
    """Every command, with its arguments and options as ``--help`` has them."""
    text = "# Command line\n\n`rankscope COMMAND --help` shows the same.\n"
    for name, command in commands(typer.main.get_command(app)):
        context = typer.Context(command, info_name=f"rankscope {name}")
        usage = " ".join(("rankscope", name, *command.collect_usage_pieces(context)))
        text += f"\n## rankscope {name}\n\n{helped(command.help)}\n\n```text\n{usage}\n```\n"
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in command.params:
            if record := parameter.get_help_record(context):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or "", []).append(record)
        for panel, records in panels.items():
            text += (f"\n**{panel}**\n" if panel else "") + "\n"
            text += table(("", ""), ((f"`{spelled}`", plain(about)) for spelled, about in records))
    return text


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a group by the words that call them, those of groups within it included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def helped(text: str) -> str:
    """The help of a command, with its examples as code."""
    return re.sub(r"Example: (.+)", lambda found: f"Example: `{found[1]}`", plain(inspect.cleandoc(text)))


def exit_codes() -> str:
    """The exit status of every error; those that no error has are taken from the help."""
    text = "# Exit codes and errors\n\nEvery error is a `rankscope.RankscopeError` and also the Python error named with it.\n\n"
    text += table(("status", "meaning"), re.findall(r"([\d/]+) (.+?)(?= ·|\.$)", " ".join(EXIT_CODES.split())))
    raised = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.RankscopeError)]
    rows = (
        (str(one.exit_code), f"`{one.__name__}`", f"`{one.__bases__[-1].__name__}`", plain(inspect.getdoc(one) or ""))
        for one in sorted(raised, key=lambda one: one.exit_code)
    )
    return text + "\n## Errors\n\n" + table(("status", "error", "is also", "when"), rows)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [tuple(head), *map(tuple, rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "".join(f"| {' | '.join(' '.join(cell.split()).replace('|', BAR) for cell in line)} |\n" for line in lines)


def plain(text: str) -> str:
    """A text in which Markdown finds no marks of its own but code in double backquotes, which becomes its code."""
    parts = text.split("``")
    escaped = (re.sub(r"([\\*_\[\]<>$#`~^{}])", r"\\\1", part) for part in parts[::2])
    code = (f"`{part}`" for part in parts[1::2])
    return "".join(part for pair in zip_longest(escaped, code, fillvalue="") for part in pair)
