"""The record of a tuned checkpoint, ``rankscope.json``, which is written last: a folder with it is whole.

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
import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankscope.checkpoint import STAGES, digest
from rankscope.data.probes import ProbeSet
from rankscope.errors import CheckpointError, UsageError
from rankscope.tuning.answers import Answers
from rankscope.tuning.config import Recipe, Stage
from rankscope.tuning.output import PLAN, WORK, check_free, clear
from rankscope.tuning.stages import numbers_by_kind, save_kinds
from rankscope.tuning.trained import COMPLETE
from rankscope.tuning.trainer import StageTrainer

FORMAT = "rankscope-checkpoint/1"
SEEDS = 2**32
"""Seeds are below this."""


@dataclass(frozen=True)
class Plan:
    """A training before it begins."""

    base: Path
    """The base's folder."""
    recipe: Recipe
    """How the base is tuned."""
    data: ProbeSet
    """What it is tuned on."""
    task: str
    """What it is tuned for."""
    seed: int
    """The seed, from which each stage's own is derived."""
    processor: Any = field(hash=False)
    """The base's tokenizer or processor."""
    answers: Answers | None = None
    """What a classifier that answers questions chooses from."""

    def seed_of_stage(self, place: int) -> int:
        """The seed of a stage's initial weights, order and dropout."""
        return (self.seed * 1000 + place) % SEEDS

    def to_record(self) -> dict[str, Any]:
        """The plan as plain data, as its checkpoint keeps it."""
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
    """The versions of Python and of the packages that a checkpoint depends on."""
    packages = ("rankscope", "torch", "transformers", "peft", "accelerate")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def write_checkpoint(
    model: nn.Module, kinds: Sequence[str], out: Path, plan: Plan, *, work: Path, training: Sequence[dict[str, Any]]
) -> None:
    """Write a tuned checkpoint into a folder; whole, or not at all.

    Args:
        model: the tuned model.
        kinds: what is attached, in order.
        out: the folder; what it holds of an earlier try is replaced.
        plan: the plan of the training.
        work: the run's working folder, on the same disk, in which the checkpoint is made first.
        training: what happened, stage by stage.
    """
    made = work / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    head = plan.task == "classification"
    names = save_kinds(model, kinds, made, base=str(plan.base), head=head, processor=plan.processor)
    stages = [{"folder": name, "kind": kind} for name, kind in zip(names, kinds, strict=True)]
    record = {**plan.to_record(), "stages": stages, "training": list(training)}
    (made / STAGES).write_text(json.dumps(record, indent=2) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    for name in [*sorted(names), STAGES]:  # the record last
        shutil.rmtree(out / name, ignore_errors=True)
        (made / name).rename(out / name)
    shutil.rmtree(made)


def prepare(out: Path, record: dict[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """The working folder of a run, new or continued; it does not exist if the run is finished.

    Args:
        out: the folder of the checkpoint.
        record: the record of the plan.
        resume: whether an unfinished run is continued.
        overwrite: whether an earlier checkpoint is replaced.

    Raises:
        OutputExists: as :func:`~rankscope.tuning.output.check_free`.
        UsageError: if the run there has another plan; the message names the first difference.
        CheckpointError: if its base has changed since.
    """
    work = out / WORK
    check_free(out, resume=resume, overwrite=overwrite)
    if overwrite and not resume and out.exists():
        clear(out)
    for earlier in (out / STAGES, work / PLAN):
        if earlier.is_file():
            _check_same(json.loads(earlier.read_text()), record, out)
            break
    if (out / STAGES).is_file():  # written last: the checkpoint is whole, whatever a kill left of the working folder
        shutil.rmtree(work, ignore_errors=True)
        return work
    work.mkdir(parents=True, exist_ok=True)
    (work / f"{PLAN}.part").write_text(json.dumps(record, indent=2))
    (work / f"{PLAN}.part").replace(work / PLAN)
    return work


def has_kept(out: Path) -> bool:
    """Whether a run that ended early has kept a state or a stage from which it continues."""
    work = out / WORK
    return any(work.glob(f"stage-*/checkpoint-*/{COMPLETE}")) or any(work.glob("stage-*/stage.json"))


def remove_unstarted(out: Path) -> None:
    """Remove the working folder of a run that ended before it kept anything to continue from; a checkpoint stays."""
    work = out / WORK
    if not has_kept(out):
        shutil.rmtree(work, ignore_errors=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    now = json.loads(json.dumps(now))  # tuples are lists in a file
    if before.get("base_digest") != now["base_digest"]:
        raise CheckpointError(
            f"{out} was begun on {before.get('base')} with digest {str(before.get('base_digest'))[:12]}…; {now['base']} has "
            f"{now['base_digest'][:12]}…: it is another base, or was changed since"
        )
    for name in ("recipe", "task", "seed", "data"):
        if before.get(name) != now[name]:
            difference = _first_difference(name, before.get(name), now[name])
            raise UsageError(f"{out} was begun with {difference}; give the same again, or overwrite")


def _first_difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(k for k in now if before.get(k) != now[k])
        return _first_difference(f"{name}.{key}", before.get(key), now[key])
    return f"{name} {before!r}, not {now!r}"


def stage_record(stage: Stage, trainer: StageTrainer, seconds: float) -> dict[str, Any]:
    """What happened in a stage, as plain data; the last loss is the mean over the last tenth of those logged."""
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = logged[-max(1, len(logged) // 10) :]
    # Steps since this process began, as its seconds are: a resumed run has fewer than global_step.
    steps = len(trainer.losses) / stage.accumulation
    return {
        "name": stage.name,
        "objective": stage.objective,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "first_loss": logged[0],
        "last_loss": sum(tail) / len(tail),
        "losses": logged,
        "trained": numbers_by_kind(trainer.trained),
        "seconds": seconds,
        "seconds_per_step": seconds / steps if steps else None,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """The most memory taken so far, of the GPU if there is one, otherwise of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
