"""The unit of the features decides no number: also where their squares would leave float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import rankscope
from rankscope.analysis.intervals import NO_VALUE, replicates
from rankscope.analysis.view import View
from rankscope.definition import Definition, in_full
from rankscope.errors import NotComparable
from rankscope.features import TEXT, Rows
from rankscope.linalg.svd import singular_values
from rankscope.registry import COMPARISONS, DEFINITIONS

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(40, 6, generator=DRAW, dtype=torch.float64) * torch.arange(1, 7) ** -0.5
Y = X + torch.randn(40, 6, generator=DRAW, dtype=torch.float64) / 2
SAMPLE = torch.arange(40) // 2
ROWS = Rows(SAMPLE, torch.arange(40) % 2, torch.full_like(SAMPLE, TEXT), tuple(map(str, range(20))))


@pytest.mark.parametrize("power", [-1000, -530, -265, 300, 1000])
def test_every_number_is_the_same_in_any_unit(power: int) -> None:
    """At 1e-80 the sums ended in an error without a name, at 1e-300 every rank was 0 [0, 0]."""
    plain, scaled = (View([x * 2.0**power for x in (X, Y)] if at else [X, Y], ROWS, groups=5) for at in (0, 1))
    swept = 0
    for what, runs in (
        *((one, (0,)) for one in DEFINITIONS.values()),
        *((two, (0, 1)) for two in COMPARISONS.values()),
    ):
        try:
            first, second = (replicates(what, view, *runs) for view in (plain, scaled))
        except NO_VALUE:
            continue
        degree = getattr(what, "degree", 0)
        expected = first.value
        for _ in range(degree):
            expected = expected * 2.0**power
        assert_close(second.value, expected, rtol=1e-9, atol=0 if degree else 1e-12, equal_nan=True, msg=what.name)
        if not degree:
            assert_close(second.left_out, first.left_out, rtol=1e-9, atol=1e-12, equal_nan=True, msg=what.name)
        swept += 1
    assert swept >= 85
    assert_close(singular_values(X * 2.0**power).values, singular_values(X).values * 2.0**power, rtol=1e-12, atol=0)


class Times(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_runs_too_far_apart_to_be_squared_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        NotComparable, match=r"the largest feature of one run is 3\.15e-80 and that of another 3\.15, too"
    ):
        View([X, X * 1e-80], ROWS)
    for name, factor in (("a", 1.0), ("b", 1e-300)):
        rankscope.collect(torch.nn.Sequential(Times(factor)), X, out=tmp_path / f"{name}.pt")
    (found,) = rankscope.measure(tmp_path / "b.pt", ["roy-vetterli"]).records
    (plain,) = rankscope.measure(tmp_path / "a.pt", ["roy-vetterli"]).records
    assert found.estimate.value == pytest.approx(plain.estimate.value)
    assert found.low == pytest.approx(plain.low)
    with pytest.raises(NotComparable, match="too far apart to be squared"):
        rankscope.compare(tmp_path / "a.pt", tmp_path / "b.pt")


def test_every_formula_says_whether_the_mean_counts_and_what_is_fitted_where() -> None:
    plain, moved = (View([x + 5.0 * at for x in (X, Y)], ROWS, groups=5, replicated=False) for at in (0, 1))
    swept = 0
    for what, runs in (
        *((one, (0,)) for one in DEFINITIONS.values()),
        *((two, (0, 1)) for two in COMPARISONS.values()),
    ):
        try:
            first, second = (float(view.evaluate(what, *runs).value) for view in (plain, moved))
        except NO_VALUE:
            continue
        same = first == pytest.approx(second, rel=1e-6, abs=1e-9, nan_ok=True)
        said = in_full(what)
        if what.name not in ("sink-rows", "massive-dimensions"):  # there are none, in either
            assert same is (what.centred is not False), what.name
        assert ("uncentred" in said) is (what.centred is False)
        assert ("fitted on one half" in said) is (what.reads == "folds")
        assert ("below the floor" in said) is (isinstance(what, Definition) and what.resolved)
        swept += 1
    assert swept >= 85
