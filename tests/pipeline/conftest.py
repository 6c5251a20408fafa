"""Texts to read, and runs of the same rows under three tunings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import rankscope

WORDS = ("three", "seven", "digits", "left", "of", "a", "photo", "is", "and", "nothing", "two", "how", "many")


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
