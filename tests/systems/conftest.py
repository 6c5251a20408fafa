"""The command line in this process, and systems made when they are first asked for."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import NamedTuple

import pytest
from paper_systems import SYSTEMS, System

from rankscope import cli


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def rankscope_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def call(*arguments: object) -> Done:
        monkeypatch.setattr("sys.argv", ["rankscope", *map(str, arguments)])
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        with pytest.raises(SystemExit) as ended:
            cli.main()
        for number, handler in before.items():
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return call


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], System]:
    """A system by name, made when it is first asked for."""
    made: dict[str, System] = {}

    def of(name: str) -> System:
        if name not in made:
            made[name] = SYSTEMS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return of
