"""A run's numbers against the number of its rows: how far n is from enough, and the limit where a law gives one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankscope.analysis.align import Aligned
from rankscope.analysis.cautions import convention, why_not
from rankscope.analysis.guards import GuardedView, guarded_views
from rankscope.analysis.options import GROUPS, LEVEL, Analysis, chosen
from rankscope.analysis.references import noise_value
from rankscope.definition import Definition
from rankscope.errors import NotComparable, UnknownName, UsageError, public
from rankscope.inference.extrapolate import LAWS, Curve, extrapolate, subsampling_curve
from rankscope.linalg.streamed import taken
from rankscope.progress import Progress, silent
from rankscope.registry import Measure, definition
from rankscope.results.record import number
from rankscope.results.runs import CurvePoint, Curves
from rankscope.sites import Site, select
from rankscope.store import Run

DEFAULT_CURVES = ("participation-ratio", *LAWS)
"""The default measures: the unbiased ratio, which is flat, and those with a law."""
PARTS = (1, 2, 4)
"""Into how many parts the samples are divided at each level."""


@public
def curve(
    run: Run | str | Path,
    measures: Sequence[Measure] = DEFAULT_CURVES,
    *,
    sites: str | Sequence[str | Site] = "all",
    parts: Sequence[int] = PARTS,
    seed: int = 0,
    variant: str = "raw",
    allow_duplicates: bool = False,
    base_model: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> Curves:
    """Named numbers of one run on the whole and on disjoint parts of its samples, and their limit where there is one.

    Args:
        run: a run, the path of one, or the folder of a checkpoint of the embedded model, which is collected first on scenes.
        measures: a list of names, definitions, or functions from ``(*, r)`` singular values to ``(*,)``; by default
            :data:`DEFAULT_CURVES`.
        sites: the sites, as ``"decoder.0-3"`` or a list; by default all.
        parts: numbers of parts into which the samples are divided, one per level; by default 1, 2 and 4.
        seed: seed of the division; 0 by default.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.options.VARIANTS`; by default nothing.
        allow_duplicates: measure rows even if half a per cent or more are copies that the data do not explain.
        base_model: the base of a checkpoint folder, instead of the one that its adapter names.
        device: the torch device; by default the GPU where there is one.
        progress: called with the sites done, their number and the site at hand.

    Raises:
        UnknownName: if there is no such site, measure or variant.
        NotComparable: if there are fewer than four samples per part, or at every site too many rows are copies.
        TooLarge: if sums of the width of a site do not fit into memory.
        UsageError: if an argument has the wrong type, such as an array in place of the run.
    """
    options = Analysis(sites, GROUPS, LEVEL, variant, allow_duplicates, base_model, device, progress)
    if not isinstance(parts, Sequence):
        raise UsageError(f"parts is a list of numbers of parts, as [1, 2, 4]; got {parts!r}")
    definitions = chosen(measures, definition)
    run = options.open(run)
    records: list[CurvePoint] = []
    refused: list[str] = []
    aligned = Aligned((run,), select(sites, run.sites), all_samples=allow_duplicates)
    for site, view in guarded_views(aligned, options, definitions):
        refused.append(view.refused)
        records += _points(run, site, view, definitions, parts, seed)
    if all(refused):
        raise NotComparable(refused[0])
    return Curves(tuple(records), run.name, tuple(aligned.notes()))


def _points(
    run: Run, site: Site, view: GuardedView, definitions: Sequence[Definition], parts: Sequence[int], seed: int
) -> list[CurvePoint]:
    """The points of every measure at one site; a single one with the reason where there is no curve."""
    reasons = [why_not(what, view) for what in definitions]
    drawn = [what for what, reason in zip(definitions, reasons, strict=True) if not reason]

    def values(cell: Tensor) -> Tensor:
        """``(measures, 2)``: each measure of some of the rows, and of noise of their shape."""
        part = view.derived([taken(view.features[0], cell)], cell)
        found = [(part.value(what, 0), noise_value(what, part)) for what in drawn]
        return torch.stack([torch.stack([x.double().cpu() for x in both]) for both in found])

    generator = torch.Generator().manual_seed(seed)
    levels = subsampling_curve(values, view.rows.sample, parts=parts, generator=generator) if drawn else None
    points = []
    for what, reason in zip(definitions, reasons, strict=True):
        point = partial(
            CurvePoint,
            site=str(site),
            measure=what.name,
            d=view.widths[0],
            convention=convention(what, run),
            unit=what.unit,
            variant=view.variant,
            run=run.name,
        )
        if levels is None or reason:
            blank: dict[str, Any] = dict.fromkeys(("value", "least", "greatest", "noise", "limit"))
            points.append(point(parts=1, rows=view.n, **blank, notes=(reason,)))
            continue
        k = drawn.index(what)
        limit, law = _limit(Curve(levels.rows, tuple(v[:, k, 0] for v in levels.values)), what, view)
        for rows, (found, noise) in zip(levels.rows, (v[:, k].unbind(1) for v in levels.values), strict=True):
            ends = {"value": found.mean(), "least": found.min(), "greatest": found.max(), "noise": noise.mean()}
            numbers: dict[str, Any] = {name: number(x) for name, x in ends.items()}
            points.append(point(parts=len(found), rows=float(rows), **numbers, limit=limit, notes=(law, *view.remarks)))
    return points


def _limit(curve: Curve, what: Definition, view: GuardedView) -> tuple[float | None, str]:
    """The limit at infinitely many rows with its law, or None and why there is none."""
    try:
        return number(extrapolate(curve, what.name, width=view.widths[0])), LAWS[what.name].words
    except (NotComparable, UnknownName) as error:
        return None, str(error)
