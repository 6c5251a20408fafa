"""Every number on features that no model is meant to have: inside its range, or none, or refused by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from rankscope.analysis.intervals import bounds_of, limits_of, replicates
from rankscope.analysis.view import View
from rankscope.definition import Comparison, Definition, Range
from rankscope.errors import RankscopeError
from rankscope.features import TEXT, Rows
from rankscope.inference.ranges import inside
from rankscope.registry import COMPARISONS, DEFINITIONS

N, D = 12, 5


def draw(n: int = N, d: int = D, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_row(x: Tensor, row: int, value: Tensor | float) -> Tensor:
    return torch.cat([x[:row], torch.as_tensor(value).expand(1, x.shape[1]).to(x), x[row + 1 :]])


X = draw()
ROW = X[:1].expand(N, D)
FEATURES: dict[str, Callable[[], Tensor]] = {
    "plain": lambda: X,
    "zeros": lambda: torch.zeros(N, D, dtype=torch.float64),
    "ones": lambda: torch.ones(N, D, dtype=torch.float64),
    "one row over and over": lambda: ROW.clone(),
    "one row and its negative": lambda: ROW * torch.tensor([1.0, -1.0]).repeat(N // 2)[:, None],
    "one row that is not zero": lambda: with_row(torch.zeros(N, D, dtype=torch.float64), 3, 1.0),
    "one row that is zero": lambda: with_row(X, 3, 0.0),
    "one row a thousand times longer": lambda: with_row(X, 3, 1e3 * X[3]),
    "one row a hundred thousand times longer": lambda: with_row(X, 3, 1e5 * X[3]),
    "one row 1e12 times longer": lambda: with_row(X, 3, 1e12 * X[3]),
    "half of the rows zero": lambda: X * (torch.arange(N) % 2)[:, None],
    "three rows in turn": lambda: X[torch.arange(N) % 3],
    "rank one": lambda: draw(N, 1) @ draw(1, D, 1),
}
"""What is read in the first run; the second is the same, another draw, or the first in another order."""


def rows_of(n: int, tokens: int) -> Rows:
    sample = torch.arange(n) // tokens
    position = torch.arange(n) % tokens
    return Rows(sample, position, torch.full_like(sample, TEXT), tuple(map(str, range(int(sample.max()) + 1))))


def faults(what: Definition | Comparison, view: View, *runs: int) -> list[str]:
    """What is wrong with a number of a view: beyond its range, not JSON, or an error without a name."""
    try:
        found = replicates(what, view, *runs)
    except RankscopeError:
        return []
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    bounds = bounds_of(what, view)
    within = bounds.within
    estimate, notes = limits_of(found, bounds, 0.95)
    wrong = []
    if estimate.value is not None and not held(what, estimate.value, within):
        wrong.append(f"{estimate.value} is outside {within}")
    for end in (estimate.low, estimate.high):
        if end is not None and not inside(end, within):
            wrong.append(f"an end {end} is outside {within}")
    if estimate.low is not None and not estimate.low <= estimate.value <= estimate.high:
        wrong.append(f"{estimate} does not hold its value")
    if estimate.value is not None and estimate.low is None and len(found.left_out) and not notes:
        wrong.append("no interval and no reason")
    try:
        json.dumps(asdict(estimate), allow_nan=False)
    except ValueError as error:
        wrong.append(str(error))
    return wrong


def held(what: Definition | Comparison, value: float, within: Range) -> bool:
    return what.strays or value == what.of_nothing or inside(value, within)


@pytest.mark.parametrize("name", FEATURES)
def test_every_number_is_in_its_range_or_refused(name: str) -> None:
    x = FEATURES[name]()
    other = draw(*x.shape, seed=9).to(x.dtype)
    wrong, swept = [], 0
    for tokens in (1, 2):
        view = View([x, other, x.clone()], rows_of(len(x), tokens), groups=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the precision of moments is spent on such features
            for one in DEFINITIONS.values():
                wrong += [f"{one.name} ({tokens}): {fault}" for fault in faults(one, view, 0)]
                swept += 1
            for two in COMPARISONS.values():
                for pair in ((0, 1), (1, 0), (0, 2)):
                    wrong += [f"{two.name} {pair} ({tokens}): {fault}" for fault in faults(two, view, *pair)]
                    swept += 1
    assert not wrong, "\n".join(wrong)
    assert swept == 2 * (len(DEFINITIONS) + 3 * len(COMPARISONS))


def test_the_sweep_is_whole() -> None:
    assert len(FEATURES) == 13
    assert len(DEFINITIONS) + len(COMPARISONS) >= 90
