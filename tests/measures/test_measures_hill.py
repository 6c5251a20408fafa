"""The family of Hill numbers: closed forms, order, invariances, limits, and the names that are members of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import singular_values
from rankscope.measures.effective_rank import effective_rank, entropy_rank
from rankscope.measures.energy import crossing, energy_crossing, energy_rank, first_reaching
from rankscope.measures.hill import hill
from rankscope.measures.isoscore import isoscore
from rankscope.measures.numerical_rank import numerical_rank, rank_of_rows, storage_threshold
from rankscope.measures.participation_ratio import naive_participation_ratio, participation_ratio
from rankscope.measures.pt_peft import spectrum_ratio
from rankscope.measures.rankme import rankme
from rankscope.measures.renyi import renyi_entropy
from rankscope.measures.stable_rank import stable_rank


def power_law(d: int, alpha: float) -> Tensor:
    return torch.arange(1, d + 1, dtype=torch.float64) ** (-alpha / 2)


POWER_LAWS = [
    (512, 0.5, 491.7295, 409.5545, 281.6530, 43.8166, (418, 464, 503), 446),
    (512, 1.0, 409.5545, 117.2312, 28.2808, 6.8165, (259, 364, 479), 418),
    (512, 1.5, 260.5851, 16.9481, 5.2999, 2.5240, (34, 87, 310), 364),
    (512, 2.0, 117.2312, 5.0561, 2.4941, 1.6430, (6, 12, 54), 259),
    (4096, 1.0, 3138.5443, 431.1169, 48.1081, 8.8951, (1683, 2626, 3748), 3327),
]


@pytest.mark.parametrize(("d", "alpha", "sigma", "lam", "pr", "stable", "energies", "paper"), POWER_LAWS)
def test_power_laws_have_their_closed_forms(
    d: int, alpha: float, sigma: float, lam: float, pr: float, stable: float, energies: tuple[int, ...], paper: int
) -> None:
    s = power_law(d, alpha)
    found = [float(f(s)) for f in (effective_rank, entropy_rank, participation_ratio, stable_rank)]
    assert found == pytest.approx([sigma, lam, pr, stable], abs=5.001e-5)
    assert tuple(float(energy_rank(s, share)) for share in (0.9, 0.95, 0.99)) == energies
    assert float(spectrum_ratio(s)) == pytest.approx(100 * paper / d)


@pytest.mark.parametrize(
    ("decades", "sigma", "lam", "pr"),
    [(2, 285.16, 150.664, 110.9434), (4, 150.66, 75.411, 55.4871), (6, 100.54, 50.277, 36.9964)],
)
def test_geometric_spectra_have_their_closed_forms(decades: int, sigma: float, lam: float, pr: float) -> None:
    s = torch.logspace(0, -decades, 512, dtype=torch.float64)
    assert float(effective_rank(s)) == pytest.approx(sigma, abs=5.001e-3)
    assert float(entropy_rank(s)) == pytest.approx(lam, abs=5.001e-4)
    assert float(participation_ratio(s)) == pytest.approx(pr, abs=5.001e-5)


def naive_hill(s: Tensor, q: float, base: str) -> float:
    w = [float(v) ** (2 if base == "lambda" else 1) for v in s if v > 0]
    p = [v / math.fsum(w) for v in w]
    if q == 1:
        return math.exp(-math.fsum(v * math.log(v) for v in p))
    return 1 / max(p) if math.isinf(q) else math.fsum(v**q for v in p) ** (1 / (1 - q))


spectra = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))


@given(spectra, st.sampled_from([0.0, 0.3, 1.0, 2.0, 3.7, math.inf]), st.sampled_from(["sigma", "lambda"]))
@settings(max_examples=100, deadline=None)
def test_hill_numbers_are_those_of_the_definition(s: Tensor, q: float, base) -> None:
    assert float(hill(s, q, base=base)) == pytest.approx(naive_hill(s, q, base), rel=1e-10)


@given(spectra, st.floats(1e-100, 1e100))
@settings(max_examples=60, deadline=None)
def test_ranks_are_ordered_and_do_not_change_with_scale_or_order(s: Tensor, scale: float) -> None:
    ladder = [f(s) for f in (stable_rank, participation_ratio, entropy_rank, effective_rank)]
    assert all(a <= b * (1 + 1e-12) for a, b in zip(ladder, [*ladder[1:], hill(s, 0)], strict=True))
    assert ladder[0] >= 1 - 1e-12
    for f in (stable_rank, participation_ratio, entropy_rank, effective_rank, rankme, energy_rank, spectrum_ratio):
        assert_close(f(s * scale), f(s), rtol=1e-12, atol=0)
        assert_close(f(s.flip(0)), f(s), rtol=1e-12, atol=0)


@given(spectra)
@settings(max_examples=40, deadline=None)
def test_the_order_one_is_the_limit_from_both_sides(s: Tensor) -> None:
    at, below, above = hill(s, 1), hill(s, 1 - 1e-9), hill(s, 1 + 1e-9)
    assert_close(below, at, rtol=1e-6, atol=0)
    assert_close(above, at, rtol=1e-6, atol=0)


@pytest.mark.parametrize("k", [1, 7, 37])
def test_orthonormal_rows_have_every_rank_k(k: int, device: torch.device) -> None:
    x = torch.linalg.qr(torch.randn(120, k, dtype=torch.float64, device=device)).Q.mT
    s = singular_values(x).values
    for q in (0, 0.5, 1, 2, 5, math.inf):
        for base in ("sigma", "lambda"):
            assert float(hill(s, q, base=base)) == pytest.approx(k, rel=1e-12)
    assert float(energy_rank(s, 1.0)) == k
    assert float(numerical_rank(s)) == k


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_of_rank_one_has_every_rank_one(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.outer(torch.randn(300).double(), torch.randn(200).double()).to(device, dtype)
    s = singular_values(x).values
    for f in (stable_rank, participation_ratio, entropy_rank, energy_rank):
        assert float(f(s)) == pytest.approx(1, rel=1e-6)
    assert float(effective_rank(s)) == pytest.approx(1, rel=2e-4 if dtype == torch.float32 else 1e-6)


ALL = (
    effective_rank,
    entropy_rank,
    participation_ratio,
    stable_rank,
    rankme,
    energy_rank,
    spectrum_ratio,
    numerical_rank,
)


@pytest.mark.parametrize("function", ALL)
def test_limits_and_batches(function, device: torch.device) -> None:
    assert function(torch.zeros(3, 5, device=device)).tolist() == [0.0] * 3
    assert function(torch.zeros(2, 0, device=device)).tolist() == [0.0] * 2
    assert function(torch.zeros(0, 5, device=device)).shape == (0,)
    s = torch.rand(2, 3, 7, device=device)
    batch = function(s)
    assert batch.dtype == torch.float64
    assert batch.shape == (2, 3)
    assert_close(batch[1, 2], function(s[1, 2]), rtol=1e-13, atol=0)
    assert function(s.bfloat16()).dtype == torch.float64


@pytest.mark.parametrize("function", ALL)
def test_a_spectrum_that_is_not_known_has_no_rank(function) -> None:
    s = torch.tensor([[2.0, 1.0], [1.0, math.nan]])
    assert function(s).isnan().tolist() == [False, True]


def test_zeros_beside_values_change_nothing_but_rankme_and_the_ratio() -> None:
    s = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    padded = torch.cat([s, torch.zeros(9)])
    for f in (effective_rank, entropy_rank, participation_ratio, stable_rank, energy_rank):
        assert_close(f(padded), f(s), rtol=1e-13, atol=0)
    assert spectrum_ratio(padded) < spectrum_ratio(s)
    assert rankme(padded) > rankme(s)  # its epsilon counts every zero


def test_rankme_keeps_the_published_epsilon() -> None:
    s = power_law(512, 1.0)
    p = s / s.sum() + 1e-7
    assert_close(rankme(s), (-(p * p.log()).sum()).exp(), rtol=1e-13, atol=0)
    assert abs(float(rankme(s) - effective_rank(s))) > 0.05


def test_renyi_two_needs_no_eigenvalues() -> None:
    x = torch.randn(50, 8, dtype=torch.float64)
    gram = x.mT @ x
    gram = gram / gram.trace()
    assert_close(renyi_entropy(singular_values(x).values, 2), -gram.square().sum().log(), rtol=1e-12, atol=0)
    assert renyi_entropy(torch.zeros(3), 1) == -math.inf


def test_isoscore_and_nesum_are_their_identities() -> None:
    x = torch.randn(60, 9, dtype=torch.float64) * torch.arange(1, 10)
    moments = Moments.of(x, shift=x[0])
    s = singular_values(x, centre=True).values
    assert_close(isoscore(moments)[0], (participation_ratio(s) - 1) / 8, rtol=1e-11, atol=0)
    assert_close(naive_participation_ratio(moments)[0], participation_ratio(s), rtol=1e-11, atol=0)
    assert_close(stable_rank(s), s.square().sum() / s[0].square(), rtol=1e-13, atol=0)
    assert isoscore(moments, unbiased=True) > isoscore(moments)
    assert isoscore(Moments.of(torch.ones(5, 3), shift=torch.ones(3))).tolist() == [0.0]
    assert isoscore(Moments.of(torch.randn(5, 1), shift=torch.zeros(1))).tolist() == [1.0]


def test_isoscore_is_its_authors_package() -> None:
    """Frozen from IsoScore 2.0.1, which computes in float32, on these data."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 40)) * np.arange(1, 41.0) ** -0.5)
    assert float(isoscore(Moments.of(x, shift=x[0]))) == pytest.approx(0.24391946749601612, abs=1e-7)


def test_a_share_that_rounding_just_misses_is_reached() -> None:
    assert first_reaching(torch.ones(10), 0.9) == 9
    plainly = 0
    for r in range(10, 400, 10):
        equal = torch.full((r,), 1 / 7, dtype=torch.float64)
        assert first_reaching(equal, 0.9) == round(0.9 * r)
        plainly += int((equal.cumsum(0) < 0.9 * equal.sum()).sum() + 1 != round(0.9 * r))
    assert plainly > 0  # the negative control: the plain comparison is one off now and then
    assert first_reaching(torch.tensor([0.9 - 1e-9, 0.1 + 1e-9]), 0.9) == 2  # a shortfall that is none of rounding


@given(spectra, st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)
def test_a_crossing_is_what_a_rank_rounds_up(s: Tensor, share: float) -> None:
    k, at = float(first_reaching(s, share)), float(crossing(s, share))
    assert k - 1 - 1e-9 <= at <= k + 1e-9
    assert float(energy_crossing(s, share)) <= float(energy_rank(s, share)) + 1e-9
    sums = torch.cat([torch.zeros(1), s.sort(descending=True).values.cumsum(0)])
    assert np.interp(at, range(len(sums)), (sums / sums[-1]).numpy()) == pytest.approx(share, rel=1e-9)


def test_nothing_crosses_nothing() -> None:
    assert crossing(torch.zeros(2, 0), 0.9).tolist() == [0, 0]
    assert energy_crossing(torch.zeros(2, 5)).tolist() == [0, 0]


def test_the_numerical_rank_does_not_count_rounding(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((400, 6), (6, 96))]
    x = (factors[0] @ factors[1]).to(device)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert float(rank_of_rows(x.to(dtype), torch.arange(400))) == 6
    stored = x.bfloat16()
    s = singular_values(stored, centre=True).values
    assert float(numerical_rank(s)) == 96  # the negative control: LAPACK's threshold counts the rounding of bfloat16
    assert float(rank_of_rows(torch.zeros(4, 3))) == 0
    assert storage_threshold(torch.zeros(0, 3)) == 0
    assert storage_threshold(stored) > 1000 * storage_threshold(x.float())
    assert numerical_rank(torch.tensor([3.0, 2.0, 1.0]), threshold=1.5) == 2


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 0; got -1"):
        hill(torch.ones(3), -1)
    with pytest.raises(UsageError, match="at least 0; got nan"):
        hill(torch.ones(3), math.nan)
    with pytest.raises(UsageError, match="'sigma' or 'lambda'; got 's'"):
        hill(torch.ones(3), 1, base="s")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"above 0 and up to 1; got 1\.5"):
        energy_rank(torch.ones(3), 1.5)
