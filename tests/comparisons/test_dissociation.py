"""The dissociation table, row by row and column by column, and the planted controls."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rankscope.comparisons.cka import cka
from rankscope.comparisons.drift import drift, drift_mean_share
from rankscope.comparisons.procrustes import procrustes
from rankscope.comparisons.recoverability import recoverability
from rankscope.comparisons.subspace import variance_captured
from rankscope.errors import UnknownName, UsageError
from rankscope.linalg.moments import PairMoments
from rankscope.selftest.planted import CONTROLS, DISSOCIATION, SCENARIOS, Planted, plant

TOLERANCE = {
    "entropy-rank": (0.04, 0.15),
    "participation-ratio": (0.09, 0.05),
    "variance-captured": (0.0, 0.012),
    "cka": (0.0, 0.035),
    "procrustes": (0.0, 0.02),
    "recoverability": (0.0, 0.015),
}
"""Relative and absolute: the table is of one draw, and so is what is measured here."""


def unbiased_participation(x: torch.Tensor) -> float:
    """A/B of the U-statistics, written out."""
    n = len(x)
    z = x - x.mean(0)
    s = z.T @ z / (n - 1)
    t1, t2, q = s.trace(), s.square().sum(), z.square().sum(1).square().sum() / (n - 1)
    top = 2 * t2 + (n * n - 3 * n + 1) * t1**2 - n * q
    return float(top / ((n - 1) * (n - 2) * t2 + t1**2 - n * q))


def measured(planted: Planted) -> dict[str, float]:
    x, y = planted
    folds = PairMoments.of(x, y, shift_a=x[0], shift_b=y[0], group=torch.arange(len(x)) % 2, groups=2)
    both = folds.sum()
    values = torch.linalg.eigvalsh(both.b.scatter).clamp(min=0)
    found = recoverability(x, y)
    return {
        "entropy-rank": float(torch.special.entr(values / values.sum()).sum().exp()),
        "participation-ratio": unbiased_participation(y),
        "variance-captured": float(variance_captured(folds[0], folds[1], k=32)),
        "cka": float(cka(both)),
        "procrustes": float(procrustes(both)),
        "recoverable-components": found.count,
        "recoverability": found.weighted,
        "drift": float(drift(both)),
        "drift-mean-share": float(drift_mean_share(both)),
    }


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, float]]:
    return {scenario.name: measured(plant(scenario.name)) for scenario in DISSOCIATION}


def test_the_table_is_recovered_row_by_row(table: dict[str, dict[str, float]]) -> None:
    seen = 0
    for scenario in DISSOCIATION:
        for column, expected in scenario.expected.items():
            value = table[scenario.name][column]
            if column == "recoverable-components":
                assert value == expected, scenario.name
            else:
                rtol, atol = TOLERANCE[column]
                assert abs(value - expected) <= rtol * abs(expected) + atol, (scenario.name, column, value, expected)
            seen += 1
    assert seen == 9 * 7


def test_no_column_separates_all_rows_and_each_is_fooled_as_it_should_be(table: dict[str, dict[str, float]]) -> None:
    base = table["identical"]
    rank = {name: row["entropy-rank"] / base["entropy-rank"] for name, row in table.items()}
    assert rank["invertible reshape"] < 0.05, "rank calls an invertible reshape a collapse"
    assert abs(rank["independent features"] - 1) < 0.03, "and an unrelated model preserved"
    for column in ("variance-captured", "cka"):
        assert table["top-16 collapse"][column] > 0.97, f"{column} calls a true collapse preserved"
    count = {name: row["recoverable-components"] for name, row in table.items()}
    kept = {"identical", "random rotation", "invertible reshape", "whitened", "mean shift"}
    assert {name for name, value in count.items() if value == 256} == kept, "only recoverability orders information"
    lost = ("mean shift", "top-16 collapse", "independent noise added", "rank-1 collapse", "independent features")
    shares = [table[name]["recoverability"] for name in lost]
    assert shares == sorted(shares, reverse=True)
    only_drift = {c for c in base if c != "drift" and abs(table["mean shift"][c] - base[c]) > 0.01 * abs(base[c])}
    assert only_drift == {"drift-mean-share"}, "only drift sees a mean shift"
    assert_close(table["mean shift"]["drift"], 9.0, rtol=0.05, atol=0)


def test_a_rotation_is_seen_by_the_basis_alone(table: dict[str, dict[str, float]]) -> None:
    """Control 9 of the sheet: a random rotation must leave rank, CKA, Procrustes and recoverability unchanged."""
    turned, base = table["random rotation"], table["identical"]
    for column in ("entropy-rank", "participation-ratio", "cka", "procrustes", "recoverability"):
        assert_close(turned[column], base[column], rtol=1e-6, atol=0)
    assert_close(turned["variance-captured"], 32 / 256, rtol=0.2, atol=0)


def test_controls() -> None:
    known = measured(plant("known rank", rows=600, width=64))
    assert_close(known["entropy-rank"], 16.0, rtol=1e-9, atol=0)
    shifted = measured(plant("row shift", rows=600, width=64))
    assert abs(shifted["cka"]) < 0.03
    assert shifted["recoverable-components"] == 0
    padded = plant("duplicated rows", rows=600, width=64)
    assert measured(padded)["cka"] > 0.9
    real = Planted(*(part[:420] for part in padded))
    assert abs(measured(real)["cka"]) < 0.05
    sunk = plant("one sink", rows=1024, width=64)
    assert measured(sunk)["entropy-rank"] < 1.2
    kept = torch.arange(1024) % 128 != 0
    assert_close(measured(Planted(*(part[kept] for part in sunk)))["cka"], 1.0)


def test_planting_is_seeded_and_shares_its_base() -> None:
    a, b, other = (
        plant(n, rows=40, width=20, seed=s) for n, s in (("identical", 1), ("row shift", 1), ("identical", 2))
    )
    assert torch.equal(a.x, b.x)
    assert not torch.equal(a.x, other.x)
    assert len(SCENARIOS) == len(DISSOCIATION) + len(CONTROLS) == 13
    with pytest.raises(
        UnknownName, match="no planted scenario 'nothing'; the scenarios are identical, random rotation"
    ):
        plant("nothing")
    with pytest.raises(UsageError, match="need 16 features and more rows than that; got 16 x 64"):
        plant("identical", rows=16, width=64)
