"""How a command ends whose output cannot be delivered."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rankscope
from rankscope import cli
from rankscope.cli import streams

Stream = Callable[[], io.TextIOWrapper]


def gone() -> io.TextIOWrapper:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def full() -> io.TextIOWrapper:
    """A disk without room."""
    return Path("/dev/full").open("w")


@contextmanager
def as_a_program(arguments: list[str], **given: io.TextIOWrapper) -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["rankscope", *arguments])
        for name, stream in given.items():
            patch.setattr(sys, name, stream)
        yield
    for number, handler in before.items():
        signal.signal(number, handler)
    for stream in given.values():
        stream.close()  # what is left in it must go nowhere, without an error


def ended(arguments: list[str], **given: io.TextIOWrapper) -> int:
    with as_a_program(arguments, **given), pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


PRINTING = (
    ["definitions"],
    ["definitions", "--json"],
    ["--help"],
    ["collect", "--help"],
    ["--version"],
    ["train", "--list-options"],
)


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_result_that_nobody_takes_ends_with_its_own_code(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(arguments, stdout=gone()) == streams.BROKEN_PIPE
    assert capsys.readouterr().err == ""
    assert ended(arguments, stdout=full()) == 8
    assert "cannot write the result: No space left" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_ends_with_8(
    rankscope_: Callable[..., Any], folder: Callable[..., Path], tmp_path: Path
) -> None:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    run = rankscope.collect(nn.Sequential(nn.Identity()), x, out=tmp_path / "run.pt").path
    (tmp_path / "file").write_text("mine")
    inside = tmp_path / "file" / "x"  # where no folder can be
    commands = (
        ("measure", run, "--groups", "4", "--plot", inside),
        ("compare", run, run, "--groups", "4", "-m", "roy-vetterli", "--plot", inside),
        ("weights", folder("gpt2", "lora"), "--draws", "0", "--spectra", inside),
        ("export", run, "--out", inside),
        ("import", run, "--out", inside),
    )
    for command in commands:
        done = rankscope_(*command)
        assert (done.code, f"cannot write {inside}" in done.err) == (8, True), done.err


def test_a_finished_collect_ends_well_though_nobody_reads(
    folder: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    command = ["collect", str(folder("gpt2")), "--data", str(texts), "--layers", "final", "--n", "4"]
    assert ended([*command, "--out", str(tmp_path / "a.pt")], stdout=gone(), stderr=gone()) == 0
    assert ended([*command, "--out", str(tmp_path / "b.pt")], stdout=full()) == 8
    for name in ("a.pt", "b.pt"):
        assert ended(["verify", str(tmp_path / name)]) == 0
    assert ended(["export", str(tmp_path / "a.pt"), "--out", str(tmp_path / "exp")], stdout=gone()) == 0
    assert ended(["verify", str(tmp_path / "absent.pt")], stderr=gone()) == 4
