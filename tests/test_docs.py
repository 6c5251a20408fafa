"""The pages of ``docs/`` that say numbers compute them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_arithmetic_of_costs_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (block,) = blocks("explanation/what-it-costs.md")
    assert block.count("assert") > 10
    exec(block, {})


def test_the_recipe_for_ray_calls_what_there_is() -> None:
    (block,) = blocks("how-to/many-machines.md")
    compile(block, "many-machines.md", "exec")
    assert "rankscope.collect(" in block
