"""Many command lines in one process: how each ends, and what slow packages it had imported by then."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
