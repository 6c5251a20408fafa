"""Every number on features that no model is meant to have: inside its range, or none, or refused by name."""

from __future__ import annotations

import json
import warnings
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


def with_column(x: Tensor, column: int, value: Tensor | float) -> Tensor:
    return with_row(x.mT, column, value).mT


def spectrum(*values: float) -> Tensor:
    """Centred rows with these singular values."""
    left = torch.linalg.qr(torch.cat([torch.ones(N, 1, dtype=torch.float64), draw(N, len(values), 3)], 1)).Q[:, 1:]
    return left * torch.tensor(values, dtype=torch.float64) @ torch.linalg.qr(draw(len(values), len(values), 4)).Q


X = draw()
ROW = X[:1].expand(N, D)
ZEROS, ONES = torch.zeros(N, D, dtype=torch.float64), torch.ones(N, D, dtype=torch.float64)
SIGN = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(N // 2)[:, None]
FEATURES: dict[str, Tensor] = {
    "plain": X,
    "zeros": ZEROS,
    "ones": ONES,
    "one row over and over": ROW.clone(),
    "one row and its negative": ROW * SIGN,
    "one row that is not zero": with_row(ZEROS, 3, 1.0),
    "one row that is zero": with_row(X, 3, 0.0),
    "one row a thousand times longer": with_row(X, 3, 1e3 * X[3]),
    "one row a hundred thousand times longer": with_row(X, 3, 1e5 * X[3]),
    "one row 1e12 times longer": with_row(X, 3, 1e12 * X[3]),
    "one row 1e200 times longer": with_row(X, 3, 1e200 * X[3]),
    "half of the rows zero": X * (torch.arange(N) % 2)[:, None],
    "all rows but one equal": with_row(ROW, 3, X[4]),
    "three rows in turn": X[torch.arange(N) % 3],
    "rows equal in pairs": X[torch.arange(N) // 2],
    "rows equal but for rounding": ROW * (1 + 1e-15 * X),
    "rank one": draw(N, 1) @ draw(1, D, 1),
    "rank one and a mean": draw(N, 1) @ draw(1, D, 1) + 3,
    "rank two of five": draw(N, 2) @ draw(2, D, 1),
    "rank two and a mean of 1e6": draw(N, 2) @ draw(2, D, 1) + 1e6,
    "a mean of 1e8": X + 1e8,
    "a mean that leaves no digit": X * 1e-9 + 1e8,
    "singular values from 1 to 1e-8": spectrum(1, 1e-2, 1e-4, 1e-6, 1e-8),
    "singular values from 1 to 1e-16": spectrum(1, 1e-4, 1e-8, 1e-12, 1e-16),
    "equal singular values": spectrum(1, 1, 1, 1, 1),
    "equal singular values but one": spectrum(5, 1, 1, 1, 1),
    "pairs of equal singular values": spectrum(2, 2, 1, 1, 1),
    "a column of zeros": with_column(X, 2, 0.0),
    "a column of ones": with_column(X, 2, 1.0),
    "a column 1e6 times larger": with_column(X, 2, 1e6 * X[:, 2]),
    "two equal columns": with_column(X, 2, X[:, 1]),
    "one-hot rows": torch.eye(D, dtype=torch.float64).repeat(3, 1)[:N],
    "signs": X.sign(),
    "a checkerboard": SIGN * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64),
    "two far clusters": X + 1e4 * (torch.arange(N) < 6)[:, None],
    "heavy tails": X / draw(N, D, 5),
    "sparse": X * (X > 1),
    "a trend": torch.arange(N, dtype=torch.float64)[:, None] * ONES + 1e-3 * X,
    "one feature": X[:, :1],
    "two features": X[:, :2],
    "as many rows as features": draw(N, N),
    "fewer rows than features": draw(N, 3 * N),
    "far fewer rows than features": draw(4, 40),
    "four rows": draw(4, 2),
    "numbers of 1e-80": X * 1e-80,
    "numbers of 1e-160": X * 1e-160,
    "numbers of 1e-300": X * 1e-300,
    "numbers below the least normal": X * 1e-320,
    "numbers of 1e150": X * 1e150,
    "numbers of 1e300": X * 1e300,
    "the largest of float16": (X.sign() * 65504).half(),
    "bfloat16": X.bfloat16(),
    "float32 at its end": (X / X.abs().max() * 3.4e38).float(),
    "float32 below its least normal": (X * 1e-41).float(),
    "a NaN": with_row(X, 3, torch.nan),
    "an infinity": with_row(X, 3, torch.inf),
    "negative zeros": -ZEROS,
}
"""What is read in the first run; the second is the same, or another draw of its size."""


PAIRS = {1: ((0, 1), (1, 0), (0, 2)), 2: ((0, 1),)}
"""Which runs are compared, by the number of rows in a sample."""


def rows_of(n: int, tokens: int) -> Rows:
    sample = torch.arange(n) // tokens
    position = torch.arange(n) % tokens
    return Rows(sample, position, torch.full_like(sample, TEXT), tuple(map(str, range(int(sample.max()) + 1))))


def faults(what: Definition | Comparison, view: View, *runs: int) -> list[str]:
    """What is wrong with a number of a view: beyond its range, not JSON, or an error without a name."""
    try:
        found = replicates(what, view, *runs)
    except RankscopeError as error:
        return [f"an error of no kind: {error}"] if type(error) is RankscopeError else []
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


NOT_AT_SIX = ("power-law-11-100", "power-law-11-100-r2", "modality-cosine")
"""What needs more than six features, or a mean that can be told from 0."""


def held(what: Definition | Comparison, value: float, within: Range) -> bool:
    return what.strays or value == what.of_nothing or inside(value, within)


@pytest.mark.parametrize("name", FEATURES)
def test_every_number_is_in_its_range_or_refused(name: str) -> None:
    x = FEATURES[name]
    largest = float(x.double().abs().max())
    other = draw(*x.shape, seed=9) * (largest if 0 < largest < torch.inf and not 1e-30 < largest < 1e30 else 1)
    other = (other / 10).to(x.dtype)
    wrong, swept = [], 0
    for tokens in (1, 2):
        view = View([x, other, x.clone()], rows_of(len(x), tokens), groups=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the precision of moments is spent on such features
            for one in DEFINITIONS.values():
                wrong += [f"{one.name} ({tokens}): {fault}" for fault in faults(one, view, 0)]
                swept += 1
            for two in COMPARISONS.values():
                for pair in PAIRS[tokens]:
                    wrong += [f"{two.name} {pair} ({tokens}): {fault}" for fault in faults(two, view, *pair)]
                    swept += 1
    assert not wrong, "\n".join(wrong)
    assert swept == 2 * len(DEFINITIONS) + 4 * len(COMPARISONS)


def test_the_sweep_is_whole() -> None:
    """On plain features everything has a number and an interval: what the sweep lets pass is not refused everywhere."""
    x = draw(120, 6)
    view = View([x, x + draw(120, 6, 7)], rows_of(120, 3), groups=6)
    for what, runs in (
        *((one, (0,)) for one in DEFINITIONS.values()),
        *((two, (0, 1)) for two in COMPARISONS.values()),
    ):
        estimate, notes = limits_of(view.evaluate(what, *runs), bounds_of(what, view), 0.95)
        assert estimate.value is not None or what.name in NOT_AT_SIX, what.name
        assert estimate.low is not None or notes or estimate.value is None, what.name
    assert len(FEATURES) >= 55
    assert len(DEFINITIONS) + len(COMPARISONS) >= 90
