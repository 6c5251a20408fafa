"""An arm is several trainings of one recipe: no checkpoint twice, and nothing but the seed between its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from rankscope.checkpoint import Checkpoint
from rankscope.errors import RankscopeError, UsageError
from rankscope.store import Run


def require_trainings_of_one_recipe(arms: Mapping[str, Sequence[Run]]) -> None:
    """Refuse arms that count one checkpoint twice, or call different recipes one.

    Raises:
        UsageError: naming the runs, and what differs.
    """
    named = [(arm, run) for arm, runs in arms.items() for run in runs]
    for (arm, one), (other_arm, other) in combinations(named, 2):
        if _same_bytes(one, other):
            arm = arm if arm == other_arm else f"{arm} and {other_arm}"
            raise UsageError(
                f"{one.path} and {other.path}, in {arm}, are one checkpoint: counted twice it would pass for two trainings "
                "that agree; leave one out"
            )
        different = next(_differences(one, other), "") if arm == other_arm else ""
        if different:
            raise UsageError(
                f"the runs of {arm} are not of one recipe: {different}; an arm is one recipe with several seeds, so make "
                "two arms of them"
            )


def _same_bytes(one: Run, other: Run) -> bool:
    """Whether two runs are of the same weights, and say so at their last site."""
    mine, theirs = (run.manifest.checkpoint.get("digest") for run in (one, other))
    if mine != theirs or one.sites != other.sites or one.rows.ids != other.rows.ids:
        return False
    if one.n(one.sites[-1]) != other.n(other.sites[-1]):
        return False
    return all(map(torch.equal, *(run.stretches(run.sites[-1]) for run in (one, other))))


def _differences(one: Run, other: Run) -> Iterator[str]:
    """What differs between two recipes, in words."""
    mine, theirs = _recipe(one), _recipe(other)
    for key in sorted(mine.keys() & theirs.keys()):
        if mine[key] != theirs[key]:
            yield f"{key} is {mine[key]} in {one.name} and {theirs[key]} in {other.name}"


def _recipe(run: Run) -> dict[str, Any]:
    """What is known of how a checkpoint was made, apart from its seed."""
    made = run.manifest.checkpoint
    known: dict[str, Any] = {"the tuning": made["tunings"]} if made.get("tunings") else {}
    path = made.get("path")
    try:
        record = Checkpoint.read(Path(path)).record if isinstance(path, str) and "form" not in made else {}
    except RankscopeError:  # the checkpoint is elsewhere by now: what the run says of it is all there is
        record = {}
    known |= {f"the recipe's {key}": value for key, value in record.get("recipe", {}).items()}
    known |= {f"the {key}": record[key] for key in ("task", "base_digest") if key in record}
    if "fingerprint" in record.get("data", {}):
        known["the data"] = record["data"]["fingerprint"]
    return known
