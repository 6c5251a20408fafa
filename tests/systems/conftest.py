"""Systems made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from paper_systems import SYSTEMS, System


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], System]:
    """A system by name, made when it is first asked for."""
    made: dict[str, System] = {}

    def of(name: str) -> System:
        if name not in made:
            made[name] = SYSTEMS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return of
