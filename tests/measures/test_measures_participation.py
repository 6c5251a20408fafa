"""Participation ratios: unbiased, streaming, and across samples."""

from __future__ import annotations

import dimensionality
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import DataError
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import singular_values_of
from rankscope.measures.participation_ratio import (
    clustered_participation_ratio,
    naive_participation_ratio,
    participation_ratio,
    unbiased_participation_ratio,
)


def features() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((300, 40)) * np.arange(1, 41.0) ** -0.5)


def moments(x: Tensor) -> Moments:
    return Moments.of(x, shift=x[0])


def test_naive_and_unbiased_are_the_package_of_their_authors() -> None:
    x = features()
    theirs = dimensionality.participation_ratio(x.numpy(), return_all=True)
    assert float(naive_participation_ratio(moments(x))) == pytest.approx(theirs["naive"], rel=1e-9)
    assert float(unbiased_participation_ratio(moments(x))) == pytest.approx(theirs["row"], rel=1e-9)
    assert theirs["both"] > 1.2 * theirs["row"]  # the package's default, which takes the features for a sample too


def naive_u_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """A and B summed over all quadruples of different rows."""
    n, a, b = len(x), 0.0, 0.0
    inner = x @ x.mT
    for i in range(n):
        for j in range(n):
            for k in range(n):
                for m in range(n):
                    if len({i, j, k, m}) == 4:
                        a += (inner[i, i] - inner[i, j]) * (inner[k, k] - inner[k, m])
                        b += inner[i, k] * inner[k, i] - 2 * inner[i, k] * inner[k, j] + inner[i, k] * inner[m, j]
    return torch.as_tensor(a), torch.as_tensor(b)


def test_the_unbiased_ratio_is_the_sum_over_quadruples() -> None:
    x = torch.randn(7, 3, dtype=torch.float64) + 2
    a, b = naive_u_statistics(x)
    assert_close(unbiased_participation_ratio(moments(x))[0], a / b, rtol=1e-9, atol=0)


def test_it_is_flat_in_n_where_the_naive_ratio_is_not() -> None:
    generator = torch.Generator().manual_seed(5)
    root = torch.arange(1, 513, dtype=torch.float64) ** -0.5
    for n, draws in ((64, 24), (256, 4)):
        drawn = [moments(torch.randn(n, 512, generator=generator, dtype=torch.float64) * root) for _ in range(draws)]
        unbiased = sum(float(unbiased_participation_ratio(m)) for m in drawn) / draws
        naive = sum(float(naive_participation_ratio(m)) for m in drawn) / draws
        assert unbiased == pytest.approx(28.28, rel=0.08)
        assert 1 / naive == pytest.approx(1 / 28.28 + 1 / n, rel=0.06)


def test_it_is_unbiased_under_heavy_tails() -> None:
    """Student t with 5 degrees, n = 20, d = 30, which the naive numerator and denominator are far from."""
    draws, n, d = 4000, 20, 30
    rng = np.random.default_rng(1)
    root = np.arange(1, d + 1.0) ** -0.5
    x = torch.from_numpy(rng.standard_t(5, size=(draws, n, d)) / np.sqrt(5 / 3) * root)
    q = x.square().sum(-1)
    third, fourth = (q[..., None] * x).sum(1), q.square().sum(1)
    batch = Moments(torch.full((draws,), float(n)).double(), torch.zeros(d), x.sum(1), x.mT @ x, third, fourth)
    t1 = batch.trace / (n - 1)
    t2 = batch.scatter.square().sum((-2, -1)) / (n - 1) ** 2
    true1, true2 = float((root**2).sum()) ** 2, float((root**4).sum())
    assert float(t2.mean()) / true2 > 1.5
    ratio = unbiased_participation_ratio(batch)
    b = (t1.square() / naive_participation_ratio(batch)).mean()  # the naive B, once more by the library's own route
    assert_close(b, t2.mean(), rtol=1e-9, atol=0)
    scale = (n - 1) / (n * (n - 2) * (n - 3))
    nq = n / (n - 1) * batch.fourth_central
    b_u = scale * ((n - 1) * (n - 2) * t2 + t1.square() - nq)
    assert float(b_u.mean()) / true2 == pytest.approx(1, abs=0.03)
    assert float((ratio * b_u).mean()) / true1 == pytest.approx(1, abs=0.03)


def test_it_does_not_change_with_scale_turn_shift_or_order() -> None:
    x = features()[:50, :12]
    value = unbiased_participation_ratio(moments(x))
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    for other in (x * 1e-3, x @ turn, x + 7, x.flip(0)):
        assert_close(unbiased_participation_ratio(moments(other)), value, rtol=1e-9, atol=0)
    stretched = unbiased_participation_ratio(moments(x * torch.arange(1, 13)))
    assert abs(float(stretched / value) - 1) > 0.1


def test_replicates_are_the_ratios_of_the_remaining_rows(device: torch.device) -> None:
    x, group = features().to(device), torch.arange(300) % 6
    groups = Moments.of(x, shift=x[0], group=group, groups=6)
    replicates = unbiased_participation_ratio(groups.sum(0) - groups)
    for g in range(6):
        assert_close(
            replicates[g], unbiased_participation_ratio(moments(x[(group != g).to(device)]))[0], rtol=1e-11, atol=0
        )


def test_the_naive_ratio_of_moments_is_that_of_their_spectrum() -> None:
    found = moments(features())
    assert_close(
        naive_participation_ratio(found), participation_ratio(singular_values_of(found).values), rtol=1e-11, atol=0
    )


def across_samples(x: Tensor, sample: Tensor) -> float:
    return float(clustered_participation_ratio(ClusterMoments.of(x, sample, shift=x.double().mean(0))))


def test_tokens_of_one_sample_bias_all_but_the_ratio_across_samples() -> None:
    """Trap 11: 64 samples of 32 tokens, intraclass correlation 0.5: 13.13 for 13.81, and 13.84 across samples."""
    generator = torch.Generator().manual_seed(0)
    d, samples, tokens, draws = 64, 64, 32, 60
    root = torch.arange(1, d + 1, dtype=torch.float64) ** -0.5
    truth = float(participation_ratio(root))
    sample = torch.arange(samples).repeat_interleave(tokens)
    plain, crossed = [], []
    for _ in range(draws):
        common = torch.randn(samples, d, generator=generator, dtype=torch.float64).repeat_interleave(tokens, 0)
        x = (common + torch.randn(samples * tokens, d, generator=generator, dtype=torch.float64)) / 2**0.5 * root
        plain.append(float(unbiased_participation_ratio(moments(x))))
        crossed.append(across_samples(x, sample))
    plain_mean, crossed_mean = sum(plain) / draws, sum(crossed) / draws
    assert truth == pytest.approx(13.81, abs=0.005)
    assert crossed_mean - plain_mean == pytest.approx(13.84 - 13.13, abs=0.04)
    assert plain_mean == pytest.approx(13.13, abs=3 * 0.13), "3 standard errors of 60 draws"
    assert crossed_mean == pytest.approx(13.84, abs=3 * 0.14)


def test_across_samples_of_one_row_it_nears_the_unbiased_ratio() -> None:
    x = features()
    assert across_samples(x, torch.arange(300)) == pytest.approx(
        float(unbiased_participation_ratio(moments(x))), rel=0.01
    )


def test_rows_that_are_equal_have_no_dimension() -> None:
    x = torch.full((8, 5), 0.3)
    assert unbiased_participation_ratio(moments(x)).tolist() == [0.0]
    assert naive_participation_ratio(moments(x)).tolist() == [0.0]
    assert across_samples(x, torch.arange(8) // 2) == 0


def test_too_few_rows_or_samples_are_refused() -> None:
    x = features()
    with pytest.raises(DataError, match="at least 4 rows; there are 3"):
        unbiased_participation_ratio(moments(x[:3]))
    with pytest.raises(DataError, match="needs 2 samples; there are 1"):
        clustered_participation_ratio(ClusterMoments.of(x[:9], torch.zeros(9, dtype=torch.int64), shift=x[0]))
