"""What the tests of the store share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_tools import PLAN, collect, contents, manifest

from rankscope.store import Writer, pack


@pytest.fixture(autouse=True, scope="package")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """A killed process loses nothing that it has written, fsync or not; what a power loss takes is modelled instead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run in all three forms, ``run``, ``run.pt``, ``run.safetensors``, and another run ``other``."""
    root = tmp_path_factory.mktemp("runs")
    collect(root / "run")
    pack(root / "run", root / "run.pt")
    pack(root / "run", root / "run.safetensors")
    with Writer.open(root / "other", manifest(checkpoint={"digest": "other"}), PLAN) as writer:
        for batch in writer.todo:
            writer.write(batch.id, *contents(batch, seed=1))
        writer.finish()
    return root
