"""The code in Markdown: its blocks, run one after another as a reader would run them, or at least held to what is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import typer

from rankscope.cli import app

NOT_RUN = re.compile(r"<!-- not run: (.+) -->")
"""The line before a block that is only checked, with the reason."""
SHORT = {r"(--steps |\bsteps=|STEPS = )\d+": "2", r"(SAMPLES = )\d+": "24", r"(\?n=)\d{3,}": "48"}
"""How long something is trained and how much is read, which a test cuts short."""


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    """``python``, ``sh`` …; ``python`` for the cells of a notebook too."""
    text: str
    """The code."""
    not_run: str
    """Why it is not run; empty if it is."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order, without those of directives."""
    found, before = [], ""
    lines = iter(page.read_text().splitlines())
    for line in lines:
        if line.startswith("```"):
            fence = line.removeprefix("```").strip()
            text = "".join(f"{inside}\n" for inside in iter(lambda: next(lines), "```"))
            reason = NOT_RUN.fullmatch(before)
            language = "python" if fence.startswith("{code-cell}") else fence
            if not language.startswith("{"):
                found.append(Block(language, text, reason[1] if reason else ""))
        before = line or before
    return found


def typed(text: str) -> list[list[str]]:
    """The command lines of a block, each as words; a line that ends in a backslash goes on in the next."""
    joined = text.replace("\\\n", " ").splitlines()
    return [words for line in joined if (words := shlex.split(line, comments=True))]


def check_options(words: list[str]) -> None:
    """Check that a line that calls rankscope names a command, and options that it has."""
    command: Any = typer.main.get_command(app)
    program, *rest = words
    assert program == "rankscope", words
    while hasattr(command, "commands"):
        name, *rest = rest
        assert name in command.commands, words
        command = command.commands[name]
    options = {flag for parameter in command.params for flag in parameter.opts + parameter.secondary_opts}
    unknown = {word for word in rest if word.startswith("--")} - options
    assert not unknown or command.context_settings.get("allow_extra_args", False), (words, unknown)


def expanded(word: str) -> list[str]:
    """What a shell makes of a word: the paths that match it, or the word itself."""
    return (sorted(map(str, Path().glob(word))) if "*" in word else []) or [word]


def run(block: Block, call: Callable[..., Any], names: dict[str, Any], where: str) -> None:
    """Run a block, or check as much of it as can be checked without. Patterns of a command are expanded as a shell does.

    Args:
        block: the block.
        call: takes the words after ``rankscope``, and returns what has ``code`` and ``err``.
        names: the names that Python blocks of this page have made so far.
        where: the page, for messages.
    """
    text = block.text
    for much, little in SHORT.items():
        text = re.sub(much, rf"\g<1>{little}", text)
    if block.language == "python":
        code = compile(text, where, "exec")
        if not block.not_run:
            exec(code, names)
    if block.language == "sh":
        lines = typed(text)
        for words in lines if not block.not_run else [line for line in lines if line[0] == "rankscope"]:
            check_options(words)
            if not block.not_run:
                done = call(*(path for word in words[1:] for path in expanded(word)))
                assert done.code == 0, (where, words, done.err)
