"""Spectra while a model trains: a callback for anyone's own ``Trainer``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from rankscope.errors import OutputExists, StoreCorrupt, UsageError
from rankscope.linalg.svd import singular_values
from rankscope.models.reader import Batch
from rankscope.models.stacks import taps
from rankscope.reading.hooks import Tap, reading
from rankscope.reading.pooling import check_kind, pool
from rankscope.sites import Site, select


class SpectrumCallback(TrainerCallback):
    """Records the singular values of chosen sites on fixed rows, every so many steps, before the first and after the last.

    Each record is a line of JSON in ``out``: ``{"step": 100, "site": "decoder.3", "rows": 256, "columns": 96, "centred":
    false, "values": [...]}``, singular values in descending order. :func:`read_spectra` reads them back.

    Training is not disturbed: the model is read in evaluation mode and without gradients, its mode is put back, and no
    random number is drawn.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        out: str | Path,
        *,
        sites: str | Sequence[str] = "all",
        rows: str = "last",
        every: int = 100,
        centre: bool = False,
        overwrite: bool = False,
    ) -> None:
        """What is read and when.

        Args:
            batches: the fixed rows, made by ``reader(model, checkpoint).read(examples)``.
            out: the file of records.
            sites: which sites, as everywhere (``"all"``, ``"decoder.3"``, ``"final"``).
            rows: the kind of rows, as in ``collect``.
            every: steps between records.
            centre: whether the mean over rows is taken away.
            overwrite: replace ``out``.

        Raises:
            OutputExists: if ``out`` is there.
            UnknownName: if there is no such kind of rows.
            UsageError: if there is nothing to read.
        """
        if not batches or every < 1:
            raise UsageError("a spectrum needs at least one batch of rows, and steps between records of at least 1")
        self.batches, self.out, self.sites, self.every, self.centre = list(batches), Path(out), sites, every, centre
        self.rows = check_kind(rows)
        if self.out.exists() and not overwrite:
            raise OutputExists(
                f"{self.out} is there already; it is kept unless overwriting is asked for (overwrite=True)"
            )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text("")
        self._last = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by the Trainer."""
        self.record(given["model"], state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by the Trainer."""
        if state.global_step % self.every == 0:
            self.record(given["model"], state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called by the Trainer."""
        if state.global_step != self._last:
            self.record(given["model"], state.global_step)

    @torch.no_grad()
    def record(self, model: nn.Module, step: int) -> None:
        """Write the spectra of the model as it is now.

        Args:
            model: the model, wrapped or not.
            step: the step that is written beside them.

        Raises:
            UnknownName: if the model has no such site.
        """
        there = taps(model)
        chosen = {site: Tap(there[site].module, there[site].entering) for site in select(self.sites, tuple(there))}
        found: dict[Site, list[torch.Tensor]] = {site: [] for site in chosen}
        modes = {module: module.training for module in model.modules()}
        model.eval()
        device = next(model.parameters()).device
        for batch in self.batches:
            pools = {stack: pool(grid, self.rows) for stack, grid in batch.grids.items()}
            with reading(chosen, lambda site, hidden, pools=pools: pools[site.stack](hidden)) as read:  # type: ignore[misc]
                model(**batch.to(device).inputs)
            for site, features in read.items():
                found[site].append(features.float())
        for module, mode in modes.items():
            module.training = mode
        lines = list(self._lines({site: torch.cat(parts) for site, parts in found.items()}, step))
        with self.out.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self._last = step

    def _lines(self, features: dict[Site, torch.Tensor], step: int) -> Iterator[str]:
        for site, x in features.items():
            told = {"step": step, "site": str(site), "rows": x.shape[0], "columns": x.shape[1], "centred": self.centre}
            yield json.dumps({**told, "values": singular_values(x, centre=self.centre).values.tolist()})


def read_spectra(file: str | Path) -> dict[str, dict[int, torch.Tensor]]:
    """What a :class:`SpectrumCallback` wrote: for each site and step the ``(r,)`` float64 singular values.

    Raises:
        StoreCorrupt: if a line is no record, as when a run was killed while it wrote; the message names the line.
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
