"""Numbers with what sampling leaves open: the interval of each, and bands that hold at all sites together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rankscope.analysis.guards import GuardedView
from rankscope.analysis.view import Replicates
from rankscope.definition import Comparison, Definition
from rankscope.errors import DataError, NotComparable
from rankscope.inference.bands import max_t
from rankscope.inference.jackknife import Scale, centred_pseudo, interval
from rankscope.results.record import Estimate, Span, number
from rankscope.results.runs import PairRecord

NO_VALUE = (NotComparable, DataError)
"""What a measure raises for rows on which it has no value."""
FEWEST_GROUPS = 6
"""Groups of samples below which sign flips give no p of interest."""


def replicates(what: Definition | Comparison, view: GuardedView, *runs: int) -> Replicates:
    """A number with its replicates; without them where too few rows are left once a group is left out.

    Raises:
        NotComparable: if it has no value on all rows either; or DataError, for a measure of rows that are not of its kind.
    """
    try:
        return view.evaluate(what, *runs)
    except NO_VALUE:
        return view.only(*runs).evaluate(what, *range(len(runs)))


def interval_of(found: Replicates | None, level: float, scale: Scale = "identity") -> Estimate:
    """A number with its jackknife interval, None for what does not exist."""
    if found is None:
        return Estimate()
    if not len(found.left_out):
        return Estimate(number(found.value))
    limits = interval(found.value, found.left_out, scale=scale, level=level)
    return Estimate(number(limits.value), number(limits.low), number(limits.high))


def banded(
    found: Sequence[tuple[Definition | Comparison, PairRecord, Replicates | None]], level: float
) -> tuple[PairRecord, ...]:
    """The records with their bands: each measure by itself, over all its sites.

    Sites whose rows come from other samples (a stack that some samples do not reach) make a family of their own. With m
    families each gets a share of the error: confidence 1 − (1 − level)/m, and p times m (Bonferroni).

    Args:
        found: the measure, the record, and the number without each group of samples.
        level: the confidence of the bands.
    """
    records = [record for _, record, _ in found]
    families: dict[tuple[str, int], dict[int, Tensor]] = {}
    for i, (what, _, between) in enumerate(found):
        if between is not None and len(between.left_out) >= FEWEST_GROUPS:
            pseudo = centred_pseudo(*between)
            families.setdefault((what.name, len(pseudo)), {})[i] = pseudo
    shares = Counter(name for name, _ in families)
    for (name, groups), family in families.items():
        level_of_family, generator = 1 - (1 - level) / shares[name], torch.Generator().manual_seed(groups)
        bands = max_t(torch.stack([*family.values()], 1), level=level_of_family, generator=generator)
        for k, i in enumerate(family):
            # 0 is no hypothesis for a relation of two runs; it is one for the difference of two relations.
            tested = isinstance(found[i][0], Definition) or records[i].a.value is not None
            p = number((bands.p[k] * shares[name]).clamp(max=1)) if tested else None
            records[i] = replace(records[i], band=Span(number(bands.low[k]), number(bands.high[k])), p=p)
    return tuple(records)
