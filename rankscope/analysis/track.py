"""A training followed: any measure, the drift and the loss of its checkpoints against the training step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rankscope.analysis.compare import compare
from rankscope.analysis.options import GROUPS, LEVEL
from rankscope.analysis.replicates import Method
from rankscope.checkpoint import Checkpoint, digest
from rankscope.checkpoint.files import read_json
from rankscope.collecting.collect import collect
from rankscope.errors import CheckpointError, UsageError, public
from rankscope.inference.jackknife import require_level
from rankscope.names import file_name
from rankscope.progress import Progress, silent
from rankscope.registry import Measure
from rankscope.results.record import Estimate
from rankscope.results.runs import Contrast, PairRecord
from rankscope.results.track import StepRecord, Track
from rankscope.sites import Site
from rankscope.store import Run

STATE = "trainer_state.json"
"""The file in which transformers' Trainer keeps the step and what it logged."""
RELATIONS = ("overlap", "variance-captured", "recoverability", "drift")
"""What a training is followed in by default, besides the participation ratio."""
_NUMBERED = re.compile(r"(?:.*\D)?(\d+)")


class Stop(NamedTuple):
    """One checkpoint of a training."""

    step: int
    """The training step."""
    path: Path
    """Its folder."""
    weights: str
    """The digest of its weights."""
    loss: float | None
    """The training loss that was last logged."""
    eval_loss: float | None
    """The held-out loss that was last logged."""


@public
def track(
    checkpoints: str | Path | Sequence[str | Path],
    data: Any = None,
    *,
    out: str | Path = "track",
    base: str | Path | None = None,
    measures: Sequence[Measure] | None = None,
    sites: str | Sequence[str | Site] = "all",
    rows: str = "last",
    n: int | None = None,
    groups: int = GROUPS,
    interval: Method = "influence",
    level: float = LEVEL,
    variant: str = "raw",
    allow_duplicates: bool = False,
    base_model: str | Path | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> Track:
    """Checkpoints of one training, each compared with the base on the same rows.

    Each is collected once into ``out``, where the next call finds it. Intervals and bands share their error among the steps
    (Bonferroni), so that they hold at all of them together.

    Args:
        checkpoints: folders of checkpoints, or the folder in which the Trainer put them.
        data: what :func:`rankscope.open_data` takes; None for the embedded data that suit the model.
        out: the folder for the runs.
        base: the checkpoint that all are compared with; by default the base of the adapters, or else the first of them.
        measures: a list of names of definitions and relations, the objects, or functions from ``(*, r)`` singular values
            to ``(*,)``; by default the participation ratio that suits the rows and :data:`RELATIONS`.
        sites: the sites, as ``"decoder.0-3"`` or a list; by default all.
        rows: the kind of rows.
        n: number of samples, from the first; None for all.
        groups: number of groups of samples that the jackknife leaves out in turn, and every other one of which is the half that
            cross-fitted numbers are evaluated on; 20 by default.
        interval: where intervals come from: ``influence``, what every sample does to a number to first order, where that is
            valid; or ``jackknife``, which computes everything again without each group of samples.
        level: confidence of intervals and bands over all steps together; 0.95 by default.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.options.VARIANTS`; by default nothing.
        allow_duplicates: compare rows even if half a per cent or more are copies of others that the data do not explain.
        base_model: the base of adapters, instead of the one that they name.
        device: the torch device; by default the GPU where there is one.
        trust_remote_code: whether Python files in a checkpoint may run.
        progress: called with the checkpoints done, their number and the one at hand.

    Raises:
        CheckpointError: if a folder is no checkpoint, or its step is not known.
        UsageError: if there are fewer than two checkpoints to compare, or two have one step.
        NotComparable: if no measure can compare them.
    """
    require_level(level)
    stops = stops_of(checkpoints)
    home = _base_of(stops, base, base_model)
    first: dict[str, Stop] = {}  # weights → the first step that has them
    for stop in stops:
        first.setdefault(stop.weights, stop)
    if base is None and home == stops[0].path:
        first.pop(stops[0].weights)
    if not first:
        raise UsageError("a training is followed over at least two checkpoints that differ, or one and its base")
    reading: dict[str, Any] = {
        "sites": sites,
        "rows": rows,
        "n": n,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    total = 2 * len(first) + 1

    def read(path: Path, name: str, done: int) -> Run:
        progress(done, total, f"reading {name}")
        named = base_model if Checkpoint.read(path, base_model=base_model).tunings else None
        where = Path(out) / f"{file_name(name)}.pt"
        return collect(path, data, out=where, name=name, reuse=True, base_model=named, **reading)

    before = read(home, home.name, 0)
    chosen = measures
    if chosen is None:
        clustered = any(before.n(site) > before.rows.samples for site in before.sites)
        chosen = [f"participation-ratio{'-clustered' if clustered else ''}", *RELATIONS]
    found: dict[str, Contrast] = {}
    for place, (weights, stop) in enumerate(first.items()):
        run = read(stop.path, stop.path.name, 2 * place + 1)
        progress(2 * place + 2, total, f"comparing {stop.path.name}")
        found[weights] = compare(
            before, run, measures=chosen, groups=groups, interval=interval, level=1 - (1 - level) / len(first),
            variant=variant, allow_duplicates=allow_duplicates, device=device,
        )  # fmt: skip
    progress(total, total, "done")
    records = [
        _record(stop, r, first[stop.weights].step)
        for stop in stops
        if stop.weights in found
        for r in found[stop.weights].records
    ]
    said = dict.fromkeys(note for contrast in found.values() for note in contrast.notes)
    return Track(tuple(records), before.name, level, (*_equal(stops), *said))


def stops_of(checkpoints: str | Path | Sequence[str | Path]) -> list[Stop]:
    """The checkpoints in the order of their steps, those in a folder of the Trainer each by itself.

    Raises:
        CheckpointError: if a folder is no checkpoint, or its step is not known.
        UsageError: if two have one step, or none was given.
    """
    given = [checkpoints] if isinstance(checkpoints, str | Path) else list(checkpoints)
    folders = [folder for one in given for folder in (sorted(Path(one).glob("checkpoint-*")) or [Path(one)])]
    stops = sorted((_stop(folder) for folder in folders), key=lambda stop: stop.step)
    if not stops:
        raise UsageError("no checkpoints were given")
    for one, other in pairwise(stops):
        if one.step == other.step:
            raise UsageError(f"{one.path} and {other.path} are both of step {one.step}; leave one out")
    return stops


def _stop(folder: Path) -> Stop:
    state = read_json(folder / STATE) if (folder / STATE).is_file() else {}
    step, numbered = state.get("global_step"), _NUMBERED.fullmatch(folder.name)
    if not isinstance(step, int):
        if numbered is None:
            raise CheckpointError(
                f"the step of {folder} is not known: it has no {STATE}, and its name ends in no number"
            )
        step = int(numbered[1])
    Checkpoint.read(folder)  # refuses what is not a checkpoint
    return Stop(step, folder, digest(folder), _last(state, "loss", step), _last(state, "eval_loss", step))


def _last(state: Mapping[str, Any], key: str, step: int) -> float | None:
    """The value that the Trainer logged last, up to a step."""
    logged = [
        entry
        for entry in state.get("log_history", ())
        if isinstance(entry.get(key), int | float) and isinstance(entry.get("step"), int) and entry["step"] <= step
    ]
    return float(max(logged, key=lambda entry: entry["step"])[key]) if logged else None


def _base_of(stops: Sequence[Stop], base: str | Path | None, base_model: str | Path | None) -> Path:
    """The folder that all are compared with."""
    if base is not None:
        return Checkpoint.read(base).path
    read = Checkpoint.read(stops[0].path, base_model=base_model)
    return read.base if read.tunings else stops[0].path


def _record(stop: Stop, r: PairRecord, first: int) -> StepRecord:
    of_run = r.a.value is not None
    return StepRecord(
        step=stop.step,
        site=r.site,
        measure=r.measure,
        estimate=r.b if of_run else r.estimate,
        before=r.a.value,
        change=r.estimate if of_run else Estimate(),
        band=r.band,
        shape=r.shape,
        convention=r.convention,
        unit=r.unit,
        loss=stop.loss,
        eval_loss=stop.eval_loss,
        same_as=first if first != stop.step else None,
        notes=r.notes,
        run=stop.path.name,
        run_base=r.runs.run_a if r.runs else "",
    )


def _equal(stops: Sequence[Stop]) -> list[str]:
    """A note for each set of steps whose weights are the same."""
    together: dict[str, list[int]] = {}
    for stop in stops:
        together.setdefault(stop.weights, []).append(stop.step)
    return [
        f"the weights at steps {', '.join(map(str, steps))} are equal, byte by byte: nothing was learnt between them"
        for steps in together.values()
        if len(steps) > 1
    ]
