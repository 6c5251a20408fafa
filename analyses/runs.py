"""Trainings of a study: each made once, in a process of its own, and then found in its folder.

A *study* is a base, its data and what is asked of every training; a *setting* is one training. ``outcomes`` makes those that are
missing, two at a time, and returns what came of each, in order. What stopped half way goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.progress import track
from torch import nn
from transformers import TrainerCallback

import rankscope
from rankscope.checkpoint import Checkpoint
from rankscope.data import ProbeSet
from rankscope.tuning.config import Recipe
from rankscope.tuning.held_out import HeldOut
from rankscope.tuning.planning import attach_stage, make_plan
from rankscope.tuning.recipes import recipe
from rankscope.writing import write_output

T = TypeVar("T")
R = TypeVar("R")
Options = tuple[tuple[str, Any], ...]
"""Options of a recipe by name, in the order of their names."""
RANKS = ("participation-ratio-clustered", "roy-vetterli")
RELATIONS = ("recoverability", "overlap", "drift")
SAID = 40
"""The most tokens that a model may say: no training said more than 24, and with a prefix of 64 rows 48 do not fit its positions."""
FEW = 6
"""As many trainings as are not worth the start of a process each."""
LOOKS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
"""The shares of a training after which the model is looked at: first untrained, with what the first stage attaches."""


@dataclass(frozen=True)
class Study:
    """What all trainings of a study share."""

    base: Path
    """The checkpoint that is tuned."""
    data: Callable[[str, int], ProbeSet]
    """From the name of a set of data and a number n to its first n examples. There are ``train``, ``validation``, ``test``."""
    site: str
    """The site that is looked at while a model trains."""
    losses: tuple[str, ...]
    """The data of held-out losses, besides validation and test."""
    before: str
    """The one of them that pre-training was good at."""
    scored: tuple[str, ...] = ("test",)
    """The data on which the model is scored."""
    score: tuple[str, str] = ("captions", "CIDEr-D")
    """What it generates, as :func:`rankscope.score` calls it, and how that is scored."""
    task: str | None = None
    """What is trained for; by default chosen by model and data."""
    samples: int = 200
    """Samples of every held-out set."""
    groups: int = 20
    """Groups of samples in the intervals."""
    watched: int = 100
    """Samples that the model is looked at on while it trains."""


@dataclass(frozen=True)
class Setting:
    """One training."""

    method: str
    """One of the methods of :func:`rankscope.train`, stages written out, or ``base``: no training."""
    training: int
    """Number of training examples."""
    steps: int
    """Optimiser steps of all stages together."""
    seed: int = 0
    options: Options = ()
    """Whatever else the recipe differs in from its defaults."""
    searched: bool = False
    """Whether only its validation loss is wanted."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]
        return f"{self.method.replace(',', '-')}-n{self.training}-s{self.seed}-{digest}"


class Looks(TrainerCallback):
    """Looks at the model at some steps of a training, which is not disturbed."""

    def __init__(self, see: Callable[[nn.Module], dict[str, float]], steps: int) -> None:
        self.see, self.at = see, {round(share * steps) for share in LOOKS}
        self.found: list[dict[str, float]] = []
        self.before, self.step = 0, 0
        """The steps of earlier stages, and those of this one."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """A stage begins, and counts its steps from nothing."""
        self.before, self.step = self.before + self.step, 0
        if not self.before:
            self._look(given["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by the Trainer."""
        self.step = state.global_step
        if self.before + self.step in self.at:
            self._look(given["model"])

    def _look(self, model: nn.Module) -> None:
        modes = {module: module.training for module in model.modules()}
        with torch.random.fork_rng(devices=()):  # the training goes on as if nobody had looked
            self.found.append({"step": self.before + self.step, **self.see(model.eval())})
        for module, mode in modes.items():
            module.training = mode


def look(study: Study, home: Path, model: nn.Module | Path) -> dict[str, float]:
    """Held-out losses, and the ranks and relations of the study's site on validation data, of a model as it is now."""
    base, seen = watched_base(study, home), study.data("validation", study.watched)
    loaded = rankscope.load_model(model) if isinstance(model, Path) else model
    losses = {name: held_out(study, name, study.watched).loss(loaded) for name in ("validation", study.before)}
    with tempfile.TemporaryDirectory() as here:
        out = Path(here) / "now.safetensors"
        now = rankscope.collect(loaded, seen, processor=study.base, sites=study.site, rows="tokens", out=out)
        found = rankscope.compare(base, now, measures=[*RANKS, *RELATIONS], groups=study.groups)
        values = {r["measure"]: r["b" if r["measure"] in RANKS else "value"] for r in found.to_records()}
    return losses | values


@cache
def watched_base(study: Study, home: Path) -> rankscope.Run:
    """The base on what is looked at."""
    seen, out = study.data("validation", study.watched), home / f"watched-{study.watched}.safetensors"
    return rankscope.collect(study.base, seen, sites=study.site, rows="tokens", out=out, reuse=True)


@cache
def held_out(study: Study, name: str, n: int) -> HeldOut:
    """The first samples of a set of data, read once in each process: every tuning reads what its base reads."""
    base, model = Checkpoint.read(study.base), rankscope.load_model(study.base)
    return HeldOut.read(base, study.data(name, n), task=study.task, batch_size=50, model=model).kept()


def outcome(study: Study, home: Path, setting: Setting) -> dict[str, Any]:
    """What came of one training: made if it is not there, and kept in its folder with the features of its run."""
    out = home / setting.name
    kept, checkpoint = out / "outcome.json", out / "checkpoint"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    shutil.rmtree(out, ignore_errors=True)  # a training takes a minute or two: one that was stopped begins again
    found: dict[str, Any] = {"setting": asdict(setting)}
    if setting.method == "base":
        checkpoint, found["looks"] = study.base, [{"step": 0, **look(study, home, study.base)}]
    else:
        looks = Looks(partial(look, study, home), setting.steps)
        train(study, setting, checkpoint, [] if setting.searched else [looks])
        found["looks"] = looks.found
    names = ("validation",) if setting.searched else ("validation", "test", *study.losses)
    model = rankscope.load_model(checkpoint)
    found["losses"] = {name: held_out(study, name, study.samples).loss(model) for name in names}
    if not setting.searched:
        probes = study.data("test", study.samples)
        rankscope.collect(checkpoint, probes, rows="tokens", out=out / "run.safetensors", name=setting.name)
        found["scores"] = {
            name: score(checkpoint, study.data(name, study.samples), out / f"{name}.jsonl", study.score)
            for name in study.scored
        }
    else:
        shutil.rmtree(checkpoint)
    write_output(kept, json.dumps(found, indent=1).encode())
    return found


def train(study: Study, setting: Setting, out: Path, callbacks: Sequence[TrainerCallback]) -> None:
    """One training: the steps are shared by its stages as equally as they can be, unless an option says otherwise."""
    options = {"steps": shares(setting.steps, len(recipe_of(setting).stages))} | dict(setting.options)
    rankscope.train(
        study.base,
        method=setting.method,
        data=study.data("train", setting.training),
        out=out,
        seed=setting.seed,
        task=study.task,
        callbacks=callbacks,
        **options,
    )


def shares(steps: int, stages: int) -> tuple[int, ...]:
    """Steps shared by stages as equally as they can be."""
    return tuple(steps * (i + 1) // stages - steps * i // stages for i in range(stages))


def recipe_of(setting: Setting) -> Recipe:
    """What is attached and trained, stage by stage."""
    return recipe(setting.method, options={k: v for k, v in setting.options if v is not None})


def begun(study: Study, setting: Setting) -> nn.Module:
    """The model as a training begins with it: with what the first stage attaches, untrained."""
    data = study.data("train", setting.training)
    model, plan = make_plan(study.base, recipe_of(setting), data, task=study.task, seed=setting.seed)
    attach_stage(model, plan, 0)
    return model.eval()


def score(checkpoint: Path, probes: ProbeSet, out: Path, how: tuple[str, str]) -> float:
    """How good what the model says is: of which kind that is, and its score."""
    kind, metric = how
    said = rankscope.generate(checkpoint, probes, out=out, overwrite=True, max_new_tokens=SAID)
    metrics = [metric] if kind == "captions" else None  # those of answers are not chosen
    return float(rankscope.score({p.id: p.text for p in said}, probes, kind=kind, metrics=metrics)[metric])


def outcomes(study: Study, home: Path, settings: Sequence[Setting], what: str) -> list[dict[str, Any]]:
    """What came of each setting, in order; missing ones are made by as many processes as there are cores."""
    home.mkdir(parents=True, exist_ok=True)
    missing = [s for s in dict.fromkeys(settings) if not (home / s.name / "outcome.json").exists()]
    if missing:
        watched_base(study, home)  # before several processes ask for it
        in_processes(partial(outcome, study, home), missing, what)
    return [outcome(study, home, setting) for setting in settings]


def in_processes(function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
    """What a function returns for each item, by as many processes as there are cores, with one thread each; a few are made here."""
    bar = partial(track, description=what, total=len(items), disable=not sys.stderr.isatty())
    context, one = multiprocessing.get_context("spawn"), partial(torch.set_num_threads, 1)
    if len(items) <= FEW:
        one()
        return [function(item) for item in bar(items)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=one) as pool:
        return list(bar(pool.map(function, items)))


def by_name(
    study: Study, home: Path, settings: Mapping[str, Setting], seeds: Sequence[int], what: str
) -> dict[str, list[dict[str, Any]]]:
    """What came of each setting with each seed, by the setting's name."""
    asked = [replace(setting, seed=seed) for seed in seeds for setting in settings.values()]
    made = dict(zip(asked, outcomes(study, home, asked, what), strict=True))
    return {name: [made[replace(setting, seed=seed)] for seed in seeds] for name, setting in settings.items()}


def end(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a training at its end: those of its last look, its losses on whole sets, and ``score``, that on test."""
    return {**found["looks"][-1], **found["losses"], "score": found["scores"]["test"]}
