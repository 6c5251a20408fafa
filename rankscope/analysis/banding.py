"""Bands that hold at all sites together, and p-values adjusted for all, beside the records of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rankscope.analysis.view import Replicates
from rankscope.definition import Comparison, Definition
from rankscope.inference.bands import max_t
from rankscope.inference.jackknife import centred_pseudo
from rankscope.results.record import NOTHING, Compared

FEWEST_GROUPS = 6
"""Groups of samples below which sign flips have no p of interest."""


def banded(
    found: Sequence[tuple[Definition | Comparison, Compared, Replicates | None]], level: float
) -> tuple[Compared, ...]:
    """The records with their bands: each measure by itself, over all its sites.

    Sites whose rows come from other samples (a stack that some samples do not reach) make a family of their own; then
    every family takes its share of the error.

    Args:
        found: the measure, the record, and the number without each group of samples.
        level: the coverage of the bands.
    """
    records = [record for _, record, _ in found]
    for name in dict.fromkeys(what.name for what, *_ in found):
        mine = [i for i, (what, _, between) in enumerate(found) if what.name == name and _counts(between)]
        families: dict[int, list[int]] = {}
        for i in mine:
            families.setdefault(len(_pseudo(found[i][2])), []).append(i)
        for family in families.values():
            pseudo = torch.stack([_pseudo(found[i][2]) for i in family], 1)
            bands = max_t(
                pseudo, level=1 - (1 - level) / len(families), generator=torch.Generator().manual_seed(len(pseudo))
            )
            p = (bands.p * len(families)).clamp(max=1)
            for k, i in enumerate(family):
                tested = isinstance(found[i][0], Definition) or records[i].a == records[i].a
                records[i] = replace(
                    records[i],
                    band_low=float(bands.low[k]),
                    band_high=float(bands.high[k]),
                    p=float(p[k]) if tested else NOTHING,
                )
    return tuple(records)


def _counts(between: Replicates | None) -> bool:
    return between is not None and len(between.left_out) >= FEWEST_GROUPS


def _pseudo(between: Replicates | None) -> Tensor:
    assert between is not None
    return centred_pseudo(between.value, between.left_out)
