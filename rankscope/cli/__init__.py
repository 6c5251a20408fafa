"""The command line: one file a command, each parses, makes one call and prints. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import version as installed_version
from types import FrameType
from typing import Annotated, NoReturn

import click
import typer

from rankscope.cli import collect, compare, definitions, demo, inspect, measure, verify
from rankscope.errors import RankscopeError

EXIT_CODES = """Exit codes: 0 ok · 1 unexpected · 2 usage · 3 bad checkpoint or data · 4 corrupt or incomplete store ·
5 nothing comparable · 6 missing tool · 7 locked · 8 disk · 9 not finite · 130/143 interrupted."""

app = typer.Typer(
    help=f"What fine-tuning does to a model's representation space.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (inspect, collect, measure, compare, verify, definitions, demo):
    module.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(installed_version("rankscope"))
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
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(_status())


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _status() -> int:
    try:
        status = app(standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        typer.echo("interrupted; what was committed is kept, and the same command continues it", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _failed(error)
    return status if isinstance(status, int) else 0


def _failed(error: Exception) -> int:
    if os.environ.get("RANKSCOPE_DEBUG"):
        raise error
    if isinstance(error, RankscopeError):
        typer.echo(f"error: {error}", err=True)
        return error.exit_code
    typer.echo(f"unexpected {type(error).__name__}: {error}\nset RANKSCOPE_DEBUG=1 for the whole traceback", err=True)
    return 1
