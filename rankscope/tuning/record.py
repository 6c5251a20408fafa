"""What a tuned checkpoint says of itself: ``rankscope.json``, written last, so that a folder with it is whole.

===================== ================================================================================================
``format``            ``rankscope-checkpoint/1``
``base``              the base's folder; ``base_digest``: the sha256 of its files when it was tuned
``stages``            the folders in order, each with its kind: plain PEFT folders, or a plain model folder (``full``)
``recipe``            the resolved recipe, everything spelled out; ``method``: what was asked for
``task``, ``data``    what it was tuned for and on: name, fingerprint, number of samples
``answers``           what a classifier chooses from, by label, where it answers questions
``seed``              the seed; ``versions``: of what it was made with
``training``          for each stage: steps, epochs, first and last loss, trained numbers by kind, seconds, peak memory
===================== ================================================================================================
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from rankscope.checkpoint import STAGES, digest
from rankscope.data.probes import ProbeSet
from rankscope.errors import CheckpointError, OutputExists, UsageError
from rankscope.tuning.answers import Answers
from rankscope.tuning.config import Recipe
from rankscope.tuning.stages import save_kinds

FORMAT = "rankscope-checkpoint/1"
WORK, PLAN = ".training", "plan.json"
"""The folder in the output in which an unfinished run keeps its states, and the file in it that says what it is."""


@dataclass(frozen=True)
class Plan:
    """What is to be made of what."""

    base: Path
    """The base's folder."""
    recipe: Recipe
    """How."""
    data: ProbeSet
    """On what."""
    task: str
    """For what."""
    seed: int
    """With which seed."""
    processor: Any = field(hash=False)
    """The base's tokenizer or processor."""
    answers: Answers | None = None
    """What a classifier chooses from, where it answers questions."""

    def told(self) -> dict[str, Any]:
        """What a checkpoint of this plan says of it."""
        return {
            "format": FORMAT,
            "base": str(self.base),
            "base_digest": digest(self.base),
            "method": self.recipe.method,
            "recipe": self.recipe.to_dict(),
            "task": self.task,
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint, "samples": len(self.data)},
            "seed": self.seed,
            "versions": versions(),
            **({"answers": list(self.answers.texts)} if self.answers is not None else {}),
        }


def versions() -> dict[str, str]:
    """The versions of what matters for a checkpoint."""
    packages = ("rankscope", "torch", "transformers", "peft", "accelerate")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def write_checkpoint(
    model: nn.Module, kinds: Sequence[str], out: Path, plan: Plan, *, training: Sequence[dict[str, Any]]
) -> Path:
    """Write a tuned checkpoint into a folder; whole, or not at all.

    Args:
        model: the tuned model.
        kinds: what is attached, in order.
        out: the folder; what it holds of an earlier try is replaced.
        plan: what it was made of.
        training: what happened, stage by stage.
    """
    made = out / WORK / "made" if (out / WORK).is_dir() else out.with_name(f"{out.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    head = plan.task == "classification"
    names = save_kinds(
        model, kinds, made, plan.recipe, base=str(plan.base), head=head, processor=plan.processor
    )  # fmt: skip
    stages = [{"folder": name, "kind": kind} for name, kind in zip(names, kinds, strict=True)]
    record = {**plan.told(), "stages": stages, "training": list(training)}
    (made / STAGES).write_text(json.dumps(record, indent=2) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for part in [*sorted(made / name for name in names), made / STAGES]:
        shutil.rmtree(out / part.name, ignore_errors=True)
        part.rename(out / part.name)
    shutil.rmtree(made)
    return out


def prepare(out: Path, told: dict[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """The working folder of a run, new or continued.

    Raises:
        OutputExists: if something is there and neither ``resume`` nor ``overwrite`` was asked for.
        UsageError: if the unfinished run there is another one; the message names the first difference.
        CheckpointError: if its base has changed since.
    """
    work = out / WORK
    if overwrite and not resume:
        _clear(out)
    elif out.exists() and any(out.iterdir()) and not resume:
        state = "an unfinished run: continue it with resume (--resume)" if work.exists() else "there already"
        raise OutputExists(
            f"{out} is {state}; it is kept unless overwriting is asked for (overwrite=True, --overwrite)"
        )
    if (work / PLAN).is_file():
        _same(json.loads((work / PLAN).read_text()), told, out)
    elif resume and (out / STAGES).is_file():
        _same(json.loads((out / STAGES).read_text()), told, out)
        return work
    work.mkdir(parents=True, exist_ok=True)
    (work / f"{PLAN}.part").write_text(json.dumps(told, indent=2))
    (work / f"{PLAN}.part").replace(work / PLAN)
    return work


def _clear(out: Path) -> None:
    """Remove an earlier checkpoint or run, and nothing that is not one."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / STAGES).is_file() and not (out / WORK).is_dir():
        raise OutputExists(
            f"{out} holds something that is no checkpoint of rankscope; it is not overwritten, choose another folder"
        )
    shutil.rmtree(out)


def _same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    now = json.loads(json.dumps(now))
    if before.get("base_digest") != now["base_digest"]:
        raise CheckpointError(
            f"{out} was begun on {before.get('base')} with digest {str(before.get('base_digest'))[:12]}…; {now['base']} has "
            f"{now['base_digest'][:12]}…: it is another base, or was changed since"
        )
    for name in ("recipe", "task", "seed", "data"):
        if before.get(name) != now[name]:
            raise UsageError(
                f"{out} was begun with {_difference(name, before.get(name), now[name])}; give the same again, or overwrite"
            )


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(k for k in now if before.get(k) != now[k])
        return _difference(f"{name}.{key}", before.get(key), now[key])
    return f"{name} {before!r}, not {now!r}"
