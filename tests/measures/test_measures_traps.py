"""The traps that lie on the side of one run: the naive way is wrong by the stated size, and the guard is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import singular_values
from rankscope.measures.anisotropy import mean_cosine
from rankscope.measures.duplicates import duplicate_rows, duplicate_share
from rankscope.measures.effective_rank import effective_rank, entropy_rank
from rankscope.measures.energy import energy_rank
from rankscope.measures.mean_share import mean_share
from rankscope.measures.participation_ratio import (
    naive_participation_ratio,
    participation_ratio,
    unbiased_participation_ratio,
)
from rankscope.measures.power_law import fit_power_law
from rankscope.measures.pt_peft import curves_of_samples, ratio_of_curve
from rankscope.measures.rankme import rankme
from rankscope.measures.sinks import sink_rows, standardised

D, N = 512, 4096


def population(n: int = N, *, alpha: float = 1.0, seed: int = 0, d: int = D) -> Tensor:
    root = torch.arange(1, d + 1) ** (-alpha / 2)
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * root


def spectrum(x: Tensor, *, centre: bool = True) -> Tensor:
    return singular_values(x, centre=centre).values


def unbiased(x: Tensor) -> float:
    return float(unbiased_participation_ratio(Moments.of(x, shift=x[0])))


def naive(x: Tensor) -> float:
    return float(naive_participation_ratio(Moments.of(x, shift=x[0])))


def direction(d: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(d, generator=torch.Generator().manual_seed(seed)), dim=0)


def typical(x: Tensor) -> Tensor:
    """The typical length of a row."""
    return x.square().sum(1).mean().sqrt()


@pytest.fixture(scope="module")
def clean() -> Tensor:
    return population()


@pytest.fixture(scope="module")
def wide() -> Tensor:
    """768 features of mean variance one."""
    x = population(d=768)
    return x * (768 / float((1 / torch.arange(1, 769)).sum())) ** 0.5


def test_trap_1_more_rows_are_not_more_rank() -> None:
    """One distribution: 376 against 402 and 194 against 238 at n = 1000 and 4000; the unbiased ratio is flat."""
    x = population(4000)
    few, many = spectrum(x[:1000]), spectrum(x)
    assert float(effective_rank(few)) == pytest.approx(376, abs=4)
    assert float(effective_rank(many)) == pytest.approx(402, abs=4)
    assert float(energy_rank(few)) == pytest.approx(194, abs=5)
    assert float(energy_rank(many)) == pytest.approx(238, abs=5)
    assert unbiased(x[:1000]) == pytest.approx(28.28, rel=0.1)
    assert unbiased(x) == pytest.approx(28.28, rel=0.05)


def test_trap_2_padding_halves_a_rank_and_is_seen(clean: Tensor) -> None:
    """30 % of padding rows, all one vector: 112.6 to 61.2 and 27.8 to 12.5."""
    padded = clean.clone()
    padding = torch.randperm(N, generator=torch.Generator().manual_seed(1))[: 3 * N // 10]
    padded[padding] = typical(clean) * direction(D, 5)
    before = float(entropy_rank(spectrum(clean)))
    assert before == pytest.approx(112.6, abs=1)
    assert float(entropy_rank(spectrum(padded))) == pytest.approx(61.2, abs=4)
    assert naive(clean) == pytest.approx(27.8, abs=0.6)
    assert naive(padded) == pytest.approx(12.5, abs=1)
    assert float(duplicate_share(padded)) == pytest.approx(0.3, abs=1e-3)
    kept = ~duplicate_rows(padded)
    assert float(entropy_rank(spectrum(padded[kept]))) == pytest.approx(before, rel=0.02)
    assert float(duplicate_share(clean)) == 0
    assert float(duplicate_share(torch.zeros(0, 4))) == 0
    assert duplicate_rows(torch.zeros(3, 0)).tolist() == [False, True, True]


def test_trap_3_a_mean_hides_the_spectrum_and_its_share_is_told(wide: Tensor) -> None:
    """A mean of three times the typical length: 143 to 2.26 and PR 31 to 1.23; centring restores both."""
    moved = wide + 3 * typical(wide) * direction(768, 2)
    uncentred, before = spectrum(moved, centre=False), spectrum(wide)
    assert float(entropy_rank(before)) == pytest.approx(143, abs=1)
    assert float(entropy_rank(uncentred)) == pytest.approx(2.26, abs=0.02)
    assert float(participation_ratio(uncentred)) == pytest.approx(1.23, abs=0.01)
    for rank in (entropy_rank, participation_ratio):
        assert float(rank(spectrum(moved))) == pytest.approx(float(rank(before)), rel=1e-4)
    assert float(mean_share(Moments.of(moved, shift=moved[0]))) == pytest.approx(0.9, abs=0.01)
    assert float(mean_cosine(moved)) == pytest.approx(0.9, abs=0.03)


def test_trap_4_one_sink_row_is_a_rank_of_one(wide: Tensor) -> None:
    """One row in 128 at +3000: λ 143 to 1.12, σ 590 to 137; three massive dimensions: 143 to 11.9. Guards restore it."""
    sunk, before = wide.clone(), spectrum(wide)
    sunk[::128, 7] += 3000
    assert float(entropy_rank(spectrum(sunk))) == pytest.approx(1.12, abs=0.01)
    assert float(effective_rank(before)) == pytest.approx(590, abs=1)
    assert float(effective_rank(spectrum(sunk))) == pytest.approx(137, abs=2)
    rows = sink_rows(sunk)
    assert rows.nonzero().flatten().tolist() == list(range(0, N, 128))
    assert float(entropy_rank(spectrum(sunk[~rows]))) == pytest.approx(float(entropy_rank(before)), rel=0.01)
    massive = wide.clone()
    massive[:, [9, 99, 700]] = 1500 + 30 * torch.randn(N, 3, generator=torch.Generator().manual_seed(3))
    assert float(entropy_rank(spectrum(massive))) == pytest.approx(11.9, abs=0.2)
    plain, tamed = (float(entropy_rank(spectrum(standardised(x)))) for x in (wide, massive))
    assert tamed == pytest.approx(plain, rel=0.01)


def test_trap_5_prefix_rows_are_no_rows_of_the_data() -> None:
    """Twenty fixed rows of a prefix in each prompt of 32 tokens: σ 394 to 230, λ 111 to 38."""
    x = population(64 * 32)
    prefix = 3 * typical(x) / D**0.5 * population(20, seed=9, alpha=0.0)
    with_prefix = torch.cat([prefix.expand(64, 20, D), x.reshape(64, 32, D)], 1).reshape(-1, D)
    before, after = spectrum(x), spectrum(with_prefix)
    assert float(effective_rank(before)) == pytest.approx(394, abs=1)
    assert float(entropy_rank(before)) == pytest.approx(111, abs=3)
    assert float(effective_rank(after)) == pytest.approx(230, abs=2)
    assert float(entropy_rank(after)) == pytest.approx(38, abs=1)
    assert float(duplicate_share(with_prefix)) > 0.3


def test_trap_6_the_last_norm_changes_a_rank(clean: Tensor) -> None:
    """RMSNorm takes 112.6 to 127, with a gain to 46: sites before and after it are not one curve."""
    normed = torch.nn.functional.rms_norm(clean, (D,))
    gain = torch.exp(torch.randn(D, generator=torch.Generator().manual_seed(4)))
    assert float(entropy_rank(spectrum(normed))) == pytest.approx(127.4, abs=0.5)
    assert float(entropy_rank(spectrum(normed * gain))) == pytest.approx(45.9, abs=5)


def test_trap_7_few_rows_make_two_populations_look_alike() -> None:
    """Truth 117 against 56 shows as 71 against 49 at n = 200, d = 512; the unbiased ratio keeps its truth."""
    slow, flat = population(200, seed=1), population(200, alpha=0.0, seed=5)
    flat[:, 56:] = 0
    seen = [float(entropy_rank(spectrum(x))) for x in (slow, flat)]
    assert seen == pytest.approx([71, 49], abs=2)
    assert seen[0] - seen[1] < 0.5 * (117 - 56)
    assert unbiased(slow) == pytest.approx(28.28, rel=0.15)
    assert unbiased(flat) == pytest.approx(56, rel=0.05)


def test_trap_7_a_slope_doubles_at_n_equal_d() -> None:
    values = spectrum(population(512))[:511]
    assert float(fit_power_law(values, first=1, last=511).exponent) == pytest.approx(1.94, abs=0.01)
    assert float(fit_power_law(values).exponent) == pytest.approx(1.0, abs=0.09)


def test_trap_8_a_gram_matrix_in_float32_has_lost_the_tail() -> None:
    """4096 × 512 of condition 1e6: 81 to 91 eigenvalues of the float32 Gram matrix are zero; bfloat16 lifts the tail 220-fold."""
    drawn = [torch.randn(n, 512, generator=torch.Generator().manual_seed(n)).double() for n in (4096, 512)]
    left, right = (torch.linalg.qr(x).Q for x in drawn)
    exact = torch.logspace(0, -6, 512, dtype=torch.float64)
    x = ((left * exact) @ right.mT).float()
    values = torch.linalg.eigvalsh(x.mT @ x).clamp(min=0).sqrt()
    assert 75 <= int((values == 0).sum()) <= 100
    assert float(effective_rank(values)) == pytest.approx(100.69, abs=0.03)
    mine = singular_values(x).values
    assert float(effective_rank(mine)) == pytest.approx(float(effective_rank(exact)), rel=1e-6)
    assert float(mine[-1]) == pytest.approx(float(exact[-1]), rel=4e-4)
    stored = singular_values(x.bfloat16()).values  # what no route can mend: bfloat16 has no such tail
    assert float(stored[-1] / exact[-1]) == pytest.approx(220, rel=0.1)
    assert float(effective_rank(stored)) == pytest.approx(101.8, abs=0.1)


def test_trap_14_one_matrix_has_as_many_ranks_as_conventions() -> None:
    """600 × 120 with a mean: 17.6, 97.5 and 41.8 as RankMe, on σ centred and on λ centred."""
    x = population(600, d=120) + 2
    assert float(rankme(spectrum(x, centre=False))) == pytest.approx(17.6, abs=0.1)
    assert float(effective_rank(spectrum(x))) == pytest.approx(97.5, abs=1)
    assert float(entropy_rank(spectrum(x))) == pytest.approx(41.8, abs=1.5)


def test_trap_19_the_ratio_moves_in_steps_that_are_told() -> None:
    """Twenty tokens: steps of 5 points, so that two different populations tie, while their curves differ."""
    sample = torch.arange(40 * 20) // 20
    a, b = (curves_of_samples(population(800, alpha=alpha, seed=6, d=64), sample).mean(0) for alpha in (0.9, 1.1))
    assert len(a) == len(b) == 20
    assert math.isclose(float(ratio_of_curve(a)), float(ratio_of_curve(b)))
    assert float((a - b).abs().max()) > 0.01
