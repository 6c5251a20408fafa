"""The command line: one file a command, each parses, makes one call and prints. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from types import FrameType
from typing import Annotated, NoReturn

import typer
from typer import Option

from rankscope.cli import interruption, show, streams
from rankscope.cli.between import between
from rankscope.cli.card import card
from rankscope.cli.collect import collect
from rankscope.cli.compare import compare
from rankscope.cli.curve import curve
from rankscope.cli.data import check
from rankscope.cli.definitions import definitions
from rankscope.cli.demo import demo
from rankscope.cli.doctor import doctor
from rankscope.cli.exchange import export, import_
from rankscope.cli.generate import generate
from rankscope.cli.inspect import inspect
from rankscope.cli.measure import measure
from rankscope.cli.options import flat
from rankscope.cli.reopen import show_
from rankscope.cli.report import report
from rankscope.cli.score import score
from rankscope.cli.selftest import selftest
from rankscope.cli.track import track
from rankscope.cli.train import train
from rankscope.cli.verify import verify
from rankscope.cli.weights import weights
from rankscope.errors import RankscopeError, StorageError

EXIT_CODES = """Exit codes: 0 ok · 1 unexpected · 2 usage · 3 bad checkpoint or data · 4 corrupt or incomplete store ·
5 nothing comparable · 6 missing tool, broken plug-in · 7 locked · 8 disk · 9 not finite · 130/143 interrupted · 141 broken pipe."""

app = typer.Typer(
    help=f"What fine-tuning does to a model's representation space.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
WITH_RUNS = (
    demo, inspect, doctor, collect, measure, compare, between, track, report, show_, card, curve, weights, verify, import_,
    export,
)  # fmt: skip
WITHOUT = (train, generate, score, definitions, selftest)
for command in (*WITH_RUNS, *WITHOUT):
    app.command(command.__name__.strip("_"))(flat(command))
data_sets = typer.Typer(help="Inspect data sets.", no_args_is_help=True)
data_sets.command()(flat(check))
data_sets.callback()(lambda: None)
app.add_typer(data_sets, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        from rankscope import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["RANKSCOPE_DEBUG"] = "1"


def main() -> NoReturn:
    """Run the command line and end the process with its documented exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    with streams.checked():
        status = _ended(partial(app, in_full(sys.argv[1:]))) or _ended(sys.stdout.flush)
    if status:  # its cause has been told; what stdout may still hold is delivered if it can be
        try:
            sys.stdout.flush()
        except OSError:
            streams.drop(sys.stdout)
    sys.exit(status)


def in_full(arguments: Sequence[str]) -> list[str]:
    """The arguments with the path that ``--plot`` and ``--report`` may go without: the folder where the command was typed.

    Typer knows no option whose value may be missing.
    """
    full: list[str] = []
    for here, following in zip_longest(arguments, arguments[1:], fillvalue="-"):
        full += [here, "."] if here in ("--plot", "--report") and following.startswith("-") else [here]
    return full


def _ended(work: Callable[[], object]) -> int:
    """The exit status with which some work ends."""
    try:
        work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except streams.ReaderGone:
        return streams.BROKEN_PIPE
    except Exception as error:
        return _failed(error)
    return 0


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    show.note(f"\n{interruption.words()}")
    sys.exit(128 + number)


def _failed(error: Exception) -> int:
    if os.environ.get("RANKSCOPE_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, RankscopeError):
        show.note(f"error: {error}")
        return error.exit_code
    if isinstance(error, PermissionError):
        show.note(
            f"error: {error.filename or 'a file'} may not be read or written by this user; change its permissions"
        )
        return StorageError.exit_code
    show.note(f"unexpected {type(error).__name__}: {error}\nset RANKSCOPE_DEBUG=1 for the whole traceback")
    return 1
