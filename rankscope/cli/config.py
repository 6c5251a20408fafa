"""``--config``: the options and arguments of a command from a TOML file, under the names that are typed."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from typer import Context, Option  # Context is looked for in the signature

from rankscope.errors import UnknownName, UsageError
from rankscope.tuning.options import read_toml


def _fill(ctx: Context, path: Path | None) -> Path | None:
    """Put what a file says where a command's defaults are; typed options go before these, and are checked alike."""
    if path is not None and not ctx.resilient_parsing:
        ctx.default_map = {**(ctx.default_map or {}), **as_typed(path, ctx.command.params)}
    return path


Config = Annotated[
    Path | None,
    Option(
        "--config",
        callback=_fill,
        is_eager=True,
        help="Options and arguments as TOML, e.g. layers = 'final'; those given here take precedence.",
    ),
]


def as_typed(path: Path, parameters: Sequence[Any]) -> dict[str, Any]:
    """What a file says, by the names of a command's parameters, as texts that could have been typed.

    A list is several values where the command takes several, and else one with commas; a table is values ``name=…``.

    Args:
        path: the TOML file.
        parameters: the parameters of the command, as typer has them.

    Raises:
        UnknownName: if the file names an option that the command does not have.
        UsageError: if it cannot be read, names an option twice, or a value is not of the kind that the option takes.
    """
    named = {
        flag.lstrip("-").replace("-", "_"): parameter
        for parameter in parameters
        for flag in (parameter.name, *(flag for flag in parameter.opts if flag.startswith("--")))
        if parameter.name not in ("config", "help")
    }
    found: dict[str, Any] = {}
    for name, value in read_toml(path, "file of options").items():
        if (parameter := named.get(name.replace("-", "_"))) is None:
            near = ", ".join(get_close_matches(name, named, n=3, cutoff=0))
            raise UnknownName(f"{path}: there is no option {name!r} (nearest: {near}); there are {', '.join(named)}")
        if parameter.name in found:
            raise UsageError(f"{path}: {name!r} is another name of an option that stands there already; give it once")
        found[parameter.name] = _typed(parameter, value, f"{path}: {name}")
    return found


def _typed(parameter: Any, value: Any, where: str) -> Any:
    switch = getattr(parameter, "is_flag", False)
    several = getattr(parameter, "multiple", False) or parameter.nargs != 1
    if value is True and parameter.metavar == "[PATH]":  # which may go without; then it is the folder of the command
        return "."
    if switch != isinstance(value, bool):
        raise UsageError(f"{where} is {'true or false' if switch else 'no switch, and takes a value'}; got {value!r}")
    if switch:
        return value
    if isinstance(value, dict):
        if not several:
            raise UsageError(f"{where} takes one value, and is a table: {value!r}")
        return [f"{key}={_text(part, where)}" for key, part in value.items()]
    if several:
        return [_text(part, where) for part in (value if isinstance(value, list) else [value])]
    return _text(value, where)


def _text(value: Any, where: str) -> str:
    parts = value if isinstance(value, list) else [value]
    if strange := [part for part in parts if isinstance(part, dict | list | bool)]:
        raise UsageError(f"{where} holds texts and numbers; got {strange[0]!r}")
    return ",".join(map(str, parts))
