"""Every study still finds what it imports; most take too long to run here."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ELSEWHERE = {"pretrain_scenes"}
"""What needs packages that neither users nor tests do."""
SCRIPTS = [s for s in sorted((Path(__file__).parents[2] / "analyses").glob("*.py")) if s.stem not in ELSEWHERE]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_is_loaded(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(script.parent)  # as when it is run
    assert runpy.run_path(str(script))["__doc__"]


def test_there_are_studies() -> None:
    assert {"claim", "demo", "position_shift"} <= {script.stem for script in SCRIPTS}
