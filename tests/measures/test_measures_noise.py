"""The noise law, its edge and its spikes; optimal thresholds; parallel analysis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from noise_law import expectation, gaussian_hill, gaussian_ratio, spike_eigenvalue, spike_overlap, upper_edge
from scipy.integrate import quad
from torch import Tensor

from rankscope.errors import UsageError
from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import singular_values
from rankscope.measures import gavish_donoho as gd, marchenko_pastur as mp
from rankscope.measures.effective_rank import effective_rank, entropy_rank
from rankscope.measures.parallel_analysis import parallel_analysis, parallel_analysis_of_rows
from rankscope.measures.participation_ratio import participation_ratio
from rankscope.measures.pt_peft import spectrum_ratio
from rankscope.measures.stable_rank import stable_rank

TABLE = [
    (8000, 200, 199.37, 197.52, 195.10, 149.12),
    (4000, 400, 394.85, 380.49, 363.55, 230.89),
    (2000, 1000, 926.05, 778.80, 666.45, 343.15),
    (1000, 1000, 805.04, 606.53, 499.75, 250.00),
    (500, 1000, 463.03, 389.40, 333.11, 171.57),
    (250, 1000, 241.56, 220.62, 199.84, 111.11),
]


@pytest.mark.parametrize(("n", "d", "sigma", "lam", "pr", "stable"), TABLE)
def test_isotropic_noise_has_its_closed_forms(
    n: int, d: int, sigma: float, lam: float, pr: float, stable: float
) -> None:
    k, larger = min(n, d), max(n, d)
    assert gaussian_hill(n, d, 1, base="sigma") == pytest.approx(sigma, abs=5.1e-3)
    assert gaussian_hill(n, d, 1) == pytest.approx(k * math.exp(-k / (2 * larger)), rel=1e-6)
    assert gaussian_hill(n, d, 1) == pytest.approx(lam, abs=5.1e-3)
    assert gaussian_hill(n, d, 2) == pytest.approx(pr, rel=1e-3)
    assert gaussian_hill(n, d, math.inf) == pytest.approx(stable, abs=5.1e-3)
    assert gaussian_hill(n, d, 0) == k


@pytest.mark.parametrize(("n", "d", "sigma", "lam", "pr", "stable"), TABLE)
def test_simulated_noise_meets_them(n: int, d: int, sigma: float, lam: float, pr: float, stable: float) -> None:
    generator, draws = torch.Generator().manual_seed(n), 4 if n * d <= 500_000 else 1
    s = singular_values(torch.randn(draws, n, d, generator=generator)).values
    assert float(effective_rank(s).mean()) == pytest.approx(sigma, rel=2e-3)
    assert float(entropy_rank(s).mean()) == pytest.approx(lam, rel=2e-3)
    assert float(participation_ratio(s).mean()) == pytest.approx(pr, rel=2e-3)
    assert float(stable_rank(s).mean()) == pytest.approx(stable, rel=2.5e-2)


def test_a_square_gaussian_has_its_known_constant() -> None:
    constant = math.exp(-(2 * math.log(2) - 4 / 3 - math.log(8 / (3 * math.pi))))
    assert constant == pytest.approx(0.805041, abs=1e-6)
    assert gaussian_hill(700, 700, 1, base="sigma") / 700 == pytest.approx(constant, rel=1e-7)


@pytest.mark.parametrize("beta", [0.1, 0.4, 0.9])
def test_the_law_is_its_density(beta: float) -> None:
    low, high = (1 - beta**0.5) ** 2, (1 + beta**0.5) ** 2

    def density(x: float) -> float:
        return math.sqrt((high - x) * (x - low)) / (2 * math.pi * beta * x)

    assert expectation(torch.ones_like, beta) == pytest.approx(1)
    assert expectation(lambda x: x**1.7, beta) == pytest.approx(
        quad(lambda x: x**1.7 * density(x), low, high)[0], rel=1e-7
    )
    assert quad(density, low, mp.median(beta))[0] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(("beta", "median"), [(1, 0.652776), (0.5, 0.830466), (0.4, 0.864890), (0.25, 0.916004)])
def test_medians_are_the_published_ones(beta: float, median: float) -> None:
    assert mp.median(beta) == pytest.approx(median, abs=1e-6)


def test_thresholds_are_the_published_ones() -> None:
    assert gd.known_noise_coefficient(1) == pytest.approx(4 / math.sqrt(3), rel=1e-12)
    assert gd.unknown_noise_coefficient(1) == pytest.approx(2.858362, abs=1e-6)


@pytest.mark.parametrize(
    ("spike", "value", "overlap"),
    [(20, 20.526, 0.973), (8, 8.571, 0.924), (4, 4.667, 0.810), (2.5, 3.333, 0.583), (1.9, 2.956, 0.246)],
)
def test_spikes_show_where_theory_says(spike: float, value: float, overlap: float) -> None:
    assert spike_eigenvalue(spike, 2000, 1000) == pytest.approx(value, abs=5.1e-4)
    assert spike_overlap(spike, 2000, 1000) == pytest.approx(overlap, abs=5.1e-4)


def test_spikes_below_the_edge_hide_in_it() -> None:
    assert spike_overlap(1.7, 2000, 1000) == 0
    assert spike_eigenvalue(1.7, 2000, 1000) == upper_edge(2000, 1000)


def test_simulated_spikes_meet_theory(device: torch.device) -> None:
    n, d, spikes, draws = 600, 300, (20, 8, 4), 4
    scale = torch.ones(d)
    scale[:3] = torch.tensor(spikes).sqrt()
    x = (torch.randn(draws, n, d, generator=torch.Generator().manual_seed(0)) * scale).double().to(device)
    values, vectors = torch.linalg.eigh(x.mT @ x / n)
    for i, spike in enumerate(spikes):
        assert float(values[:, -1 - i].mean()) == pytest.approx(spike_eigenvalue(spike, n, d), rel=0.05)
        overlap = vectors[:, i, -1 - i].square().mean()
        assert float(overlap) == pytest.approx(spike_overlap(spike, n, d), abs=0.05)


@pytest.mark.parametrize(
    ("beta", "sigma", "energy"),
    [
        (0.01, 0.891, 0.882),
        (0.05, 0.879, 0.854),
        (0.1, 0.868, 0.828),
        (0.25, 0.841, 0.761),
        (0.5, 0.795, 0.664),
        (0.75, 0.741, 0.580),
        (0.9, 0.703, 0.536),
        (1.0, 0.672, 0.510),
    ],
)
def test_the_ratio_of_noise_is_the_quadrature(beta: float, sigma: float, energy: float) -> None:
    n = round(1000 * beta)
    assert gaussian_ratio(n, 1000) == pytest.approx(sigma, abs=5.1e-4)
    assert gaussian_ratio(1000, n) == gaussian_ratio(n, 1000)
    assert gaussian_ratio(n, 1000, power=2) == pytest.approx(energy, abs=5.1e-4)


@pytest.mark.parametrize(("length", "d", "percent"), [(768, 768, 67.2), (512, 768, 76.2), (128, 3072, 88.3)])
def test_noise_of_the_papers_shapes_scores_what_is_known(length: int, d: int, percent: float) -> None:
    assert 100 * gaussian_ratio(length, d) == pytest.approx(percent, abs=100 / min(length, d))


def test_simulated_noise_meets_the_ratio_of_theory() -> None:
    for length, d in ((128, 3072), (200, 200)):
        noise = spectrum_ratio(singular_values(torch.randn(length, d)).values)
        assert float(noise) == pytest.approx(100 * gaussian_ratio(length, d), abs=200 / length)


def five_components() -> Tensor:
    rng = np.random.default_rng(6)
    return torch.from_numpy(
        2 * rng.standard_normal((200, 5)) @ rng.standard_normal((5, 80)) + rng.standard_normal((200, 80))
    )


def test_three_rules_count_five_strong_components() -> None:
    """The package optht 0.2.0 gave 5 for the uncentred matrix, noise unknown."""
    x = five_components()
    s = singular_values(x).values
    assert float(gd.gavish_donoho_rank(s, 200, 80)) == 5
    assert float(gd.gavish_donoho_rank(s, 200, 80, noise=1.0)) == 5
    assert float(gd.gavish_donoho(Moments.of(x, shift=x[0]))) == 5
    assert float(mp.mp_reference(Moments.of(x, shift=x[0]))) == 5
    assert float(parallel_analysis(x)) == 5


def test_known_noise_on_a_long_matrix_is_scaled_by_its_longer_side() -> None:
    """optht 0.2.0 scales by the shorter one and counts dozens."""
    s = singular_values(five_components()).values
    wrong = gd.known_noise_coefficient(0.4) * math.sqrt(80)
    assert int((s > wrong).sum()) > 20


def test_denoising_is_stricter_than_detection() -> None:
    n, d = 1200, 300
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
    for i, spike in enumerate((30, 15, 8, 1.9, 1.8)):
        x[:, i] *= spike**0.5
    moments = Moments.of(x, shift=torch.zeros(d))
    assert float(gd.gavish_donoho(moments)) == 3
    assert float(mp.mp_reference(moments)) > 3


def test_rules_are_batched_over_replicates() -> None:
    x = five_components()
    groups = Moments.of(x, shift=x[0], group=torch.arange(200) % 4, groups=4)
    for rule in (gd.gavish_donoho, mp.mp_reference):
        assert rule(groups.sum(0) - groups).tolist() == [5.0] * 4


def test_noise_has_no_components(device: torch.device) -> None:
    x = torch.randn(300, 40, generator=torch.Generator().manual_seed(2)).to(device)
    assert float(parallel_analysis(x)) <= 1
    assert float(gd.gavish_donoho(Moments.of(x, shift=x[0]))) == 0
    x[:, 3] *= 1000  # a massive dimension stays in the null of permutations, and is none of its components
    assert float(parallel_analysis(x)) <= 1


def test_rows_of_one_sample_are_permuted_among_themselves() -> None:
    generator = torch.Generator().manual_seed(3)
    sample = torch.arange(20).repeat_interleave(10)
    level = torch.randn(20, 6, generator=generator).repeat_interleave(10, 0)
    x = level @ torch.randn(6, 30, generator=generator) + 0.3 * torch.randn(200, 30, generator=generator)
    order = torch.randperm(200, generator=generator)
    within = parallel_analysis_of_rows(x[order], sample[order])
    assert float(within) < float(parallel_analysis(x[order]))
    assert float(within) == 0  # all components lie between samples, and the null keeps those
    assert float(parallel_analysis_of_rows(x, torch.arange(200))) == float(parallel_analysis(x))


def test_a_permutation_keeps_every_column_within_its_strata() -> None:
    from rankscope.measures.parallel_analysis import _shuffled

    x = torch.arange(24.0).reshape(8, 3)
    strata = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0])
    shuffled = _shuffled(x, strata, torch.Generator().manual_seed(0))
    for g in (0, 1):
        assert torch.equal(shuffled[strata == g].sort(0).values, x[strata == g].sort(0).values)
    assert not torch.equal(shuffled, x)


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one row and one column; got 0 × 5"):
        gd.gavish_donoho_rank(torch.ones(1), 0, 5)
    with pytest.raises(UsageError, match="at least 1 draw"):
        parallel_analysis(torch.randn(9, 3), draws=0)
