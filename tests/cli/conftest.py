"""Where the tests of the command line type their commands, and a small data set there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which commands are typed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def few_texts(here: Path) -> Path:
    """Twenty-four short texts in that folder, as JSON lines."""
    words = ("three", "seven", "digits", "left", "of")
    lines = [{"id": f"s{i}", "text": " ".join(words[(i // 5**k) % 5] for k in range(2 + i % 3))} for i in range(24)]
    (here / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return here / "texts.jsonl"
