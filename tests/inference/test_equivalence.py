"""Seeds as a level of their own, the retraining floor, and equivalence as a finding."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import NotComparable, UsageError
from rankscope.inference.equivalence import arm_difference, components, equivalence, retraining_floor


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arm(
    runs: int, groups: int, *, seed_sd: float, row_sd: float, own_sd: float = 0.1, mean: float = 0.0, seed: int = 0
) -> Tensor:
    """Pseudo-values with known components; the rows' part is the same for every seed of torch given."""
    rows = row_sd * draw(groups, seed=999)
    return mean + seed_sd * draw(runs, 1, seed=seed) + rows + own_sd * draw(runs, groups, seed=seed + 1)


def test_components_are_separated() -> None:
    found = [components(arm(6, 30, seed_sd=0.5, row_sd=1.0, seed=s)) for s in range(0, 400, 2)]
    seed_variance = torch.stack([f.seed_sd for f in found]).square().mean()
    assert_close(seed_variance.item(), 0.25, rtol=0.12, atol=0)
    expected = (1.0 * draw(30, seed=999)).var() / 30 + 0.01 / 6 / 30
    assert_close(torch.stack([f.sample_se for f in found]).square().mean(), expected, rtol=0.1, atol=0)
    total = torch.stack([f.se for f in found]).square().mean()
    assert_close(total.item(), float(expected + 0.25 / 6), rtol=0.1, atol=0)
    assert all(5 <= f.df < 40 for f in found)


def test_without_seed_noise_it_is_the_jackknife() -> None:
    pseudo = arm(4, 20, seed_sd=0.0, row_sd=1.0, own_sd=0.0)
    found = components(pseudo)
    assert_close(found.se, pseudo[0].std() / 20**0.5)
    assert_close(found.seed_sd.item(), 0.0, rtol=0, atol=1e-12)
    assert_close(found.df.item(), 19.0)


def test_one_run_knows_nothing_of_seeds() -> None:
    found = components(arm(1, 20, seed_sd=0.5, row_sd=1.0))
    assert found.seed_sd.isnan()
    assert found.seed_se.isnan()
    assert found.se == found.sample_se
    assert (found.runs, found.groups) == (1, 20)
    assert components(draw(3, 10, 5)).mean.shape == (5,)


def test_rows_alone_call_seeds_a_difference() -> None:
    """Claims about a method from one run each: the interval of rows excludes no difference most of the time."""
    wrong = {"one run": 0, "five runs": 0}
    for s in range(0, 120):
        a, b = (arm(5, 20, seed_sd=0.5, row_sd=1.0, seed=10 * s + k) for k in (2, 5))
        single, several = arm_difference(a[:1], b[:1]), arm_difference(a, b)
        wrong["one run"] += bool((single.low > 0) | (single.high < 0))
        wrong["five runs"] += bool((several.low > 0) | (several.high < 0))
        assert single.seed_se.isnan()
    assert wrong["one run"] > 90
    assert wrong["five runs"] <= 12


def test_arms_are_paired_on_rows_and_not_on_seeds() -> None:
    a, b = arm(5, 20, seed_sd=0.05, row_sd=5.0, seed=2), arm(3, 20, seed_sd=0.05, row_sd=5.0, mean=1.0, seed=7)
    found = arm_difference(a, b)
    assert found.low < 1 < found.high
    assert found.se < 0.1, "the rows' own spread of 5/√20 is common and drops out"
    assert_close(found.value, b.mean() - a.mean())
    welch = stats.ttest_ind(b.mean(1).numpy(), a.mean(1).numpy(), equal_var=False)
    assert_close(found.seed_se.item(), float((b.mean() - a.mean()) / welch.statistic), rtol=1e-9, atol=0)


def test_the_floor_covers_two_trainings() -> None:
    inside = 0
    for s in range(300):
        values = draw(5 + 2, seed=s)
        inside += bool((values[5] - values[6]).abs() < retraining_floor(values[:5]))
    assert 0.92 < inside / 300 <= 0.98
    with pytest.raises(NotComparable, match="a retraining floor needs at least 3 runs of one recipe; there are 2"):
        retraining_floor(draw(2))


def test_equivalence_is_two_one_sided_tests() -> None:
    x = 0.05 * draw(20) + 0.01
    value, se = x.mean(), x.std() / 20**0.5
    found = equivalence(value, se, 19, margin=0.05)
    lower = stats.ttest_1samp(x.numpy(), -0.05, alternative="greater").pvalue
    upper = stats.ttest_1samp(x.numpy(), 0.05, alternative="less").pvalue
    assert_close(found.p.item(), float(max(lower, upper)), rtol=1e-9, atol=0)
    assert found.equivalent == (found.low > -0.05) & (found.high < 0.05)
    assert found.equivalent


def test_not_significant_is_not_equivalent() -> None:
    noisy = equivalence(torch.tensor(0.0), torch.tensor(1.0), 10, margin=0.5)
    assert not noisy.equivalent, "no difference was found, because nothing could be"
    sharp = equivalence(torch.tensor([0.1, 0.6]), torch.tensor([0.01, 0.01]), 10, margin=0.5)
    assert sharp.equivalent.tolist() == [True, False]
    exact = equivalence(torch.tensor([0.0, 1.0]), torch.zeros(2), 10, margin=0.5)
    assert exact.equivalent.tolist() == [True, False]


def test_the_test_keeps_its_level_at_the_margin() -> None:
    called = 0
    for s in range(400):
        x = draw(15, seed=s) + 1.0
        called += bool(equivalence(x.mean(), x.std() / 15**0.5, 14, margin=1.0).equivalent)
    assert called / 400 < 0.08


def test_refusals() -> None:
    with pytest.raises(NotComparable, match=r"at least 1 run and 2 groups; got shape \(3, 1\)"):
        components(draw(3, 1))
    with pytest.raises(NotComparable, match="same groups of samples; one has 4 and the other 5"):
        arm_difference(draw(2, 4), draw(2, 5))
    with pytest.raises(UsageError, match=r"needs a positive margin and a level between 0.5 and 1"):
        equivalence(torch.tensor(0.0), torch.tensor(1.0), 3, margin=0.0)
