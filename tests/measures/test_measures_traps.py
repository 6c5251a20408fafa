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
from rankscope.measures.participation_ratio import naive_participation_ratio, unbiased_participation_ratio
from rankscope.measures.power_law import fit_power_law
from rankscope.measures.pt_peft import paper_ratio
from rankscope.measures.rankme import rankme
from rankscope.measures.sinks import sink_rows, standardised

D, N = 256, 2048


def population(n: int = N, *, alpha: float = 1.0, seed: int = 0, d: int = D) -> Tensor:
    root = torch.arange(1, d + 1) ** (-alpha / 2)
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * root


def spectrum(x: Tensor, *, centre: bool = True) -> Tensor:
    return singular_values(x, centre=centre).values


def unbiased(x: Tensor) -> float:
    return float(unbiased_participation_ratio(Moments.of(x, shift=x[0])))


@pytest.fixture(scope="module")
def clean() -> Tensor:
    return population()


@pytest.fixture(scope="module")
def clean_values(clean: Tensor) -> Tensor:
    return spectrum(clean)


def test_trap_1_more_rows_are_not_more_rank() -> None:
    """One distribution: 376 against 402 and 194 against 238 at n = 1000 and 4000; the unbiased ratio is flat."""
    x = population(4000, d=512)
    few, many = spectrum(x[:1000]), spectrum(x)
    assert float(effective_rank(few)) == pytest.approx(376, abs=4)
    assert float(effective_rank(many)) == pytest.approx(402, abs=4)
    assert float(energy_rank(few)) == pytest.approx(194, abs=5)
    assert float(energy_rank(many)) == pytest.approx(238, abs=5)
    assert unbiased(x[:1000]) == pytest.approx(28.28, rel=0.1)
    assert unbiased(x) == pytest.approx(28.28, rel=0.05)


def test_trap_2_padding_halves_a_rank_and_is_seen(clean: Tensor, clean_values: Tensor) -> None:
    """30 % of padding rows, all one vector, about halve every rank: 112.6 to 61.2 and 27.8 to 12.5 in 512 dimensions."""
    padded = clean.clone()
    padding = torch.randperm(N, generator=torch.Generator().manual_seed(1))[: 3 * N // 10]
    padded[padding] = 2 * clean[0]
    values = spectrum(padded)
    assert float(entropy_rank(values)) < 0.65 * float(entropy_rank(clean_values))
    found = float(naive_participation_ratio(Moments.of(padded, shift=padded[0])))
    assert found < 0.65 * float(naive_participation_ratio(Moments.of(clean, shift=clean[0])))
    assert float(duplicate_share(padded)) == pytest.approx(0.3, abs=1e-3)
    kept = ~duplicate_rows(padded)
    assert float(entropy_rank(spectrum(padded[kept]))) == pytest.approx(float(entropy_rank(clean_values)), rel=0.02)
    assert float(duplicate_share(clean)) == 0
    assert float(duplicate_share(torch.zeros(0, 4))) == 0
    assert duplicate_rows(torch.zeros(3, 0)).tolist() == [False, True, True]


def test_trap_3_a_mean_hides_the_spectrum_and_its_share_is_told(clean: Tensor, clean_values: Tensor) -> None:
    """A mean of three times the typical length: 72 to 2.1 (143 to 2.3 in more dimensions); centring restores it."""
    typical = clean.square().sum(1).mean().sqrt()
    moved = clean + 3 * typical * torch.nn.functional.normalize(
        torch.randn(D, generator=torch.Generator().manual_seed(2)), dim=0
    )
    assert float(entropy_rank(spectrum(moved, centre=False))) == pytest.approx(2.12, abs=0.1)
    assert float(entropy_rank(spectrum(moved))) == pytest.approx(float(entropy_rank(clean_values)), rel=1e-4)
    assert float(mean_share(Moments.of(moved, shift=moved[0]))) == pytest.approx(0.9, abs=0.01)
    assert float(mean_cosine(moved)) == pytest.approx(0.9, abs=0.03)


def test_trap_4_one_sink_row_is_a_rank_of_one(clean: Tensor, clean_values: Tensor) -> None:
    """One row in 128 at +3000 takes 143 to 1.1, three massive dimensions take it to 12; each guard restores it."""
    sunk = clean.clone()
    sunk[::128, 7] += 3000
    assert float(entropy_rank(spectrum(sunk))) < 1.2
    rows = sink_rows(sunk)
    assert rows.nonzero().flatten().tolist() == list(range(0, N, 128))
    assert float(entropy_rank(spectrum(sunk[~rows]))) == pytest.approx(float(entropy_rank(clean_values)), rel=0.01)
    massive = clean.clone()
    massive[:, [9, 99, 200]] += 1500 + 30 * torch.randn(N, 3, generator=torch.Generator().manual_seed(3))
    assert float(entropy_rank(spectrum(massive))) < 12
    plain, tamed = (float(entropy_rank(spectrum(standardised(x)))) for x in (clean, massive))
    assert tamed == pytest.approx(plain, rel=0.01)


def test_trap_5_prefix_rows_are_no_rows_of_the_data(clean: Tensor, clean_values: Tensor) -> None:
    """Twenty fixed rows of a prefix in each prompt of 40 tokens: σ 394 to 230, λ 111 to 38."""
    prefix = 3 * population(20, seed=9, alpha=0.0)
    prompts = clean[: 40 * 50].reshape(50, 40, D)
    with_prefix = torch.cat([prefix.expand(50, 20, D), prompts], 1).reshape(-1, D)
    values = spectrum(with_prefix)
    assert float(effective_rank(values)) < 0.7 * float(effective_rank(clean_values))
    assert float(entropy_rank(values)) < 0.5 * float(entropy_rank(clean_values))
    assert float(duplicate_share(with_prefix)) > 0.3


def test_trap_6_the_last_norm_changes_a_rank(clean: Tensor, clean_values: Tensor) -> None:
    """RMSNorm with a gain takes 112.6 to 46, without it to 127 in 512 dimensions: sites before and after it are not one curve."""
    normed = torch.nn.functional.rms_norm(clean, (D,))
    gain = torch.exp(1.5 * torch.randn(D, generator=torch.Generator().manual_seed(4)))
    before = float(entropy_rank(clean_values))
    assert float(entropy_rank(spectrum(normed))) > before + 2
    assert float(entropy_rank(spectrum(normed * gain))) < 0.7 * before


def test_trap_7_few_rows_make_two_populations_look_alike() -> None:
    """Truth 117 against 56 shows as 63 against 49 at n = 200, d = 512; the unbiased ratio keeps its truth."""
    slow, flat = population(200, d=512), population(200, d=512, alpha=0.0, seed=5)
    flat[:, 56:] = 0
    seen = [float(entropy_rank(spectrum(x))) for x in (slow, flat)]
    assert seen == pytest.approx([63, 49], abs=4)
    assert seen[0] - seen[1] < 0.5 * (117 - 56)
    assert unbiased(slow) == pytest.approx(28.28, rel=0.15)
    assert unbiased(flat) == pytest.approx(56, rel=0.05)


def test_trap_7_a_slope_doubles_at_n_equal_d() -> None:
    values = spectrum(population(512, d=512))[:511]
    assert float(fit_power_law(values, first=1, last=511).exponent) > 1.6
    assert float(fit_power_law(values).exponent) == pytest.approx(1.0, abs=0.09)


def test_trap_8_a_gram_matrix_in_float32_has_lost_the_tail() -> None:
    left, right = torch.linalg.qr(torch.randn(1024, 256).double()).Q, torch.linalg.qr(torch.randn(256, 256).double()).Q
    exact = torch.logspace(0, -6, 256, dtype=torch.float64)
    x = ((left * exact) @ right.mT).float()
    naive = torch.linalg.eigvalsh(x.mT @ x).clamp(min=0).sqrt()
    assert int((naive == 0).sum()) > 20
    assert abs(float(effective_rank(naive) - effective_rank(exact))) > 3e-3
    assert float(effective_rank(singular_values(x).values)) == pytest.approx(float(effective_rank(exact)), rel=1e-6)
    stored = singular_values(x.bfloat16()).values
    assert float(stored[-1] / exact[-1]) > 50  # what no route can mend: bfloat16 has no such tail


def test_trap_14_one_matrix_has_as_many_ranks_as_conventions() -> None:
    """600 × 120 with a mean: RankMe on σ uncentred, σ centred and λ centred differ severalfold."""
    x = population(600, d=120) + 1.2
    found = [
        float(rankme(spectrum(x, centre=False))),
        float(effective_rank(spectrum(x))),
        float(entropy_rank(spectrum(x))),
    ]
    assert found[1] > 2 * found[2] > 2 * found[0] * 1.1 or found[1] > 4 * found[0]
    assert len({round(v) for v in found}) == 3


def test_trap_19_the_ratio_moves_in_steps_that_are_told() -> None:
    """Twenty tokens: steps of 5 points, so that two different populations tie, while their curves differ."""
    sample = torch.arange(40 * 20) // 20
    a, b = (paper_ratio(population(800, alpha=alpha, seed=6, d=64), sample) for alpha in (0.9, 1.1))
    assert a.step == b.step == 5
    assert math.isclose(float(a.value), float(b.value))
    assert float((a.curve - b.curve).abs().max()) > 0.01
