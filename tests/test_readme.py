"""The README keeps its promises: its Python runs, its commands exist, its files are there."""

from __future__ import annotations

import re
from pathlib import Path

import documents
import pytest
import torch

from rankscope.measures.hill import hill

README = Path(__file__).resolve().parent.parent / "README.md"
TEXT = README.read_text()


def blocks(language: str) -> list[str]:
    return [block.text for block in documents.blocks(README) if block.language == language]


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert len(found) == 1
    exec(compile(found[0], "README.md", "exec"), {})


def test_every_command_of_the_readme_exists_with_its_options() -> None:
    lines = [words for block in blocks("sh") for words in documents.typed(block) if words[0] == "rankscope"]
    assert len(lines) >= 9
    for words in lines:
        documents.check_options(words)


def test_the_files_that_the_readme_names_are_there() -> None:
    for name in re.findall(r"\]\((?!http)([^)]+)\)", TEXT) + re.findall(r"^- `([^`]+)` —", TEXT, flags=re.MULTILINE):
        assert (README.parent / name).exists(), name


def test_the_two_commands_are_those_of_dev() -> None:
    assert "python3 dev.py demo" in TEXT
    assert "python3 dev.py test" in (README.parent / ".ci" / "run").read_text()


def test_the_ranks_of_the_readme_are_those_of_the_population() -> None:
    """Variances 1/i of 256 directions, and the same with score i multiplied by i^-0.75, as the self-test plants them."""
    index = torch.arange(1, 257, dtype=torch.float64)
    before, after = (float(hill(index**power, 1, base="lambda")) for power in (-0.5, -1.25))
    assert f"from {before:.1f} to {after:.1f}" in TEXT
