"""Many sites at once: adjusted p-values and simultaneous bands."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import NotComparable, UsageError
from rankscope.inference.bands import max_t


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_t_is_students() -> None:
    pseudo = draw(20, 5) + 0.4
    found = max_t(pseudo, generator=seeded())
    expected = stats.ttest_1samp(pseudo.numpy(), 0.0)
    assert_close(found.t, torch.tensor(expected.statistic), rtol=1e-10, atol=0)
    assert_close(found.low, found.mean - found.critical * found.se)
    assert found.critical > stats.t.ppf(0.975, 19), "wider than one site alone"


def test_few_groups_are_enumerated() -> None:
    pseudo = draw(7, 3) + 0.5
    found = max_t(pseudo)
    observed = np.abs(stats.ttest_1samp(pseudo.numpy(), 0.0).statistic)
    largest = np.array(
        [
            np.abs(stats.ttest_1samp(pseudo.numpy() * np.array(signs)[:, None], 0.0).statistic).max()
            for signs in product((1, -1), repeat=7)
        ]
    )
    expected = (largest[:, None] >= observed * (1 - 1e-12)).mean(0)
    assert_close(found.p, torch.tensor(expected))
    assert torch.equal(found.p, max_t(pseudo, generator=seeded(5)).p), "nothing is random"


def test_adjusted_p_is_between_one_site_and_bonferroni() -> None:
    common = draw(30, 1)
    pseudo = common + 0.5 * draw(30, 12, seed=1) + 0.45
    found = max_t(pseudo, flips=9999, generator=seeded())
    alone = torch.tensor(stats.ttest_1samp(pseudo.numpy(), 0.0).pvalue)
    assert (found.p >= alone - 0.01).all()
    assert found.p.min() < (12 * alone).clamp(max=1).min(), "dependent sites cost less than Bonferroni takes"


def test_family_error_is_kept_where_single_tests_fail() -> None:
    """40 groups, 12 correlated sites, no difference: .060 with max-T and .430 uncorrected on the sheet."""
    simultaneous = uncorrected = 0
    for seed in range(150):
        pseudo = 0.5 * draw(40, 1, seed=seed) + draw(40, 12, seed=seed + 1000)
        simultaneous += bool(max_t(pseudo, flips=299, generator=seeded(seed)).p.min() <= 0.05)
        uncorrected += bool(stats.ttest_1samp(pseudo.numpy(), 0.0).pvalue.min() <= 0.05)
    assert simultaneous <= 15
    assert uncorrected > 40


@pytest.mark.parametrize("difference", [0.0, 1.0, 8.0])
def test_bands_hold_the_truth_at_all_sites_together_however_large_it_is(difference: float) -> None:
    """Flipping a difference of many deviations with its noise gave bands that held it in three of four families."""
    held = 0
    for seed in range(200):
        found = max_t(draw(20, 12, seed=seed) + difference, flips=299, generator=seeded(seed))
        held += bool(((found.low <= difference) & (difference <= found.high)).all())
    assert held / 200 > 0.95 - 3 * 0.0154


def test_sites_where_nothing_varies_or_nothing_is_known() -> None:
    pseudo = draw(10, 4)
    pseudo[:, 1] = 0
    pseudo[:, 2] = 0.5
    pseudo[:, 3] = torch.nan
    found = max_t(pseudo)
    assert found.p[1] == 1
    assert found.t[1] == 0
    assert found.p[2] < 0.05
    assert found.p[3].isnan()
    assert found.critical > 0
    assert np.isfinite(found.critical)


def test_refusals() -> None:
    with pytest.raises(NotComparable, match="sign flips need at least 6 groups of samples; there are 5"):
        max_t(draw(5, 3))
    with pytest.raises(UsageError, match=r"max-T needs \(G, s\) pseudo-values"):
        max_t(draw(9))
    with pytest.raises(UsageError, match=r"a level in 0..1; got"):
        max_t(draw(9, 2), level=95)


def test_what_lies_within_a_step_is_no_difference() -> None:
    pseudo = draw(20, 2) * 0.1 + torch.tensor([0.8, 2.0])
    plain, stepped = (max_t(pseudo, within=w, generator=seeded()) for w in (None, torch.ones(2)))
    assert plain.p.max() < 0.01
    assert (float(stepped.p[0]), bool(stepped.p[1] < 0.01)) == (1.0, True)
    assert torch.equal(plain.low, stepped.low)
