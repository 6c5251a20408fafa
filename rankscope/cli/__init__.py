"""The command line: one file a command, each parses, makes one call and prints. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated, NoReturn

import typer

from rankscope.cli import (
    collect,
    compare,
    curve,
    data,
    definitions,
    demo,
    exchange,
    generate,
    inspect,
    measure,
    score,
    selftest,
    show,
    train,
    verify,
    weights,
)
from rankscope.errors import RankscopeError

EXIT_CODES = """Exit codes: 0 ok · 1 unexpected · 2 usage · 3 bad checkpoint or data · 4 corrupt or incomplete store ·
5 nothing comparable · 6 missing tool · 7 locked · 8 disk · 9 not finite · 130/143 interrupted."""

app = typer.Typer(
    help=f"What fine-tuning does to a model's representation space.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    demo,
    inspect,
    collect,
    measure,
    compare,
    curve,
    weights,
    verify,
    exchange,
    train,
    generate,
    score,
    data,
    definitions,
    selftest,
):
    module.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from rankscope import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["RANKSCOPE_DEBUG"] = "1"


def main() -> NoReturn:
    """Run the command line and end the process with its documented exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    try:
        app()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        sys.exit(_failed(error))
    sys.exit(0)


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    show.note("\ninterrupted; what was committed is kept, and the same command continues it (train: with --resume)")
    sys.exit(128 + number)


def _failed(error: Exception) -> int:
    if os.environ.get("RANKSCOPE_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, RankscopeError):
        show.note(f"error: {error}")
        return error.exit_code
    show.note(f"unexpected {type(error).__name__}: {error}\nset RANKSCOPE_DEBUG=1 for the whole traceback")
    return 1
