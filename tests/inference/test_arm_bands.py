"""Bands over sites where samples and trainings both vary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.inference.arm_bands import ArmBands, arm_bands
from rankscope.inference.equivalence import components

SITES, GROUPS = 8, 20


def null(runs: int, seed: int) -> Tensor:
    """Pseudo-values without any change: rows that the sites share for the most part, and seeds of their own."""
    draw = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, GROUPS, 1, generator=draw, dtype=torch.float64)
    rows = shared + 0.5 * torch.randn(1, GROUPS, SITES, generator=draw, dtype=torch.float64)
    seeds = (0.3 if runs > 1 else 0.0) * torch.randn(runs, 1, SITES, generator=draw, dtype=torch.float64)
    return rows + seeds + 0.2 * torch.randn(runs, GROUPS, SITES, generator=draw, dtype=torch.float64)


def found(pseudo: Tensor, *, level: float = 0.95) -> ArmBands:
    c = components(pseudo)
    return arm_bands(c.mean, c.se, c.df, [pseudo], level=level, draws=999)


@pytest.mark.parametrize("runs", [1, 3, 5])
def test_all_sites_together_err_no_more_often_than_stated(runs: int) -> None:
    """300 nulls of 8 sites: five per cent within its Monte-Carlo error (sd 1.3), where single intervals err far more."""
    wrong = 0
    for seed in range(300):
        low, high, p, _ = found(null(runs, seed))
        outside = (low > 0) | (high < 0)
        told = (p - 0.05).abs() > 0.02
        assert torch.equal(outside[told], p[told] < 0.05)
        wrong += bool(outside.any())
    assert wrong / 300 < 0.05 + 3 * 0.0126


def test_a_planted_change_is_found_where_it_is() -> None:
    pseudo = null(4, 3)
    pseudo[..., 2] += 9
    low, high, p, _ = found(pseudo)
    assert low[2] > 0
    assert p[2] < 0.01
    assert ((low < 0) & (high > 0)).sum() >= SITES - 2


def test_a_site_without_a_number_stays_without_and_does_not_count() -> None:
    pseudo = null(3, 1)
    pseudo[..., 5] = torch.nan
    low, high, p, _ = found(pseudo)
    assert low.isnan().tolist() == high.isnan().tolist() == p.isnan().tolist() == [i == 5 for i in range(SITES)]
    nothing = found(torch.full((3, GROUPS, SITES), torch.nan, dtype=torch.float64))
    assert all(x.isnan().all() for x in nothing)


def test_one_site_has_its_own_interval() -> None:
    pseudo = null(3, 2)[..., :1]
    c = components(pseudo)
    low, high, _, _ = found(pseudo)
    assert high - low == pytest.approx(float(2 * 1.0 * c.se * _t(float(c.df))), rel=0.1)


def _t(degrees: float) -> float:
    from scipy import stats

    return float(stats.t.ppf(0.975, degrees))


def test_a_level_outside_its_range_is_refused() -> None:
    with pytest.raises(UsageError, match=r"as in 0\.95; got 1"):
        found(null(3, 0), level=1.0)


def test_what_lies_within_a_step_is_no_difference() -> None:
    """An estimate far from 0 for its error, and within a step of it, has p = 1; its band is as without the step."""
    value, se, df = torch.tensor([0.8, 2.0]), torch.tensor([0.05, 0.05]), torch.tensor([19.0, 19.0])
    parts = [torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(0)).double()]
    plain, stepped = (
        arm_bands(value.double(), se.double(), df.double(), parts, within=within) for within in (0.0, 1.0)
    )
    assert plain.p[0] < 0.01
    assert (float(stepped.p[0]), bool(stepped.p[1] < 0.01)) == (1.0, True)
    assert torch.equal(plain.low, stepped.low)
