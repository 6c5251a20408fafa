"""Every option of every command, and many command lines in one process: how each ends, and what slow packages it imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import typer

from rankscope.cli import app

PROGRAM = """
import contextlib, io, json, os, sys
import rankscope.data.open, rankscope.scores.join  # which need none of the slow packages
from rankscope import cli
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    sys.argv = ["rankscope", "collect", "--help"]
    cli.main()  # what each case would import again
for line in json.load(sys.stdin):
    if os.fork():  # each in a process of its own, so that what one imports is not there for the next
        os.wait()
        continue
    sys.argv, said = ["rankscope", *line], io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            cli.main()
        except SystemExit as end:
            slow = {"torch", "transformers", "peft", "matplotlib", "pandas"} & sys.modules.keys()
            print(json.dumps([end.code, sorted(slow), " ".join(said.getvalue().split())]), flush=True)
            os._exit(0)
"""
"""Runs the command line for each list of arguments: the exit code, what slow packages were imported by then, and what was said."""


def ended(lines: Sequence[Sequence[str]], here: Path) -> list[tuple[int, list[str], str]]:
    """For each command line, run in a folder: the exit code, the slow packages that it imported, and what it said on stderr."""
    given = json.dumps(list(map(list, lines)))
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=given, capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Option(NamedTuple):
    """An option with a value."""

    command: str
    name: str
    flag: str
    """What is typed before the value; empty for an argument."""
    kind: Any
    """Its type, as the command declares it."""


def options() -> Iterator[Option]:
    """Every option and argument of every command that takes a value."""
    for before, one in (("", app), ("data ", app.registered_groups[0].typer_instance)):
        assert one is not None
        declared = {
            info.callback.__name__.strip("_"): info.callback for info in one.registered_commands if info.callback
        }
        group: Any = typer.main.get_command(one)
        commands = group.commands if hasattr(group, "commands") else {"check": group}
        for name, command in commands.items():
            if name not in declared:
                continue
            types = signature(declared[name]).parameters
            for one_ in command.params:
                if not getattr(one_, "is_flag", False) and one_.name in types:
                    flag = one_.opts[0] if one_.param_type_name == "option" else ""
                    yield Option(before + name, one_.name, flag, types[one_.name].annotation)


def plain(kind: Any) -> Any:
    """The type of a value: ``Annotated[Literal["a"] | None, …]`` as the literal, and a list as what it is of."""
    while get_origin(kind) is not Literal and (parts := [part for part in get_args(kind) if part is not type(None)]):
        kind = parts[0]
    return kind
