r"""Do 95 % intervals hold the truth 95 % of the time, when rows cluster by sample?

Rows are Gaussian, ``tokens`` to a sample, half of the variance common to the rows of a sample. The base has the spectrum
1/i; the tuned run is the base with its components rescaled by i^-0.25 and a quarter of noise added. Every truth is exact,
from the population's covariances. Each repetition makes the intervals that the library makes (delete-a-group jackknife
over samples) and asks whether they hold the truth; max-T is asked, where two runs of equal rank are compared at several
correlated sites, how often it calls any site different, and how often its bands miss the truth at any site. Bands move
with a difference that is added everywhere, so they miss as often however large the differences are. The standard error of
each share is its Monte-Carlo error.

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
from scipy import stats
from torch import Tensor

from rankscope.comparisons.cka import cka
from rankscope.inference.bands import max_t
from rankscope.inference.jackknife import Interval, difference, interval, pseudo_values
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.svd import singular_values_of
from rankscope.measures.effective_rank import effective_rank
from rankscope.measures.participation_ratio import clustered_participation_ratio, unbiased_participation_ratio

BOUNDS = (0.92, 0.98)
"""Between these the coverage of a 95 % interval must lie."""
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
        "participation-ratio, tokens as the unit": participation,
        "roy-vetterli, difference": ranks[1] - ranks[0],
        "cka": float(aligned),
    }


def left_out(sums: Moments | PairMoments) -> Moments | PairMoments:
    """The sums without each group in turn."""
    return sums.sum() - sums


def ranked(moments: Moments) -> Tensor:
    """Effective rank on singular values."""
    return effective_rank(singular_values_of(moments).values)


def intervals(design: Design, draw: torch.Generator) -> dict[str, Interval]:
    """One repetition: what the library says of one data set."""
    base, factor = spectra(design)
    x = rows(design, base.sqrt(), draw)
    y = x * factor + math.sqrt(NOISE) * rows(design, base.sqrt(), draw)
    sample = torch.arange(design.samples).repeat_interleave(design.tokens)
    by_sample = sample * design.groups // design.samples
    by_token = torch.arange(len(x)) % design.groups
    shift = x.mean(0)
    pair = PairMoments.of(x, y, shift_a=shift, shift_b=y.mean(0), group=by_sample, groups=design.groups)
    apart = left_out(pair)
    tokens = Moments.of(x, shift=shift, group=by_token, groups=design.groups)
    clusters = ClusterMoments.of(x, sample, shift=shift, group=by_sample, groups=design.groups)
    unbiased, crossed = unbiased_participation_ratio, clustered_participation_ratio
    return {
        "participation-ratio": interval(unbiased(pair.a.sum()), unbiased(apart.a), scale="log"),
        "participation-ratio-clustered": interval(crossed(clusters.sum()), crossed(left_out(clusters)), scale="log"),
        "participation-ratio, tokens as the unit": interval(
            unbiased(tokens.sum()), unbiased(left_out(tokens)), scale="log"
        ),
        "roy-vetterli, difference": difference(
            ranked(pair.a.sum()), ranked(apart.a), ranked(pair.b.sum()), ranked(apart.b)
        ),
        "cka": interval(cka(pair.sum()), cka(apart)),
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
    """``(G, sites)`` pseudo-values of ln PR of two runs that have the same rank at every one of some correlated sites."""
    base, _ = spectra(design)
    group = torch.arange(design.samples).repeat_interleave(design.tokens) * design.groups // design.samples
    shared = [rows(design, base.sqrt(), draw) for _ in range(2)]
    columns = []
    for _ in range(design.sites):
        sides = []
        for common in shared:
            x = (common + rows(design, base.sqrt(), draw)) / math.sqrt(2)
            sums = Moments.of(x, shift=x.mean(0), group=group, groups=design.groups)
            ranks = [unbiased_participation_ratio(m).log() for m in (sums.sum(), left_out(sums))]
            sides.append(pseudo_values(*ranks))
        columns.append(sides[1] - sides[0])
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
    """What leaves its bounds; the token-level interval is there to fail."""
    low, high = BOUNDS
    found = [
        f"{name} covers {one.share}, not between {low} and {high}"
        for name, one in covered.items()
        if "tokens as the unit" not in name and not low <= one.share <= high
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
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--check", action="store_true", help="exit with 1 where a figure leaves its bounds")
    given = parser.parse_args()
    design = Design(repetitions=given.repetitions, family_repetitions=given.family_repetitions)
    torch.set_num_threads(1)
    start = time.perf_counter()
    covered, family = coverage(design), family_error(design)
    result = {
        "design": asdict(design),
        "coverage of 95 % intervals": {name: asdict(one) for name, one in covered.items()},
        "family error at 0.05": {
            name: {k: v for k, v in asdict(one).items() if v is not None} for name, one in family.items()
        },
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    text = json.dumps(result, indent=1)
    given.out.write_text(text + "\n")
    print(text)
    wrong = faults(covered, family)
    print("\n".join(wrong), file=sys.stderr)
    return int(given.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
