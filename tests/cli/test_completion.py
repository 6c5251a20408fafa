"""What a shell completes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import torch
import typer

from rankscope.cli import app
from rankscope.store import import_features


def completed(command: str, option: str, incomplete: str, **typed: Any) -> list[str]:
    group: Any = typer.main.get_command(app)
    found = group.commands[command]
    context = click.Context(found)
    context.params |= typed
    parameter = next(p for p in found.params if p.name == option)
    return [item.value for item in parameter.shell_complete(context, incomplete)]


@pytest.mark.parametrize("command", ["measure", "compare", "curve"])
def test_measures_are_completed_after_a_comma_too(command: str) -> None:
    assert "participation-ratio" in completed(command, "measures", "parti")
    assert completed(command, "measures", "cka,pt-peft-po") == ["cka,pt-peft-pooled"]
    assert "erank" in completed(command, "measures", "er")


def test_sites_are_those_of_the_runs_that_were_typed(tmp_path: Path) -> None:
    torch.save({f"decoder.{i}": torch.randn(8, 3) for i in range(3)}, tmp_path / "x.pt")
    import_features(tmp_path / "x.pt", tmp_path / "run.pt")
    assert completed("measure", "sites", "dec", run=tmp_path / "run.pt") == ["decoder.0", "decoder.1", "decoder.2"]
    assert completed("compare", "sites", "decoder.1,decoder.2", runs=[tmp_path / "run.pt"]) == ["decoder.1,decoder.2"]
    assert completed("collect", "sites", "f") == ["final"]
    assert completed("measure", "sites", "dec", run=tmp_path / "absent.pt") == []


def test_a_side_of_a_relation_is_completed_by_site_and_kind(tmp_path: Path) -> None:
    torch.save({"decoder.0": torch.randn(8, 3)}, tmp_path / "x.pt")
    import_features(tmp_path / "x.pt", tmp_path / "run.pt")
    assert completed("between", "source", "dec", runs=[tmp_path / "run.pt"]) == ["decoder.0"]
    assert completed("between", "target", "decoder.0:t") == ["decoder.0:tokens", "decoder.0:text"]


def test_kinds_of_rows_are_completed() -> None:
    assert completed("collect", "rows", "t") == ["tokens", "text"]
