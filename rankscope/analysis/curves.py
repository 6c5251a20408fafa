"""A run's numbers against the number of its rows: how far n is from enough, and the limit where a law gives one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rankscope.analysis.guards import APART, GuardedView, check_variant, guarded_view
from rankscope.analysis.measure import GROUPS, convention, noise_value, why_not
from rankscope.analysis.view import View
from rankscope.definition import Definition
from rankscope.devices import where
from rankscope.errors import NotComparable, UnknownName
from rankscope.inference.extrapolate import LAWS, Curve, extrapolate, subsampling_curve
from rankscope.progress import Progress, silent
from rankscope.registry import Measure, definition
from rankscope.results.curves import CurvePoint, Curves
from rankscope.results.record import NOTHING
from rankscope.sites import Site, select
from rankscope.store import Run

DEFAULT_CURVES = ("participation-ratio", *LAWS)
"""What is drawn where nothing is asked for: the unbiased ratio, which is flat, and the measures with a law."""
PARTS = (1, 2, 4)
"""Into how many parts the samples are divided at each level."""


def curve(
    run: Run,
    measures: Sequence[Measure] = DEFAULT_CURVES,
    *,
    sites: str | Sequence[str | Site] = "all",
    parts: Sequence[int] = PARTS,
    seed: int = 0,
    variant: str = "raw",
    allow_duplicates: bool = False,
    device: str | None = None,
    progress: Progress = silent,
) -> Curves:
    """Named numbers of one run on the whole and on disjoint parts of its samples, and their limit where there is one.

    Args:
        run: the run.
        measures: names, definitions, or functions from ``(*, r)`` singular values to ``(*,)``.
        sites: which of its sites.
        parts: into how many parts to divide at each level.
        seed: of the division.
        variant: what to do to the rows first, one of :data:`~rankscope.analysis.guards.VARIANTS`.
        allow_duplicates: measure rows even if half a per cent or more are copies that the data do not explain.
        device: where to compute; the GPU where there is one.
        progress: told of each site.

    Raises:
        UnknownName: if there is no such site, measure or variant.
        NotComparable: if there are fewer than four samples a part, or at every site too many rows are copies.
    """
    check_variant(variant)
    definitions = [definition(m) for m in measures]
    chosen = select(sites, run.sites)
    guard: dict[str, Any] = {"variant": variant, "allow_duplicates": allow_duplicates, "names": [run.name]}
    records: list[CurvePoint] = []
    refused: list[str] = []
    for done, site in enumerate(chosen):
        progress(done, len(chosen), str(site))
        view = guarded_view([run.features(site)], run.rows_at(site), site, groups=GROUPS, device=where(device), **guard)
        refused.append(view.refused)
        records += _along(run, site, view, definitions, parts, seed)
    if all(refused):
        raise NotComparable(refused[0])
    progress(len(chosen), len(chosen), "done")
    return Curves(tuple(records), run.name)


def _along(
    run: Run, site: Site, view: GuardedView, definitions: Sequence[Definition], parts: Sequence[int], seed: int
) -> list[CurvePoint]:
    """The points of every measure at one site."""
    reasons = [why_not(what, view) for what in definitions]
    meant = [what for what, reason in zip(definitions, reasons, strict=True) if not reason]

    def values(cell: Tensor) -> Tensor:
        part = View([view.features[0][cell]], view.rows[cell], device=view.device, replicated=False)
        found = [(part.measured(what, 0).value.double(), noise_value(what, part)) for what in meant]
        return torch.stack(
            [torch.stack([value.cpu(), torch.tensor(noise, dtype=torch.float64)]) for value, noise in found]
        )

    generator = torch.Generator().manual_seed(seed)
    whole = subsampling_curve(values, view.rows.sample, parts=parts, generator=generator) if meant else None
    records = []
    for what, reason in zip(definitions, reasons, strict=True):
        told: dict[str, Any] = {"site": str(site), "measure": what.name, "d": view.widths[0], "unit": what.unit}
        told |= {"convention": convention(what, run), "variant": view.variant}
        if whole is None or reason:
            blank: dict[str, Any] = dict.fromkeys(("value", "least", "greatest", "noise", "limit"), NOTHING)
            records.append(CurvePoint(parts=1, rows=view.n, note=reason, **told, **blank))
        else:
            k = meant.index(what)
            mine = Curve(whole.rows, tuple(v[:, k, 0] for v in whole.values))
            records += _points(mine, [float(v[:, k, 1].mean()) for v in whole.values], what, view, told)
    return records


def _points(
    found: Curve, noise: Sequence[float], what: Definition, view: GuardedView, told: dict[str, Any]
) -> list[CurvePoint]:
    """A point a level, each with the limit or why there is none."""
    limit = NOTHING
    try:
        limit, said = float(extrapolate(found, what.name, width=view.widths[0])), LAWS[what.name].words
    except (NotComparable, UnknownName) as error:
        said = str(error)
    note = APART.join((said, *view.remarks))
    return [
        CurvePoint(
            parts=len(values),
            rows=float(rows),
            value=float(values.mean()),
            least=float(values.min()),
            greatest=float(values.max()),
            noise=level,
            limit=limit,
            note=note,
            **told,
        )
        for rows, values, level in zip(found.rows, found.values, noise, strict=True)
    ]
