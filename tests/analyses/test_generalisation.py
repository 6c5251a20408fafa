"""Generalisation: a planted predictor is found, noise is not, and the verdict follows the rule."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("generalisation")


def runs(script: ModuleType, seed: int) -> list[dict[str, Any]]:
    """Forty settings of three seeds: the participation ratio says how far each loss rises, the rest says nothing."""
    random = np.random.default_rng(seed)
    made = []
    for setting in range(40):
        rank = random.normal()
        for s in range(3):
            here = rank + 0.1 * random.normal()
            look = {name: random.normal() for name in script.PREDICTORS} | {script.PRINCIPAL: here}
            losses = {"test": 0.5, script.SEEN: 0.5 + here} | dict.fromkeys(script.NEW, 0.5 - here)
            made.append({"setting": {"method": f"m{setting}", "seed": s}, "looks": [look], "losses": losses})
    return made


def test_what_predicts_is_told_from_what_does_not(script: ModuleType) -> None:
    tables = [script.table(runs(script, 0)), script.table(runs(script, 1))]
    told = script.correlations(tables, script.PREDICTORS, script.DROPS, 100, against="validation")
    for drop in script.DROPS:
        assert told[drop][script.PRINCIPAL]["predicts"]
        assert told[drop][script.PRINCIPAL]["beats"]
        assert told[drop][script.PRINCIPAL]["rho"]["value"] < -0.9
        assert not any(told[drop][name]["predicts"] for name in script.PREDICTORS if name != script.PRINCIPAL)


def test_rank_protects_only_if_all_say_so(script: ModuleType) -> None:
    def told(rho: float) -> dict[str, dict[str, Any]]:
        one = {"rho": {"value": rho, "low": rho - 0.2, "high": rho + 0.2}}
        return {drop: dict.fromkeys(script.PROTECTING, one) for drop in script.DROPS}

    assert script.verdict(told(-0.6)) == "supported in miniature"
    assert script.verdict(told(0.6)) == "contradicted"
    assert script.verdict(told(0.1)) == "not decided"
