"""Runs of token rows, made without a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from rankscope.store import Run, import_features


@pytest.fixture
def tokens(tmp_path: Path) -> Callable[..., Run]:
    """A run of token rows: ``(samples, tokens, width)`` as another tool would have stored them."""

    def made(x: Tensor, name: str = "run", site: str = "decoder.1") -> Run:
        np.savez(tmp_path / f"{name}.npz", layer=x.numpy())
        return import_features(tmp_path / f"{name}.npz", tmp_path / f"{name}.pt", sites={"layer": site})

    return made
