"""Power laws of spectra and of weights, with their windows.

Values frozen from independent packages, each run once on the data made here: reptrix 0.1.0 ``get_alpha`` (its default
window, ranks 11 to 100, weights 1/rank), weightwatcher 0.7.7 ``WWFit`` and powerlaw 2.0.0 ``Fit`` with
``parameter_ranges={"alpha": [1, 20]}`` (its default caps α at 3).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import linregress
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import DataError, UsageError
from rankscope.linalg.svd import singular_values
from rankscope.measures.elbow import broken_stick, kaiser, spectral_gap
from rankscope.measures.energy import energy_rank
from rankscope.measures.power_law import DEFINITIONS, fit_power_law
from rankscope.weights.weight_alpha import weight_alpha


def power_law(d: int, alpha: float) -> Tensor:
    return torch.arange(1, d + 1, dtype=torch.float64) ** (-alpha / 2)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0])
def test_an_exact_power_law_has_its_exponent_in_every_window(alpha: float) -> None:
    s = power_law(512, alpha)
    assert float(alpha_req(s)) == pytest.approx(alpha, rel=1e-12)
    for first, last in ((1, 512), (11, 100), (200, 300)):
        fit = fit_power_law(s, first=first, last=last)
        assert float(fit.exponent) == pytest.approx(alpha, rel=1e-11)
        assert float(fit.r_squared) == pytest.approx(1, rel=1e-10)
        assert (fit.first, fit.last) == (first, last)


def alpha_req(s: Tensor, *, first: int = 4) -> Tensor:
    return fit_power_law(s, first=first, weighting="rank").exponent


def naive_alpha(s: Tensor) -> float:
    """The authors' regression: ranks 4 to 100, weights 1/rank, by the normal equations."""
    rank = np.arange(4, 101)
    y = np.log(s.numpy()[3:100] ** 2)
    x = np.stack([-np.log(rank), np.ones(len(rank))], 1)
    w = (1 / rank)[:, None]
    return float(np.linalg.solve(x.T @ (w * x), (w * x).T @ y)[0])


def test_the_share_explained_is_scipys() -> None:
    s = torch.rand(130, dtype=torch.float64).sort(descending=True).values
    fit = linregress(np.log(np.arange(11, 101)), np.log(s.numpy()[10:100] ** 2))
    shares = {d.name: d.function for d in DEFINITIONS if d.name.endswith("-r2")}
    assert float(shares["power-law-11-100-r2"](s)) == pytest.approx(fit.rvalue**2, rel=1e-10)
    assert_close(shares["alpha-req-r2"](s), fit_power_law(s, first=4, weighting="rank").r_squared)
    assert len(shares) == 2


def test_alpha_req_is_the_authors_regression() -> None:
    s = singular_values(torch.randn(600, 150, dtype=torch.float64) * power_law(150, 1.0), centre=True).values
    assert float(alpha_req(s)) == pytest.approx(naive_alpha(s), rel=1e-11)
    assert abs(float(alpha_req(s) - fit_power_law(s).exponent)) > 1e-3  # the window is part of the name


def test_the_later_window_is_reptrix() -> None:
    y = torch.from_numpy(np.random.default_rng(7).standard_normal((600, 150)) * np.arange(1, 151.0) ** -0.5)
    s = singular_values(y, centre=True).values
    assert float(alpha_req(s, first=11)) == pytest.approx(1.0468813529644925, rel=1e-9)


def test_a_fit_does_not_change_with_scale_and_is_batched(device: torch.device) -> None:
    s = torch.rand(2, 3, 120, dtype=torch.float64, device=device).sort(-1, descending=True).values
    fit = fit_power_law(s)
    assert fit.exponent.shape == (2, 3)
    assert_close(fit_power_law(7e-5 * s).exponent, fit.exponent, rtol=1e-9, atol=0)
    assert_close(fit_power_law(s[1, 2]).exponent, fit.exponent[1, 2], rtol=1e-12, atol=0)


def test_short_and_zero_spectra_have_no_exponent() -> None:
    assert alpha_req(torch.ones(4)).isnan()
    assert alpha_req(torch.zeros(200)).isnan()
    assert alpha_req(torch.zeros(0, 200)).shape == (0,)
    s = power_law(60, 1.0)
    fit = fit_power_law(torch.cat([s, torch.zeros(60)]))
    assert (float(fit.exponent), fit.last) == (pytest.approx(1), 100)
    with pytest.raises(UsageError, match="got 5 to 5"):
        fit_power_law(s, first=5, last=5)


@pytest.mark.parametrize(("a", "alpha"), [(0.5, 3.0047), (1.0, 2.0024), (2.0, 1.5012)])
def test_a_decay_over_ranks_is_a_density_over_values(a: float, alpha: float) -> None:
    values = torch.arange(1, 2001, dtype=torch.float64) ** -a
    m = len(values)
    mle = 1 + m / float((values / values[-1]).log().sum())
    assert mle == pytest.approx(alpha, abs=5.1e-5)
    assert weight_alpha(values.sqrt()).alpha == pytest.approx(1 + 1 / a, rel=0.03)


def test_a_weights_tail_is_weightwatchers() -> None:
    e = (1 / np.random.default_rng(3).random(500)) ** (1 / 4.0)
    tail = weight_alpha(torch.from_numpy(e).sqrt())
    assert tail.alpha == pytest.approx(5.086033101518797, rel=1e-12)
    assert tail.x_min == pytest.approx(1.0089947962854682, rel=1e-14)
    assert tail.distance == pytest.approx(0.020668463730493136, rel=1e-9)
    assert tail.error == pytest.approx(0.18440009248193692, rel=1e-12)
    w = torch.from_numpy(np.random.default_rng(5).standard_t(3, size=(300, 200)))
    tail = weight_alpha(singular_values(w).values)
    assert tail.alpha == pytest.approx(4.499168097942319, rel=1e-9)
    assert tail.members == 20
    assert tail.error == pytest.approx(0.7824377731697667, rel=1e-8)


def test_few_or_equal_eigenvalues_have_no_tail() -> None:
    with pytest.raises(DataError, match="at least 50 eigenvalues above zero; the matrix has 8"):
        weight_alpha(torch.cat([torch.rand(8) + 1, torch.zeros(92)]))
    with pytest.raises(DataError, match="all 60 eigenvalues are equal"):
        weight_alpha(torch.ones(60))


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_rules_of_thumb_are_those_of_scikit_dimension(alpha: float) -> None:
    import skdim

    x = np.random.default_rng(0).standard_normal((300, 40)) * np.arange(1, 41.0) ** (-alpha / 2)
    s = singular_values(torch.from_numpy(x), centre=True).values
    for version, options, mine in (
        ("Kaiser", {}, kaiser(s)),
        ("broken_stick", {}, broken_stick(s)),
        ("maxgap", {}, spectral_gap(s)),
        ("ratio", {"alphaRatio": 0.9}, energy_rank(s, 0.9)),
    ):
        assert skdim.id.lPCA(ver=version, **options).fit(x).dimension_ == float(mine)


def test_rules_of_thumb_find_a_planted_elbow() -> None:
    s = torch.cat([torch.tensor([9.0, 8.0, 7.0]), torch.linspace(1, 0.9, 40)])
    assert [float(f(s)) for f in (spectral_gap, broken_stick, kaiser)] == [3, 3, 3]
    for rule in (spectral_gap, broken_stick, kaiser):
        assert rule(torch.zeros(2, 5)).tolist() == [0, 0]
        assert rule(torch.zeros(2, 0)).tolist() == [0, 0]
        assert rule(torch.stack([s, s])).tolist() == [3, 3]
    assert float(spectral_gap(torch.tensor([2.0, 1.0, 0.0]))) == 1  # a fall to zero is no ratio
