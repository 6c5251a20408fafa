r"""Populations on which intervals are hard, and how often the interval of every default measure holds there.

Each is two runs on the same rows: the base, with variances 1/i along its directions, and a tuned run that rescales them and
adds noise. What sampling leaves open is asked, not what few rows bias: the truth of a number is its mean over the draws (its
median where it moves in steps), as the same measure of the same number of rows would give on average.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, median
from typing import get_args
from unittest.mock import patch

import torch
from torch import Tensor

from rankscope.analysis import second_pass
from rankscope.analysis.cautions import few_samples_decide
from rankscope.analysis.intervals import Bounds, bounds_of, limits_of
from rankscope.analysis.references import unrelated
from rankscope.analysis.replicates import Method, Replicates
from rankscope.analysis.view import View
from rankscope.definition import Definition
from rankscope.features import TEXT, Rows
from rankscope.registry import DEFAULT_COMPARED, known
from rankscope.results.record import Estimate

WIDTH, GROUPS, LEVEL = 16, 20, 0.95
LEAST = 0.92
"""The coverage that every default measure must have, or say beside the number that it may not."""
OUTLIERS = "one sparse outlier channel"
"""Where no interval holds, since most draws do not have what makes the spread."""

Draw = torch.Generator
Population = Callable[[Draw], tuple[Tensor, Tensor, Rows]]


def normal(draw: Draw, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def rows_of(lengths: Tensor) -> Rows:
    """The rows of samples of these lengths, sample after sample."""
    sample = torch.arange(len(lengths)).repeat_interleave(lengths)
    position = torch.cat([torch.arange(n) for n in lengths.tolist()])
    return Rows(sample, position, torch.full_like(sample, TEXT), tuple(map(str, range(len(lengths)))))


def clustered(draw: Draw, rows: Rows, width: int, scales: Tensor | None = None) -> Tensor:
    """``(n, d)`` rows, half of the variance common to the rows of a sample where samples have several."""
    common, own = normal(draw, len(rows.ids), width)[rows.sample], normal(draw, len(rows), width)
    x = (common + own) / math.sqrt(2) * torch.arange(1, width + 1, dtype=torch.float64).rsqrt()
    return x if scales is None else x * scales[rows.sample, None]


def pair(draw: Draw, rows: Rows, width: int = WIDTH, scales: Tensor | None = None) -> tuple[Tensor, Tensor, Rows]:
    """The base and a tuned run that rescales its directions and adds a quarter of its variance as noise."""
    x, noise = (clustered(draw, rows, width, scales) for _ in range(2))
    return x, x * torch.arange(1, width + 1, dtype=torch.float64) ** -0.25 + noise / 2, rows


def equal(samples: int, tokens: int = 1) -> Rows:
    return rows_of(torch.full((samples,), tokens))


def ragged(draw: Draw) -> tuple[Tensor, Tensor, Rows]:
    """60 samples of 1 to 60 rows, of scales that differ by a factor of three either way."""
    scales = (normal(draw, 60) / 2).exp()
    return pair(draw, rows_of(torch.randint(1, 61, (60,), generator=draw)), scales=scales)


def heavy_tailed(draw: Draw) -> tuple[Tensor, Tensor, Rows]:
    """Student's t with three degrees of freedom: a row in a hundred is six times as long as most."""
    x, y, rows = pair(draw, equal(200))
    length = (3 / normal(draw, len(x), 3).square().sum(1)).sqrt()[:, None]
    return x * length, y * length, rows


def far_mean(draw: Draw) -> tuple[Tensor, Tensor, Rows]:
    """A mean of three times the norm of a row."""
    x, y, rows = pair(draw, equal(120))
    mean = 3 * x.square().sum(1).mean().sqrt() * torch.ones(WIDTH, dtype=torch.float64) / math.sqrt(WIDTH)
    return x + mean, y + mean, rows


def outlier_channel(draw: Draw) -> tuple[Tensor, Tensor, Rows]:
    """One channel that is a hundred times the rest in one row of a hundred, and nothing elsewhere."""
    x, y, rows = pair(draw, equal(120))
    spikes = 100 * normal(draw, len(x)) * (torch.rand(len(x), generator=draw) < 0.01)
    for z in (x, y):
        z[:, 3] += spikes
    return x, y, rows


POPULATIONS: dict[str, Population] = {
    "clusters of six": lambda draw: pair(draw, equal(120, 6)),
    "ragged clusters, 1 to 60 rows of unequal scales": ragged,
    "t with three degrees of freedom": heavy_tailed,
    "n close to d, 40 rows of 32 features": lambda draw: pair(draw, equal(40), width=32),
    "12 samples": lambda draw: pair(draw, equal(12, 6)),
    "25 samples": lambda draw: pair(draw, equal(25, 6)),
    "a mean of three norms": far_mean,
    OUTLIERS: outlier_channel,
}


@dataclass
class Found:
    """One number over the draws."""

    step: float = 0.0
    estimates: list[Estimate] = field(default_factory=list)
    told: int = 0
    """In how many draws the number says that its interval may be too narrow."""


def numbers(view: View, names: Sequence[str]) -> Iterator[tuple[str, Replicates, Bounds]]:
    """Every definition of the first run, its difference between the runs, and every comparison."""
    for name in names:
        what = known(name)
        bounds = bounds_of(what, view)
        if not isinstance(what, Definition):
            yield name, view.evaluate(what, 0, 1), bounds
        elif not (what.needs_tokens and view.n == view.rows.samples):
            a, b = view.evaluate(what, 0), view.evaluate(what, 1)
            yield name, a, bounds
            yield f"{name}, difference", b - a, bounds.difference


def held(
    population: Population,
    repetitions: int,
    seed: int,
    interval: Method = "influence",
    names: Sequence[str] = DEFAULT_COMPARED,
) -> dict[str, dict[str, float]]:
    """Measure → how often its interval held the truth, how often there was one, and how often it said that it may not hold."""
    draw, found = torch.Generator().manual_seed(seed), dict[str, Found]()
    for _ in range(repetitions):
        x, y, rows = population(draw)
        for name, value, bounds in numbers(View([x, y], rows, groups=GROUPS, interval=interval), names):
            one = found.setdefault(name, Found(value.step))
            one.estimates.append(limits_of(value, bounds, LEVEL).estimate)
            one.told += bool(few_samples_decide(value))
    return {name: summary(one) for name, one in found.items()}


def both_ways(population: Population, repetitions: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """The same of the same draws, by influence and by the jackknife, and the time that each took."""
    found, seconds = {}, {}
    for interval in get_args(Method):
        start = time.perf_counter()
        found[interval] = held(population, repetitions, seed, interval)
        seconds[interval] = round(time.perf_counter() - start, 1)
    return {**found, "seconds": {"draws and intervals": seconds}}


RATIOS = {
    f"{n} rows of {d} features": (n, d) for n, d in ((40, 32), (64, 32), (96, 32), (128, 32), (192, 32), (1024, 256))
}
"""Where it is asked how many rows a feature, and how many directions of a subspace, first order needs."""


def _of_shape(draw: Draw, n: int, d: int) -> tuple[Tensor, Tensor, Rows]:
    return pair(draw, equal(n), d)


def first_order_alone(repetitions: int) -> dict[str, dict[str, dict[str, float]]]:
    """Shape → how three numbers cover where influence is taken whether first order is enough or not, and by the jackknife.

    From these figures come :data:`~rankscope.analysis.second_pass.ROWS_A_FEATURE` and the subspaces that are solved again.
    """
    names = ("roy-vetterli", "recoverability", "overlap")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for i, (shape, (n, d)) in enumerate(RATIOS.items()):
        population = partial(_of_shape, n=n, d=d)
        with patch.multiple(second_pass, _linear=lambda view, what: True, _enough=lambda view, what: 0):
            alone = held(population, repetitions, i, "influence", names)
        again = held(population, repetitions, i, "jackknife", names)
        for way, some in (("influence", alone), ("jackknife", again)):
            found.setdefault(shape, {})[way] = {name: one["share"] for name, one in some.items()}
    return found


def unrelated_and_ragged(repetitions: int, permutations: int = 39) -> dict[str, float]:
    """How often p is at most 0.05 where two runs of 30 samples of 1 to 8 rows are unrelated, and each clusters by sample."""
    names, hits = ("cka", "cka-biased"), dict.fromkeys(("cka", "cka-biased"), 0)
    for i in range(repetitions):
        draw = torch.Generator().manual_seed(i)
        rows = rows_of(torch.randint(1, 9, (30,), generator=draw))
        view = View([clustered(draw, rows, 12) for _ in range(2)], rows, groups=10)
        for name in names:
            p = unrelated(view, known(name), 0, 1, draws=permutations).p  # type: ignore[arg-type]
            hits[name] += p is not None and p <= 0.05
    return {name: round(count / repetitions, 4) for name, count in hits.items()}


def worse(found: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """The numbers that cover less by influence than by the jackknife, and less than :data:`LEAST`, beyond Monte-Carlo error."""
    return [
        f"{name} covers {one['share']} by influence and {again['share']} by the jackknife"
        for name, one in found["influence"].items()
        if (again := found["jackknife"][name])
        and one["share"] + 2 * math.hypot(one["error"], again["error"]) < min(again["share"], LEAST)
    ]


def shortfalls(found: dict[str, dict[str, float]]) -> list[str]:
    """The numbers that cover less than :data:`LEAST`, beyond Monte-Carlo error, and do not say so in most draws."""
    return [
        f"{name} covers {one['share']}, below {LEAST}, and says so in {one['says so']:.0%} of the draws"
        for name, one in found.items()
        if one["share"] + 2 * one["error"] < LEAST and one["says so"] <= 0.5
    ]


def summary(one: Found) -> dict[str, float]:
    values = [e.value for e in one.estimates if e.value is not None]
    truth = median(values) if one.step else fmean(values)
    ends = [(e.low, e.high) for e in one.estimates if e.low is not None and e.high is not None]
    share = sum(low <= truth <= high for low, high in ends) / max(len(ends), 1)
    error = math.sqrt(share * (1 - share) / max(len(ends), 1))
    return {
        "share": round(share, 4),
        "error": round(error, 4),
        "with an interval": round(len(ends) / len(one.estimates), 4),
        "says so": round(one.told / len(one.estimates), 4),
        "width": float(f"{fmean(high - low for low, high in ends):.4g}") if ends else 0.0,
        "truth": round(truth, 5),
    }
