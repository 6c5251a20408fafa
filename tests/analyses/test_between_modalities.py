"""Between modalities: the verdicts follow the rules, and of a relation with a direction the image is what is read."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("between_modalities")


def told(script: ModuleType, carried: float, share: float) -> dict[str, Any]:
    """Three seeds that changed by about so much."""

    def run(more: float) -> dict[str, Any]:
        numbers = {script.CARRIED: carried + more, script.GAP: share + more}
        return {what: {script.LAST: {"base": 0.5, "tuned": 0.5 + change}} for what, change in numbers.items()}

    return {method: [run(more) for more in (-0.001, 0.0, 0.001)] for method in ("lora", "pt-lora")}


@pytest.mark.parametrize(
    ("carried", "share", "expected"),
    [
        (0.1, -0.1, "supported in miniature"),
        (-0.1, 0.1, "contradicted"),
        (0.0, 0.0, "not decided"),
    ],
)
def test_verdicts_follow_the_rules(script: ModuleType, carried: float, share: float, expected: str) -> None:
    found = script.verdicts(told(script, carried, share))
    assert found["tuning carries more of the image into the text"]["verdict"] == expected
    assert found["the gap narrows"]["verdict"] == expected
    assert found["prefixes carry as much"]["verdict"] == "not decided"  # both carry the same


def test_the_image_is_read_from_the_text(script: ModuleType) -> None:
    one = {"site": "decoder.0", "noise": 0.0, "itself": 1.0, "run": "base"}
    records = [
        one | {"a": "vision.final:image", "b": "decoder.0:text", "value": 0.25},
        one | {"a": "decoder.0:text", "b": "vision.final:image", "value": 0.75},
    ]
    assert script.along(records)["decoder.0"]["base"] == 0.25
