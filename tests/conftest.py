"""What every test shares: the device (``pytest --device cuda`` runs the same tests there), no network, no display."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["OMP_NUM_THREADS"] = "1"  # here and in the processes that tests start: sums are equal only at equal threads

import pytest
import torch

import rankscope
from rankscope import cli

WORDS = ("three", "seven", "digits", "left", "of", "a", "photo", "is", "and", "nothing", "two", "how", "many")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="the torch device on which tensors are made")
    parser.addoption(
        "--whole", action="store_true", help="run the whole sweeps, of which a quick sample runs otherwise"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--whole"):
        whole = [item for item in items if item.get_closest_marker("whole")]
        config.hook.pytest_deselected(items=whole)
        items[:] = [item for item in items if item not in set(whole)]


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def rankscope_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line, called in this process: arguments in; exit code, stdout and stderr out."""

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
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny checkpoint, ``folder(family, tuning)``, written by plain transformers and PEFT when first asked for."""
    import tiny

    root = tmp_path_factory.mktemp("tiny")

    def made(family: str, tuning: str = "none") -> Path:
        base, tuned = root / family, root / f"{family}-{tuning}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not base.exists():
                tiny.save_base(family, base)
            if tuning == "none":
                return base
            if not tuned.exists():
                tiny.save_tuned(family, tuning, base, tuned)
        return tuned

    return made


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight short texts of different lengths, as JSON lines."""
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    lines = [
        {"id": f"s{i}", "text": " ".join(WORDS[(i * 7 + k * (k + i)) % len(WORDS)] for k in range(3 + i % 9))}
        for i in range(48)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def runs(
    folder: Callable[..., Path], texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, rankscope.Run]:
    """The tiny GPT-2 plain, with LoRA and with a prefix, read on the same tokens."""
    where = tmp_path_factory.mktemp("runs")
    return {
        tuning: rankscope.collect(folder("gpt2", tuning), texts, rows="tokens", out=where / f"{tuning}.pt")
        for tuning in ("none", "lora", "prefix")
    }


@pytest.fixture(scope="session")
def analysis() -> Iterator[Callable[[str], ModuleType]]:
    """A script in ``analyses/`` by its name, imported from its own folder, as the scripts import each other."""
    scripts = str(Path(__file__).resolve().parent.parent / "analyses")
    sys.path.insert(0, scripts)
    yield importlib.import_module
    sys.path.remove(scripts)
