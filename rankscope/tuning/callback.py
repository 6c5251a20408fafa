"""Spectra while a model trains: a callback for anyone's own ``Trainer``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from rankscope.errors import OutputExists, StoreCorrupt, UsageError, public
from rankscope.linalg.svd import singular_values
from rankscope.models.stacks import taps
from rankscope.reading.forward import ModelBatch
from rankscope.reading.hooks import reading
from rankscope.reading.kinds import check_kind
from rankscope.reading.pooling import pool
from rankscope.sites import Site, select
from rankscope.writing import write_output


class SpectrumCallback(TrainerCallback):
    """Records the singular values of chosen sites on fixed rows: before the first step, every so many steps, and after the last.

    Each record is a line of JSON in ``out``: ``{"step": 100, "site": "decoder.3", "rows": 256, "columns": 96, "centred":
    false, "values": [...]}``, singular values in descending order. :func:`read_spectra` reads them back.

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
    ) -> None:
        """Decide what is read and when.

        Args:
            batches: the fixed rows, made by ``reader(model, checkpoint).read(examples)``.
            out: the file of records.
            sites: the sites to read, as everywhere (``"all"``, ``"decoder.3"``, ``"final"``); all by default.
            rows: the kind of rows, as in :func:`rankscope.collect`; ``last`` by default.
            every: steps between records; 100 by default.
            centre: whether the mean over rows is subtracted; False by default.
            overwrite: whether ``out`` is replaced if it exists; False by default.
            resume: whether ``out`` is continued where the training continues, without its records of later steps; False by
                default.

        Raises:
            WrongCall: for an option that does not exist.
            OutputExists: if ``out`` exists and is neither to be overwritten nor resumed.
            UnknownName: if there is no such kind of rows.
            UsageError: if there is no batch, or fewer than 1 step between records.
        """
        if not batches or every < 1:
            raise UsageError("a spectrum needs at least one batch of rows, and steps between records of at least 1")
        self.batches, self.out, self.sites, self.every, self.centre = list(batches), Path(out), sites, every, centre
        self.rows = check_kind(rows)
        if self.out.exists() and not (overwrite or resume):
            raise OutputExists(
                f"{self.out} exists and is kept unless overwrite=True is given, or resume=True to continue it"
            )
        self.before = 0
        """Steps of the stages before this one."""
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

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by the Trainer."""
        if (step := self.before + state.global_step) != self._last:
            self.record(given["model"], step, write=state.is_world_process_zero)

    @torch.no_grad()
    def record(self, model: nn.Module, step: int, *, write: bool = True) -> None:
        """Write the spectra of the model as it is now.

        Args:
            model: the model, wrapped or not.
            step: the step that is written with them.
            write: whether they are written, or only read because other processes take part; True by default.

        Raises:
            UnknownName: if the model has no such site.
        """
        there = taps(model)
        chosen = {site: there[site] for site in select(self.sites, tuple(there))}
        parts: dict[Site, list[torch.Tensor]] = {site: [] for site in chosen}
        modes = {module: module.training for module in model.modules()}
        model.eval()
        device = next(model.parameters()).device
        for batch in self.batches:
            pools = {stack: pool(grid, self.rows) for stack, grid in batch.grids.items()}
            with reading(chosen, lambda site, hidden, pools=pools: pools[site.stack](hidden)) as read:  # type: ignore[misc]
                model(**batch.to(device).inputs)
            for site, features in read.items():
                parts[site].append(features.float())
        for module, mode in modes.items():
            module.training = mode
        self._last = step
        if write:
            self._append(step, {site: torch.cat(rows) for site, rows in parts.items()})

    def _append(self, step: int, features: Mapping[Site, torch.Tensor]) -> None:
        lines = []
        for site, x in features.items():
            about = {"step": step, "site": str(site), "rows": x.shape[0], "columns": x.shape[1], "centred": self.centre}
            spectrum = singular_values(x, centre=self.centre)
            lines.append(json.dumps({**about, "values": spectrum.values.tolist()}) + "\n")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("a" if self._begun else "w") as file:
            file.writelines(lines)
        self._begun = True


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
