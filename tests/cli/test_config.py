"""A TOML file of options is what could have been typed, for every option of the commands that take one."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
from joins import COMMANDS, FILES

from rankscope.cli import app, in_full
from rankscope.cli.config import as_typed
from rankscope.errors import UnknownName, UsageError

GROUP: Any = typer.main.get_command(app)
TAKING = [name for name in COMMANDS if name != "train" and "config" in COMMANDS[name].cases]


def parsed(command: str, *typed: str) -> dict[str, Any]:
    """What a command would be called with."""
    with GROUP.commands[command].make_context(command, in_full(typed)) as context:
        return {name: value for name, value in context.params.items() if name != "config"}


def in_toml(typed: tuple[str, ...]) -> str:
    """``--out o`` as ``out = "o"``; a flag by itself as true or false; several of one option as a list."""
    given: dict[str, list[str]] = {}
    for part in typed:
        if part.startswith("-"):
            values = given.setdefault({"-q": "--quiet", "-m": "--measures"}.get(part, part), [])
        else:
            values.append(part)
    return "".join(f"{_unset(flag)} = {_value(flag, values)}\n" for flag, values in given.items())


def _unset(flag: str) -> str:
    return flag.removeprefix("--").removeprefix("no-")


def _value(flag: str, values: list[str]) -> str:
    if not values:
        return "false" if flag.startswith("--no-") else "true"
    return str(values) if len(values) > 1 else repr(values[0])


@pytest.mark.parametrize("command", TAKING)
def test_every_option_in_a_file_is_the_option_typed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    needs = [*takewhile(lambda part: not part.startswith("-"), COMMANDS[command].needs)]
    swept = 0
    for name, case in COMMANDS[command].cases.items():
        if not case.typed[0].startswith("-") or name == "config":
            continue
        Path("c.toml").write_text(in_toml(case.typed))
        assert parsed(command, *needs, "--config", "c.toml") == parsed(command, *needs, *case.typed), case
        assert parsed(command, *needs) != parsed(command, *needs, *case.typed), case
        swept += 1
    assert swept >= 15
    assert f"config {command}" in FILES


def test_arguments_tables_and_both_spellings_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(
        'checkpoint = ["base", "lora"]\nlayers = ["decoder.0", "final"]\nn = 5\nkeep_special = true\n'
        'max-length = 9\n[column]\ntargets = "summary"\nid = "name"\n'
    )
    found = parsed("collect", "--config", "c.toml")
    assert found["checkpoint"] == [Path("base"), Path("lora")]
    assert (found["sites"], found["n"], found["keep_special"], found["max_length"]) == ("decoder.0,final", 5, True, 9)
    assert found["columns"] == ["targets=summary", "id=name"]
    typed = parsed("collect", "other", "--config", "c.toml", "--n", "7", "--layers", "all")
    assert (typed["checkpoint"], typed["n"], typed["sites"]) == ([Path("other")], 7, "all")  # what is typed goes first
    assert typed["max_length"] == 9
    Path("c.toml").write_text('[arm]\na = ["a-s0.pt", "a-s1.pt"]\nb = "b-*.pt"\n')
    assert parsed("compare", "--config", "c.toml")["arm"] == ["a=a-s0.pt,a-s1.pt", "b=b-*.pt"]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('row = "last"', UnknownName, r"no option 'row' \(nearest: rows, .*\); there are checkpoint, sites"),
        ('config = "d.toml"', UnknownName, "no option 'config'"),
        ('sites = "all"\nlayers = "0"', UsageError, "'layers' is another name of an option that stands there already"),
        ("n = true", UsageError, "n is no switch, and takes a value; got True"),
        ("overwrite = 1", UsageError, "overwrite is true or false; got 1"),
        ('[rows]\nkind = "last"', UsageError, "rows takes one value, and is a table"),
        ("layers = [[1]]", UsageError, r"layers holds texts and numbers; got \[1\]"),
        ("n = ", UsageError, "is not TOML"),
    ],
)
def test_what_a_file_cannot_say(text: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(error, match=words):
        as_typed(file, GROUP.commands["collect"].params)
