"""The tiny checkpoints, each written once a session by plain transformers and PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The folder of a family tuned in some way; made when it is first asked for."""
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
