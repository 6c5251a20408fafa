"""Every measure against its formula written out, and estimates and intervals over draws of known populations."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rankscope.analysis.compare import compare
from rankscope.analysis.intervals import bounds_of, limits_of
from rankscope.analysis.measure import measure
from rankscope.analysis.view import View
from rankscope.collecting.collect import collect
from rankscope.features import TEXT, Rows, samples_in_groups
from rankscope.registry import COMPARISONS, DEFINITIONS, known
from rankscope.results.record import Estimate
from rankscope.selftest.answer import Answer
from rankscope.selftest.formulas import of_one_run, of_two_runs
from rankscope.store import Run, open_run

EVERY, DRAWS = "every measure", "draws"
"""The names of the two."""
SAMPLES, TOKENS, WIDTH, GROUPS = 24, 6, 16, 4
"""The run on which every formula is written out: enough samples for 20 neighbours, and two samples to each direction."""
REPEATED, DRAWN_ROWS, DRAWN_WIDTH, DRAWN_GROUPS = 48, 60, 24, 20
"""How many draws there are, of how many independent rows."""
ERRORS = 4
"""Monte-Carlo standard errors by which a mean over draws may miss the truth: by chance once in 16,000."""
LEVEL = 0.95
"""What the intervals promise."""
ASKED = ("participation-ratio", "cka", "cka, unrelated", "roy-vetterli, difference")
"""What is asked of each draw: a number of one run, one of two that are related or not, and a difference of two."""


def every_measure(folder: Path) -> Iterator[Answer]:
    """Each measure of a small run of token rows with a mean and a turned basis, through the whole pipeline."""
    draw = torch.Generator().manual_seed(0)

    def clustered() -> Tensor:
        common, own = _normal(draw, SAMPLES, 1, WIDTH), _normal(draw, SAMPLES, TOKENS, WIDTH)
        return (common + own).flatten(0, 1)

    turn = torch.linalg.qr(_normal(draw, WIDTH, WIDTH)).Q
    x = clustered() * _deviations(WIDTH) @ turn + 1.5 * _normal(draw, WIDTH)
    mixed = torch.eye(WIDTH) + 0.3 * _normal(draw, WIDTH, WIDTH)
    y = 0.7 * x @ mixed + 0.4 * clustered() + _normal(draw, WIDTH)
    runs = [_collected(z.float(), name, folder) for name, z in (("base", x), ("tuned", y))]
    first_run, second_run = (run.features(run.sites[0]).double().numpy() for run in runs)
    rows = runs[0].rows_at(runs[0].sites[0])
    first = samples_in_groups(rows, GROUPS) % 2 == 0
    right = {
        **of_one_run(first_run, rows.sample.numpy()),
        **of_two_runs(first_run, second_run, rows.sample.numpy(), first.numpy()),
    }
    said = {
        **{r.measure: r.value for r in measure(runs[0], list(DEFINITIONS), groups=GROUPS).records},
        **{r.measure: r.value for r in compare(*runs, measures=list(COMPARISONS), groups=GROUPS).records},
    }
    for name, expected in right.items():
        yield Answer(EVERY, "its formula written out", name, said[name], float(expected), 1e-6 * abs(expected) + 1e-9)


def _normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def _deviations(width: int) -> Tensor:
    """The population's standard deviation along each direction."""
    return torch.arange(1, width + 1, dtype=torch.float64) ** -0.5


def _collected(rows: Tensor, name: str, folder: Path) -> Run:
    """A run of token rows: those of a module that looks them up by their numbers."""
    inputs = torch.arange(len(rows)).reshape(SAMPLES, TOKENS)
    module, out = nn.Sequential(nn.Embedding.from_pretrained(rows)), folder / f"{name}-tokens.pt"
    return open_run(out) if out.exists() else collect(module, inputs, rows="tokens", out=out, name=name)


class _Drawn(NamedTuple):
    """An estimate over draws of a population, of which the truth is known."""

    what: str
    """The measure."""
    truth: float
    """The population's value."""
    estimates: list[Estimate]
    """The value and interval of each draw."""


def draws() -> Iterator[Answer]:
    """Unbiased estimates and intervals over draws: their means lie within Monte-Carlo error of the truth."""
    draw, deviations = torch.Generator().manual_seed(0), _deviations(DRAWN_WIDTH)
    variances, sample = deviations.square(), torch.arange(DRAWN_ROWS)
    rows = Rows(sample, torch.zeros_like(sample), torch.full_like(sample, TEXT), tuple(map(str, range(DRAWN_ROWS))))
    noisy = variances + variances.mean()
    ratio = float(variances.sum() ** 2 / variances.square().sum())
    # y = x + noise: the cross-covariance is that of x, and CKA |S_xy|²/(|S_x||S_y|)
    alike = float(variances.square().sum() / (variances.norm() * noisy.norm()))
    rank, kernel, entropy = (known(name) for name in ("participation-ratio", "cka", "roy-vetterli"))
    found = [_Drawn(what, truth, []) for what, truth in zip(ASKED, (ratio, alike, 0.0, 0.0), strict=True)]
    for _ in range(REPEATED):
        x, other = (_normal(draw, DRAWN_ROWS, DRAWN_WIDTH) * deviations for _ in range(2))
        y = x + _normal(draw, DRAWN_ROWS, DRAWN_WIDTH) * variances.mean().sqrt()
        view = View([x, y, other], rows, groups=DRAWN_GROUPS)
        difference = view.evaluate(entropy, 2) - view.evaluate(entropy, 0), bounds_of(entropy, view).difference
        values = (
            (view.evaluate(rank, 0), bounds_of(rank, view)),
            (view.evaluate(kernel, 0, 1), bounds_of(kernel, view)),
            (view.evaluate(kernel, 0, 2), bounds_of(kernel, view)),
            difference,
        )
        for one, (value, bounds) in zip(found, values, strict=True):
            one.estimates.append(limits_of(value, bounds, LEVEL).estimate)
    for one in found:
        yield from _answers(one)


def _answers(one: _Drawn) -> Iterator[Answer]:
    values = torch.tensor([e.value for e in one.estimates], dtype=torch.float64)
    error = float(values.std()) / sqrt(REPEATED)
    yield Answer(DRAWS, "the population's", one.what, float(values.mean()), one.truth, ERRORS * error)
    ends = [(e.low, e.high) for e in one.estimates if e.low is not None and e.high is not None]
    held = sum(low <= one.truth <= high for low, high in ends) / REPEATED
    chance = ERRORS * sqrt(LEVEL * (1 - LEVEL) / REPEATED)
    yield Answer(DRAWS, "95 % intervals hold the truth", f"{one.what}: held", held, LEVEL, chance)
