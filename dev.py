#!/usr/bin/env python3
"""The two commands of the README, on a machine with nothing but Python 3.11.

``python3 dev.py demo`` and ``python3 dev.py test`` make the virtual environment ``.venv`` beside this file (once; again
when the pins change; for another version of Python one of its own) and run in it. ``check`` runs lint, types and the layer
test. ``docs`` builds the documents into ``docs/_build/html``, and first installs what only they need. ``study`` runs every
analysis, within six hours, or in minutes with ``--quick``. What follows the command is passed on: ``python3 dev.py test
tests/linalg -x``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / (".venv" if sys.version_info[:2] == (3, 11) else ".venv-{}.{}".format(*sys.version_info))
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
COMMANDS: dict[str, list[list[str]]] = {
    "demo": [["-m", "rankscope", "demo"]],
    "test": [["-m", "pytest", "-n", "auto", "--dist", "loadfile"]],
    "check": [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "mypy"],
        ["-m", "pytest", "tests/test_layers.py"],
    ],
    "docs": [["-m", "sphinx", "-W", "--keep-going", "docs", "docs/_build/html"]],
    "study": [["analyses"]],
}
EXTRAS = {"docs": "docs", "study": "study"}
"""What a command needs besides the packages of the tests, as an extra of ``pyproject.toml``."""


def set_up(extra: str | None = None) -> None:
    """Install this checkout and what it needs at the pinned versions, unless that has been done for these very pins."""
    pins = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes()).hexdigest()
    stamp = ENVIRONMENT / "installed"
    install = [BIN / "python", "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    if not (stamp.exists() and stamp.read_text() == pins):
        print(f"setting up {ENVIRONMENT} (once, a few minutes)", file=sys.stderr, flush=True)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run(
            [*install, "torch"], check=True
        )  # first and pinned: a range in another package must not choose it
        subprocess.run([*install, "--editable", f"{ROOT}[test]"], check=True)
        stamp.write_text(pins)
    more = ENVIRONMENT / f"installed-{extra}"  # goes with the environment when the pins change
    if extra and not more.exists():
        subprocess.run([*install, "--editable", f"{ROOT}[{extra}]"], check=True)
        more.touch()


def main(arguments: list[str]) -> int:
    """Set up, run the command, return the first failing status."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: python3 dev.py {{{','.join(COMMANDS)}}} [arguments]", file=sys.stderr)
        return 2
    set_up(None if "--quick" in arguments else EXTRAS.get(arguments[0]))  # a quick study needs nothing more
    for command in COMMANDS[arguments[0]]:
        status = subprocess.run([BIN / "python", *command, *arguments[1:]], cwd=ROOT).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
