"""Every option of the command line arrives where it belongs: at the function of the library, with the value that was typed.

Each command is run once with each of its options while the function behind it is replaced by one that writes down how it was
called. The options come from the app itself, so that one without a case here fails.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any
from unittest.mock import MagicMock

import pytest
import typer
from cases import OPEN, RECORDS, Command
from joins import COMMANDS, FILES

import rankscope
from rankscope.cli import app, early
from rankscope.errors import RankscopeError
from rankscope.models.describe import describe

Call = Callable[..., Any]


def leaves(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield before + name, command


def test_every_option_of_every_command_has_a_case() -> None:
    offered = {name: {p.name for p in command.params} for name, command in leaves(typer.main.get_command(app))}
    assert {name: set(command.cases) for name, command in COMMANDS.items()} == offered
    assert sum(map(len, offered.values())) > 150


class _Recorded(RankscopeError):
    pass


def arguments(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, those that ``**options`` took included."""
    signature = inspect.signature(function)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    found = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(name)
    return found


@pytest.fixture
def record(
    rankscope_: Call, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Command, str, tuple[str, ...]], dict[str, Any]]:
    """The arguments of the one call that a command makes to a function."""

    def recorded(command: str, target: str, typed: tuple[str, ...]) -> dict[str, Any]:
        calls: list[dict[str, Any]] = []

        def stop(*args: Any, **kwargs: Any) -> Any:
            calls.append(arguments(real, args, kwargs))
            raise _Recorded("recorded")

        result = MagicMock(names=("u", "v", "w"), arms=("u", "v"), notes=(), records=(MagicMock(),), spectra={})
        result.to_json.return_value = {"a": 1}
        result.__iter__.return_value = [result] if command == "show" else []  # a report is a list of results
        real = locate(target)
        with monkeypatch.context() as patch:
            for name in {COMMANDS[command].target, *COMMANDS[command].before, OPEN, RECORDS} - {target}:
                patch.setattr(name, lambda *args, **kwargs: result)
            for name in [name for name in vars(early) if name.startswith("need_")]:  # nothing has to be on disk
                patch.setattr(f"rankscope.cli.early.{name}", lambda *args, **kwargs: None)
            patch.setattr(target, stop)
            done = rankscope_(*command.split(), *typed)
        assert len(calls) == 1, done
        assert (done.code, done.err.strip().splitlines()[-1]) == (1, "error: recorded")
        return calls[0]

    return recorded


EVERY = [(name, option) for name, command in COMMANDS.items() for option in command.cases]


@pytest.mark.parametrize(("command", "option"), EVERY, ids=[f"{name} {option}" for name, option in EVERY])
def test_each_option_changes_the_call(
    command: str, option: str, record: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = COMMANDS[command]
    one = found.cases[option]
    if file := FILES.get(option, FILES.get(f"{option} {command}")):
        monkeypatch.chdir(tmp_path)
        Path(file[0]).write_text(file[1])
    typed = one.typed if one.alone else (*found.needs, *one.typed)
    arrived = record(command, one.target or found.target, typed)[one.keyword or option]
    arrived = list(arrived) if isinstance(arrived, tuple) else arrived
    assert arrived == one.value


def test_every_option_of_the_library_is_offered() -> None:
    """By the commands whose function takes the same keywords, but for what only makes sense in Python."""
    only_python = {
        "collect": {"preview", "progress", "reuse"},
        "measure": {"level", "progress"},
        "compare": {"level", "progress"},
        "report": {"level", "progress"},
        "curve": {"parts", "level", "progress"},
        "between": {"level", "progress"},
        "track": {"level", "progress"},
        "weights": {"progress"},
        "score": set(),
        "generate": {"progress"},
        "train": {"callbacks", "progress"},
    }
    for name, missing in only_python.items():
        command = COMMANDS[name]
        function = locate(command.target)
        keywords = {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
        offered = {one.keyword or option for option, one in command.cases.items()}
        assert keywords - offered <= missing, name


def test_json_is_what_python_gives(rankscope_: Call, folder: Call, tmp_path: Path) -> None:
    """Of the commands whose results are no records; the others are in ``test_commands.py``."""
    from rankscope.data import check
    from rankscope.selftest import run

    data = tmp_path / "data.jsonl"
    data.write_text('{"id": "a", "text": "x", "label": 1}\n{"id": "b", "text": "y", "label": 0}\n')
    said = tmp_path / "said.jsonl"
    said.write_text('{"id": "a", "prediction": "1"}\n{"id": "b", "prediction": "1"}\n')
    described = json.loads(rankscope_("inspect", folder("gpt2", "lora"), "--json").out)[0]
    found = describe(folder("gpt2", "lora"))
    assert described["tunings"][0]["parameters"] == found.tunings[0].parameters
    assert described["sites"] == {str(site): width for site, width in found.sites.items()}
    assert json.loads(rankscope_("data", "check", data, "--json").out) == check(str(data)).to_json()
    scores = rankscope.score(said, str(data)).to_json()
    assert json.loads(rankscope_("score", said, "--data", data, "--json").out) == scores
    answers = run(["identical"]).to_records()
    assert json.loads(rankscope_("selftest", "--only", "identical", "--json").out) == answers
