"""The scripts in ``analyses/``, imported as they import each other: by their names, from their own folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "analyses"


@pytest.fixture(scope="session")
def analysis() -> Iterator[Callable[[str], ModuleType]]:
    """A script by its name."""
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module
    sys.path.remove(str(SCRIPTS))
