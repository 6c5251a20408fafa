"""What every test shares: the device (``pytest --device cuda`` runs the same tests there), no network, no display."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["OMP_NUM_THREADS"] = "1"  # here and in the processes that tests start: sums are equal only at equal threads

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="the torch device on which tensors are made")


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
