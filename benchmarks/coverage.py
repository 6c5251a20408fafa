r"""Do 95 % intervals hold the truth 95 % of the time, when rows cluster by sample?

Rows are Gaussian, ``tokens`` to a sample, half of the variance common to the rows of a sample. The base has the spectrum
1/i; the tuned run is the base with its components rescaled by i^-0.25 and a quarter of noise added. Every truth is exact,
from the population's covariances. Each repetition makes the intervals of ``measure`` and ``compare`` (by the influence of
every sample) and asks whether they hold the truth; max-T is asked, where two runs of equal rank are compared at several
correlated sites, how often it calls any site different, and how often its bands miss the truth at any site. Bands move
with a difference that is added everywhere, so they miss as often however large the differences are. The standard error of
each share is its Monte-Carlo error.

Then every default measure is asked on populations on which intervals are hard (``populations.py``), by influence and by the
delete-a-group jackknife on the same draws, with the mean width and the time of each: one that covers less than 0.92 there must
say beside the number, in most draws, that it may, and influence must not cover less than the jackknife, where that covers
0.92, beyond twice the Monte-Carlo error of their difference.

Two more tables say where first order is enough: how three numbers cover if it is never asked, by the rows for each feature; and
how often shuffles of unequal samples find a relation where there is none.

    python benchmarks/coverage.py               # writes coverage.json beside this file
    python benchmarks/coverage.py --check       # exits with 1 where a figure leaves its bounds
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from populations import (
    GROUPS,
    OUTLIERS,
    POPULATIONS,
    WIDTH,
    both_ways,
    first_order_alone,
    shortfalls,
    unrelated_and_ragged,
    worse,
)
from scipy import stats
from torch import Tensor

from rankscope.analysis.intervals import bounds_of, limits_of
from rankscope.analysis.view import View
from rankscope.features import TEXT, Rows
from rankscope.inference.bands import max_t
from rankscope.inference.jackknife import centred_pseudo
from rankscope.measures.effective_rank import effective_rank
from rankscope.registry import COMPARISONS, definition
from rankscope.results.record import Estimate

BOUNDS = (0.92, 0.98)
"""Between these the coverage of a 95 % interval must lie."""
TOKENS = "participation-ratio, tokens as the unit"
"""There to fail: its groups leave tokens out where samples were drawn."""
BIASED = "roy-vetterli, of one run"
"""There to fail: an interval tells what sampling leaves open, and not that an effective rank falls short with few rows."""
LEVEL = 0.95
"""The coverage that the intervals promise."""
FAMILY_ERROR = 0.05
"""What max-T promises."""
NOISE = 0.25
"""Variance of the noise that the tuned run has beside the base's, in units of the base's."""


@dataclass(frozen=True)
class Design:
    """What is simulated."""

    samples: int = 240
    tokens: int = 6
    width: int = 16
    groups: int = 24
    repetitions: int = 2000
    sites: int = 12
    family_repetitions: int = 600
    seed: int = 0


@dataclass(frozen=True)
class Share:
    """How often something was so."""

    share: float
    error: float
    repetitions: int
    truth: float | None = None
    mean: float | None = None


def rows(design: Design, scale: Tensor, draw: torch.Generator) -> Tensor:
    """``(n, d)`` rows, half of the variance common to the rows of a sample."""
    shape = (design.samples, 1, design.width)
    own = (design.samples, design.tokens, design.width)
    common, rest = (torch.randn(s, generator=draw, dtype=torch.float64) for s in (shape, own))
    return ((common + rest) / math.sqrt(2) * scale).flatten(0, 1)


def spectra(design: Design) -> tuple[Tensor, Tensor]:
    """Variances of the base and factors of the tuned run, along each component."""
    index = torch.arange(1, design.width + 1, dtype=torch.float64)
    return 1 / index, index**-0.25


def truths(design: Design) -> dict[str, float]:
    """The population's values."""
    base, factor = spectra(design)
    tuned = base * factor.square() + NOISE * base
    ranks = [float(effective_rank(v.sqrt())) for v in (base, tuned)]
    aligned = (base * factor).square().sum() / (base.norm() * tuned.norm())
    participation = float(base.sum() ** 2 / base.square().sum())
    return {
        "participation-ratio": participation,
        "participation-ratio-clustered": participation,
        TOKENS: participation,
        BIASED: ranks[0],
        "roy-vetterli, difference": ranks[1] - ranks[0],
        "cka": float(aligned),
    }


def places(samples: int, tokens: int) -> Rows:
    """Where rows come from that lie sample after sample."""
    sample, token = torch.arange(samples).repeat_interleave(tokens), torch.arange(tokens).repeat(samples)
    return Rows(sample, token, torch.full_like(sample, TEXT), tuple(map(str, range(samples))))


def limits(view: View, name: str) -> Estimate:
    """What ``measure`` says of a run."""
    what = definition(name)
    return limits_of(view.evaluate(what, 0), bounds_of(what, view), LEVEL).estimate


def intervals(design: Design, draw: torch.Generator) -> dict[str, Estimate]:
    """One repetition: what the library says of one data set."""
    base, factor = spectra(design)
    x = rows(design, base.sqrt(), draw)
    y = x * factor + math.sqrt(NOISE) * rows(design, base.sqrt(), draw)
    view = View([x, y], places(design.samples, design.tokens), groups=design.groups)
    mixed = x.unflatten(0, (design.samples, design.tokens)).transpose(0, 1).flatten(0, 1)
    alone = View([mixed], places(len(x), 1), groups=design.groups)
    rank, aligned = definition("roy-vetterli"), COMPARISONS["cka"]
    return {
        "participation-ratio": limits(view, "participation-ratio"),
        "participation-ratio-clustered": limits(view, "participation-ratio-clustered"),
        TOKENS: limits(alone, "participation-ratio"),
        BIASED: limits(view, "roy-vetterli"),
        "roy-vetterli, difference": limits_of(
            view.evaluate(rank, 1) - view.evaluate(rank, 0), bounds_of(rank, view).difference, LEVEL
        ).estimate,
        "cka": limits_of(view.evaluate(aligned, 0, 1), bounds_of(aligned, view), LEVEL).estimate,
    }


def share(hits: int, repetitions: int, **more: float) -> Share:
    """A share with its Monte-Carlo standard error."""
    p = hits / repetitions
    return Share(round(p, 4), round(math.sqrt(p * (1 - p) / repetitions), 4), repetitions, **more)


def coverage(design: Design) -> dict[str, Share]:
    """How often each interval holds its truth."""
    draw = torch.Generator().manual_seed(design.seed)
    truth = truths(design)
    hits, total = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0)
    for _ in range(design.repetitions):
        for name, found in intervals(design, draw).items():
            hits[name] += bool(found.low <= truth[name] <= found.high)
            total[name] += float(found.value)
    return {
        name: share(
            hits[name],
            design.repetitions,
            truth=round(truth[name], 5),
            mean=round(total[name] / design.repetitions, 5),
        )
        for name in truth
    }


def equal_runs(design: Design, draw: torch.Generator) -> Tensor:
    """``(G, sites)`` pseudo-values of the difference in rank of two runs of equal rank, at some correlated sites."""
    base, _ = spectra(design)
    shared = [rows(design, base.sqrt(), draw) for _ in range(2)]
    at, rank, columns = places(design.samples, design.tokens), definition("participation-ratio"), []
    for _ in range(design.sites):
        sides = [(common + rows(design, base.sqrt(), draw)) / math.sqrt(2) for common in shared]
        view = View(sides, at, groups=design.groups)
        between = view.evaluate(rank, 1) - view.evaluate(rank, 0)
        columns.append(centred_pseudo(between.value, between.left_out))
    return torch.stack(columns, dim=1)


def family_error(design: Design) -> dict[str, Share]:
    """How often max-T, its bands, Bonferroni and no correction call any site different where none is."""
    draw = torch.Generator().manual_seed(design.seed + 1)
    hits = {"max-T": 0, "max-T bands": 0, "Bonferroni": 0, "uncorrected": 0}
    for _ in range(design.family_repetitions):
        pseudo = equal_runs(design, draw)
        alone = float(stats.ttest_1samp(pseudo.numpy(), 0.0).pvalue.min())
        bands = max_t(pseudo, flips=999, generator=draw)
        hits["max-T"] += bool(bands.p.min() <= FAMILY_ERROR)
        hits["max-T bands"] += bool(((bands.low > 0) | (bands.high < 0)).any())
        hits["Bonferroni"] += alone * design.sites <= FAMILY_ERROR
        hits["uncorrected"] += alone <= FAMILY_ERROR
    return {name: share(count, design.family_repetitions) for name, count in hits.items()}


def faults(covered: dict[str, Share], family: dict[str, Share]) -> list[str]:
    """What leaves its bounds, but for what is there to fail."""
    low, high = BOUNDS
    found = [
        f"{name} covers {one.share}, not between {low} and {high}"
        for name, one in covered.items()
        if name not in (TOKENS, BIASED) and not low <= one.share <= high
    ]
    for name in ("max-T", "max-T bands"):
        error = family[name]
        if error.share > FAMILY_ERROR + 2 * error.error:
            found.append(
                f"{name} errs in {error.share} of families, more than {FAMILY_ERROR} by over 2 x {error.error}"
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=Design.repetitions)
    parser.add_argument("--family-repetitions", type=int, default=Design.family_repetitions)
    parser.add_argument("--population-repetitions", type=int, default=400)
    parser.add_argument("--null-repetitions", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--check", action="store_true", help="exit with 1 where a figure leaves its bounds")
    given = parser.parse_args()
    design = Design(repetitions=given.repetitions, family_repetitions=given.family_repetitions)
    torch.set_num_threads(1)
    start = time.perf_counter()
    covered, family = coverage(design), family_error(design)
    hard = {name: both_ways(one, given.population_repetitions, i) for i, (name, one) in enumerate(POPULATIONS.items())}
    alone = first_order_alone(given.population_repetitions // 2)
    result = {
        "design": asdict(design),
        "coverage of 95 % intervals": {name: asdict(one) for name, one in covered.items()},
        "family error at 0.05": {
            name: {k: v for k, v in asdict(one).items() if v is not None} for name, one in family.items()
        },
        "default measures by population": {
            "design": {"width": WIDTH, "groups": GROUPS, "repetitions": given.population_repetitions},
            **hard,
        },
        "without asking whether first order is enough": alone,
        "p at most 0.05 of unrelated ragged runs": unrelated_and_ragged(given.null_repetitions),
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    text = json.dumps(result, indent=1)
    given.out.write_text(text + "\n")
    print(text)
    told = (
        (name, words)
        for name, one in hard.items()
        for words in (*shortfalls(one["influence"]), *(worse(one) if name != OUTLIERS else ()))
    )
    wrong = [*faults(covered, family), *(f"{name}: {words}" for name, words in told)]
    print("\n".join(wrong), file=sys.stderr)
    return int(given.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
