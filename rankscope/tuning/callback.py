"""Spectra while a model trains: a callback for anyone's own ``Trainer``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from rankscope.definition import Definition
from rankscope.errors import OutputExists, StoreCorrupt, UsageError, public
from rankscope.linalg.svd import singular_values
from rankscope.models.stacks import taps
from rankscope.reading.forward import ModelBatch
from rankscope.reading.hooks import reading
from rankscope.reading.kinds import check_kind
from rankscope.reading.pooling import pool
from rankscope.registry import Measure, definition
from rankscope.sites import Site, select
from rankscope.spectrum import Spectrum
from rankscope.writing import write_output


class SpectrumCallback(TrainerCallback):
    """Records the singular values of chosen sites on fixed rows: before the first step, every so many steps, and after the last.

    Each record is a line of JSON in ``out``: ``{"step": 100, "site": "decoder.3", "rows": 256, "columns": 96, "centred":
    false, "values": [...]}``, singular values in descending order. :func:`read_spectra` reads them back.

    Numbers of the spectra go to the Trainer's log as ``rankscope/<site>/<measure>``, and from there to whatever the
    Trainer reports to: Weights & Biases, TensorBoard, Trackio, MLflow. ``trainer.add_callback(SpectrumCallback(batches, out,
    log=trainer.log))`` adds it to a Trainer that does so.

    Training is not disturbed: the model is read in evaluation mode and without gradients, its mode is restored, and no
    random number is drawn. In :func:`~rankscope.tuning.training.train` steps are counted over all stages. Every process
    reads, because parameters may be sharded, and the first one writes.
    """

    @public
    def __init__(
        self,
        batches: Sequence[ModelBatch],
        out: str | Path,
        *,
        sites: str | Sequence[str] = "all",
        rows: str = "last",
        every: int = 100,
        centre: bool = False,
        overwrite: bool = False,
        resume: bool = False,
        measures: Sequence[Measure] = ("roy-vetterli", "stable-rank"),
        log: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        """Decide what is read and when.

        Args:
            batches: the fixed rows, a list such as ``[reader(model, checkpoint).read(examples)]``.
            out: the file of records.
            sites: the sites to read, as everywhere (``"all"``, ``"decoder.3"``, ``"final"``); all by default.
            rows: the kind of rows, as in :func:`rankscope.collect`; ``last`` by default.
            every: steps between records; 100 by default.
            centre: whether the mean over rows is subtracted; False by default.
            overwrite: whether ``out`` is replaced if it exists; False by default.
            resume: whether ``out`` is continued where the training continues, without its records of later steps; False by
                default.
            measures: the numbers that are logged, of those that read the spectrum alone; each is centred as its own definition
                says, whatever ``centre`` is. Effective rank and stable rank by default.
            log: ``trainer.log``, which takes numbers by name; without it only the Trainers of
                :func:`~rankscope.tuning.training.train` log, which give theirs.

        Raises:
            WrongCall: for an option that does not exist.
            OutputExists: if ``out`` exists and is neither to be overwritten nor resumed.
            UnknownName: if there is no such kind of rows, or no such measure.
            UsageError: if there is no batch, fewer than 1 step between records, or a measure that reads more than the spectrum.
        """
        if not batches or every < 1:
            raise UsageError("a spectrum needs at least one batch of rows, and steps between records of at least 1")
        self.batches, self.out, self.sites, self.every, self.centre = list(batches), Path(out), sites, every, centre
        self.rows = check_kind(rows)
        self.measures, self.log = [definition(one) for one in measures], log
        if more := [one.name for one in self.measures if one.reads != "spectrum"]:
            raise UsageError(
                f"{more[0]} needs more than singular values; collect the checkpoints that the Trainer saves, and measure these"
            )
        if self.out.exists() and not (overwrite or resume):
            raise OutputExists(
                f"{self.out} exists and is kept unless overwrite=True is given, or resume=True to continue it"
            )
        self.before = 0
        """Steps of the stages before this one."""
        self.log_of_stage: Callable[[dict[str, float]], None] | None = None
        """The log of the stage's Trainer, for a callback that was given no ``log``."""
        self._last: float = -1
        self._resume, self._begun = resume and self.out.exists(), False

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by the Trainer."""
        step = self.before + state.global_step
        if self._resume and not self._begun:
            kept = [line for line in self.out.read_text().splitlines(keepends=True) if _step_of(line) <= step]
            self._last = max(map(_step_of, kept), default=-1)
            if state.is_world_process_zero:
                write_output(self.out, "".join(kept).encode())
            self._begun = True
        # A run that continues in the middle of a stage has its first record from before the kill.
        if step > self._last and not (self._resume and state.global_step):
            self.record(given["model"], step, write=state.is_world_process_zero)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by the Trainer."""
        step = self.before + state.global_step
        if step % self.every == 0:
            self.record(given["model"], step, write=state.is_world_process_zero)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **given: Any
    ) -> None:
        """Called by the Trainer. Its last log comes while reports are still taken, and before it loads the best model."""
        if (step := self.before + state.global_step) != self._last and "train_runtime" in (logs or ()):
            self.record(given["model"], step, write=state.is_world_process_zero)

    @torch.no_grad()
    def record(self, model: nn.Module, step: int, *, write: bool = True) -> None:
        """Write the spectra of the model as it is now, and log the numbers of them.

        Args:
            model: the model, wrapped or not.
            step: the step that is written with them.
            write: whether they are written, or only read because other processes take part; True by default.

        Raises:
            UnknownName: if the model has no such site.
        """
        tapped = taps(model)
        chosen = {site: tapped[site] for site in select(self.sites, tuple(tapped))}
        parts: dict[Site, list[torch.Tensor]] = {site: [] for site in chosen}
        modes = {module: module.training for module in model.modules()}
        model.eval()
        device = next(model.parameters()).device
        for batch in self.batches:
            pools = {stack: pool(grid, self.rows) for stack, grid in batch.grids.items()}
            with reading(chosen, lambda site, hidden, pools=pools: pools[site.stack](hidden)) as read:  # type: ignore[misc]
                model(**batch.to(device).inputs)
            for site, features in read.items():
                parts[site].append(features)
        for module, mode in modes.items():
            module.training = mode
        self._last = step
        if write:
            there = {site: torch.cat(rows) for site, rows in parts.items()}
            self._append(step, there)
            if (log := self.log or self.log_of_stage) is not None:
                log(
                    {
                        f"rankscope/{site}/{m.name}": _value(m, site, x)
                        for site, x in there.items()
                        for m in self.measures
                    }
                )

    def _append(self, step: int, features: Mapping[Site, torch.Tensor]) -> None:
        lines = []
        for site, x in features.items():
            about = {"step": step, "site": str(site), "rows": x.shape[0], "columns": x.shape[1], "centred": self.centre}
            spectrum = singular_values(x.float(), centre=self.centre)
            lines.append(json.dumps({**about, "values": spectrum.values.tolist()}) + "\n")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("a" if self._begun else "w") as file:
            file.writelines(lines)
        self._begun = True


def _value(what: Definition, site: Site, x: torch.Tensor) -> float:
    """A number of the ``(n, d)`` features that reads their singular values, by the whole convention of its definition."""
    spectrum = Spectrum.of(singular_values(x, centre=bool(what.centred)), site)
    s = spectrum.values.where(spectrum.values >= spectrum.floor, 0) if what.resolved else spectrum.values
    facts = {"floor": spectrum.floor, "rows": spectrum.rows, "width": spectrum.columns}
    return float(what.function(s, **{name: facts[name] for name in what.takes}))


def _step_of(line: str) -> float:
    """The step of a record; infinite for a line that a kill cut short, so that it is never kept."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def read_spectra(file: str | Path) -> dict[str, dict[int, torch.Tensor]]:
    """The spectra that a :class:`SpectrumCallback` wrote: ``(r,)`` float64 singular values by site and step.

    Raises:
        StoreCorrupt: if a line is no record, for example because the run was killed while it wrote; the message names it.
    """
    spectra: dict[str, dict[int, torch.Tensor]] = {}
    for number, line in enumerate(Path(file).read_text().splitlines(), start=1):
        try:
            entry = json.loads(line)
            spectra.setdefault(entry["site"], {})[entry["step"]] = torch.tensor(entry["values"], dtype=torch.float64)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StoreCorrupt(
                f"{file}, line {number} is no record of a spectrum ({error}); remove the line"
            ) from error
    return spectra
