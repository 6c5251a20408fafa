"""What ``analyses/README.md`` says was found is what the scripts wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import stdev
from typing import Any

ROOT = Path(__file__).parents[2]
README = (ROOT / "analyses" / "README.md").read_text()
OF_QUESTION = {
    1: "claim", 2: "order", 3: "prefix_length", 4: "generalisation", 5: "transfer", 6: "what_a_prefix_is", 7: "what_changed",
    8: "third_modality", 9: "scst", 11: "weights_and_features", 12: "between_modalities",
}  # fmt: skip
"""The script that answers a question, by its number in the table; the tenth has no full run yet."""


def figure(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "figures" / f"{name}.json").read_text())
    return found


def verdicts(name: str) -> list[str]:
    """The verdicts of a script in their order; where a claim is told in several ways, the first."""
    found = figure(name)
    several = found["verdicts"].values() if "verdicts" in found else [found["verdict"]]
    return [_first(one).removesuffix(" in miniature") for one in several]


def _first(told: Any) -> str:
    """A verdict as it is, with its numbers, or in several ways."""
    if isinstance(told, str):
        return told
    return str(told["verdict"]) if "verdict" in told else _first(next(iter(told.values())))


def test_every_verdict_is_the_scripts_own() -> None:
    told: dict[int, list[str]] = {}
    for number, verdict in re.findall(r"^\| [^|]*\((\d+)\) \| \*+([^*|]+)\*+ \|", README, re.MULTILINE):
        told.setdefault(int(number), []).append(verdict)
    assert told == {number: verdicts(name) for number, name in OF_QUESTION.items()}
    assert sum(map(len, told.values())) == 36


def test_a_script_that_has_not_run_is_said_not_to() -> None:
    assert "`real_weights.py` has rules and no full run yet" in README
    assert not (ROOT / "figures" / "real_weights.json").exists()


def test_numbers_of_trainings_and_spreads() -> None:
    assert f"over {sum(figure('generalisation')['size']['runs'].values())} trainings in four regimes" in README
    assert f"over {sum(figure('weights_and_features')['size']['runs'].values())} trainings" in README
    claim = figure("claim")["runs"]
    ratios = [
        stdev(run["scores"]["test"] for run in runs[f"pt-{kind}"]) / stdev(run["scores"]["test"] for run in runs[kind])
        for runs in claim.values()
        for kind in ("full", "lora", "adapter")
    ]
    assert len(ratios) == 12
    larger = [ratio for ratio in ratios if ratio > 1]
    assert len(larger) == 11
    assert f"smaller in one of twelve pairs, and {min(larger):.1f} to {max(larger):.1f} times" in README
