"""From the numbers of arms at every site to records: intervals, bands, equivalence, the difference of two arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankscope.analysis.arm_numbers import Number
from rankscope.definition import Comparison, Definition
from rankscope.inference.arm_bands import ArmBands, arm_bands
from rankscope.inference.equivalence import arm_difference, components, equivalence
from rankscope.inference.jackknife import critical_t
from rankscope.results.arms import ArmCompared
from rankscope.results.record import NOTHING
from rankscope.results.verdict import Evidence, Verdict
from rankscope.sites import Site


class Seen(NamedTuple):
    """What was found at one site."""

    site: Site
    """The site."""
    numbers: Mapping[tuple[str, str], Number | str]
    """(measure, arm) → the number, or why there is none."""
    grounds: Mapping[str, tuple[Number, ...]]
    """Arm → the numbers of its verdict, where there are any."""
    notes: Mapping[str, str]
    """Measure → what must be said beside it."""
    shape: Mapping[str, Any]
    """``n``, ``samples``, ``d`` and ``variant`` of the rows."""


class Estimates(NamedTuple):
    """A number along the sites with all that is uncertain about it; ``(s,)`` each."""

    value: Tensor
    se: Tensor
    df: Tensor
    seed_sd: Tensor
    seed_se: Tensor
    sample_se: Tensor
    bands: ArmBands


def estimated(pseudo: Tensor, level: float) -> Estimates:
    """One arm along the sites, from ``(R, G, s)`` pseudo-values."""
    c = components(pseudo)
    bands = arm_bands(c.mean, c.se, c.df, [pseudo], level=level)
    return Estimates(c.mean, c.se, c.df, c.seed_sd, c.seed_se, c.sample_se, bands)


def between(a: Tensor, b: Tensor, level: float) -> Estimates:
    """The second arm minus the first along the sites, paired over samples."""
    d = arm_difference(a, b, level=level)
    bands = arm_bands(d.value, d.se, d.df, [-a, b], level=level)
    return Estimates(d.value, d.se, d.df, torch.full_like(d.value, NOTHING), d.seed_se, d.sample_se, bands)


def evidence(numbers: Sequence[Number], level: float) -> list[Evidence]:
    """One question of the verdict along the sites."""
    e = estimated(torch.stack([one.change for one in numbers], -1), level)
    return [
        Evidence(float(e.bands.low[i]), float(e.bands.high[i]), one.floor, bool(_same(e, i, one.floor)[0]))
        for i, one in enumerate(numbers)
    ]


def _same(change: Estimates, i: int, margin: float) -> tuple[bool | None, float]:
    """Whether a change lies inside the margin, and p; None without a margin or a number."""
    value, se = change.value[i], change.se[i]
    if margin != margin or not bool(value.isfinite() & se.isfinite()):
        return None, NOTHING
    found = equivalence(value, se, change.df[i], margin=margin)
    return bool(found.equivalent), float(found.p)


def records_of(
    what: Definition | Comparison,
    seen: Sequence[Seen],
    runs: Mapping[str, int],
    verdicts: Mapping[tuple[str, str], Verdict],
    *,
    level: float,
    convention: str,
) -> list[ArmCompared]:
    """The records of one measure: each arm at each site, and each two arms.

    Args:
        what: the measure.
        seen: what was found, a site each.
        runs: of each arm the number of its runs.
        verdicts: (site, arm) → the verdict.
        level: the coverage of intervals and bands.
        convention: what was done to the rows before the formula.
    """
    names: list[tuple[str, ...]] = [(arm,) for arm in runs]
    records: list[ArmCompared] = []
    for name in [*names, *combinations(runs, 2)]:
        filled = _along(what, seen, name, level)
        for s in seen:
            told = verdicts.get((str(s.site), name[0])) if len(name) == 1 else None
            blank: dict[str, Any] = {
                **_BLANK,
                **s.shape,
                "site": str(s.site),
                "measure": what.name,
                "arm": name[0] if len(name) == 1 else f"{name[1]} − {name[0]}",
                "runs": min(runs[arm] for arm in name),
                "convention": convention,
                "unit": what.unit,
                "verdict": str(told) if told else "",
                "note": _note(what, s, name),
            }
            records.append(ArmCompared(**{**blank, **filled.get(s.site, {})}))
    return records


_BLANK = {
    **dict.fromkeys(("value", "low", "high", "band_low", "band_high", "p", "p_equivalent", "floor"), NOTHING),
    **dict.fromkeys(("seed_sd", "seed_se", "sample_se"), NOTHING),
    "equivalent": None,
}


def _note(what: Definition | Comparison, s: Seen, name: Sequence[str]) -> str:
    """Why there is no number, or what must be said beside it."""
    missing = (one for one in (s.numbers[what.name, arm] for arm in name) if isinstance(one, str))
    return next(missing, s.notes[what.name])


def _along(
    what: Definition | Comparison, seen: Sequence[Seen], name: Sequence[str], level: float
) -> dict[Site, dict[str, Any]]:
    """Site → what is known of an arm, or of two, where all have a number."""
    rows: dict[Site, list[Number]] = {}
    for s in seen:
        found = [one for one in (s.numbers[what.name, arm] for arm in name) if isinstance(one, Number)]
        if len(found) == len(name):
            rows[s.site] = found
    if not rows:
        return {}
    sides = [torch.stack([row[k].pseudo for row in rows.values()], -1) for k in range(len(name))]
    if len(name) == 1:
        e = estimated(sides[0], level)
        change = estimated(torch.stack([row[0].change for row in rows.values()], -1), level)
    else:
        e = change = between(sides[0], sides[1], level)
    return {site: _filled(e, change, i, row, level) for i, (site, row) in enumerate(rows.items())}


def _filled(e: Estimates, change: Estimates, i: int, row: Sequence[Number], level: float) -> dict[str, Any]:
    floor = max(one.floor for one in row) if all(one.floor == one.floor for one in row) else NOTHING
    same, p_same = _same(change, i, floor)
    reach = float(critical_t(e.df[i], level) * e.se[i])
    value = float(e.value[i])
    return {
        "value": value,
        "low": value - reach,
        "high": value + reach,
        "band_low": float(e.bands.low[i]),
        "band_high": float(e.bands.high[i]),
        "p": float(change.bands.p[i]),
        "seed_sd": float(e.seed_sd[i]),
        "seed_se": float(e.seed_se[i]),
        "sample_se": float(e.sample_se[i]),
        "floor": floor,
        "equivalent": same,
        "p_equivalent": p_same,
    }
