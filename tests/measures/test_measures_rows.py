"""Measures that read rows: LiDAR, Diff-eRank, curvature, anisotropy, SelfCluster, coherence, sinks, the dtype's floor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import DataError
from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import singular_values
from rankscope.measures import sinks
from rankscope.measures.anisotropy import cosine_contributions, mean_cosine
from rankscope.measures.coherence import coherence
from rankscope.measures.curvature import curvature
from rankscope.measures.diff_erank import erank_of_samples, normalised_erank
from rankscope.measures.dtype_floor import condition_number, values_below_floor
from rankscope.measures.effective_rank import entropy_rank
from rankscope.measures.lidar import lidar
from rankscope.measures.mean_share import mean_share
from rankscope.measures.participation_ratio import participation_ratio
from rankscope.measures.self_cluster import self_cluster
from rankscope.spectrum import rounding_floor


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(d: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed=77)).Q


# LiDAR


def views(objects: int, q: int, d: int, r: int) -> tuple[Tensor, Tensor]:
    centre = torch.zeros(objects, d, dtype=torch.float64)
    centre[:, :r] = 3 * normal(objects, r)
    return centre.repeat_interleave(q, 0) + 0.3 * normal(objects * q, d, seed=1), torch.arange(
        objects
    ).repeat_interleave(q)


@pytest.mark.parametrize(("r", "predicted"), [(4, 4.18), (16, 16.14), (64, 64.0)])
def test_lidar_meets_its_prediction(r: int, predicted: float) -> None:
    """Σ_b = 9·1_r, Σ_w = 0.09 I, q = 30, d = 64; from 1000 objects the noise of Σ_b itself takes 3 % at r = 64."""
    x, sample = views(1000, 30, 64, r)
    assert float(lidar(x, sample)) == pytest.approx(predicted, rel=0.035)
    if r < 64:
        assert float(lidar(x, sample, subtract_noise=True)) == pytest.approx(r, rel=0.02)


def test_lidar_does_not_change_under_invertible_maps() -> None:
    x, sample = views(60, 5, 6, 3)
    mix = normal(6, 6, seed=5)
    assert_close(lidar(x @ mix + 4, sample, delta=1e-12), lidar(x, sample, delta=1e-12), rtol=1e-6, atol=0)


def test_lidar_needs_objects_and_views() -> None:
    with pytest.raises(DataError, match="2 objects and 2 views; 5 objects have up to 1 views"):
        lidar(normal(5, 3), torch.arange(5))
    with pytest.raises(DataError, match="1 objects have up to 5"):
        lidar(normal(5, 3), torch.zeros(5, dtype=torch.int64))
    assert float(lidar(torch.ones(6, 3), torch.arange(6) // 2)) == 0


# Diff-eRank


def naive_erank(x: Tensor) -> float:
    z = x.double() - x.double().mean(0)
    z = z / z.norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(z.mT @ z / len(z)).clamp(min=0)
    p = values / values.sum()
    return math.exp(-sum(v * math.log(v) for v in p.tolist() if v > 0))


def test_diff_erank_is_the_published_code(device: torch.device) -> None:
    x, sample = normal(30, 8).to(device), torch.arange(30) // 6
    each = [naive_erank(x[(sample == c).to(device)].cpu()) for c in range(5)]
    assert float(normalised_erank(x[:6])) == pytest.approx(each[0], rel=1e-10)
    mean = math.exp(sum(map(math.log, each)) / 5)
    assert float(erank_of_samples(x, sample)) == pytest.approx(mean, rel=1e-10)
    flat = x * torch.tensor([1.0] + [0.01] * 7, device=device)
    assert mean - float(erank_of_samples(flat, sample)) > 1  # training lowers it: the published difference is positive
    plain = normalised_erank(x[:6], normalise=False)
    assert_close(plain, entropy_rank(singular_values(x[:6], centre=True).values), rtol=1e-9, atol=0)


def test_equal_and_single_rows_have_no_effective_rank() -> None:
    assert float(normalised_erank(torch.full((4, 3), 0.1))) == 0
    assert float(erank_of_samples(torch.ones(3, 2), torch.arange(3))) == 0


# Curvature


def test_a_line_is_straight_and_a_polygon_turns_by_its_angle() -> None:
    line = torch.outer(torch.arange(9, dtype=torch.float64), normal(5)) + 3
    assert float(curvature(line, torch.zeros(9))) == pytest.approx(0, abs=1e-6)
    angle = torch.arange(13, dtype=torch.float64) * (2 * math.pi / 12)
    polygon = torch.stack([angle.cos(), angle.sin()], 1)
    assert float(curvature(polygon, torch.zeros(13))) == pytest.approx(30, rel=1e-12)
    there_and_back = torch.tensor([[0.0], [1.0], [0.0]])
    assert float(curvature(there_and_back, torch.zeros(3))) == pytest.approx(180)


def test_noise_turns_by_120_and_a_walk_by_90(device: torch.device) -> None:
    x, sample = normal(4000, 256).to(device), torch.arange(4000) // 100
    assert float(curvature(x, sample)) == pytest.approx(120, abs=0.3)
    assert float(curvature(x.cumsum(0), sample)) == pytest.approx(90, abs=0.3)


def test_curvature_knows_where_samples_end_and_passes_over_repeats() -> None:
    x, sample = normal(12, 4), torch.tensor([0] * 5 + [1] * 5 + [2] * 2)
    each = [curvature(x[:5], torch.zeros(5)), curvature(x[5:10], torch.zeros(5))]
    assert_close(curvature(x, sample), torch.stack(each).mean(), rtol=1e-12, atol=0)
    repeated = x.repeat_interleave(2, 0)
    assert_close(curvature(repeated, sample.repeat_interleave(2)), curvature(x, sample), rtol=1e-12, atol=0)
    assert_close(curvature(5 * x @ turned(4) + 2, sample), curvature(x, sample), rtol=1e-10, atol=0)
    with pytest.raises(DataError, match="three different successive rows"):
        curvature(x[:2], torch.zeros(2))


# Anisotropy


@pytest.mark.parametrize(("mean", "expected"), [(0.5, 0.2004), (1.0, 0.5003), (3.0, 0.9001)])
def test_the_mean_cosine_measures_the_mean(mean: float, expected: float, device: torch.device) -> None:
    d = 512
    x = (normal(2000, d) / d**0.5).to(device)
    x[:, 0] += mean
    assert float(mean_cosine(x)) == pytest.approx(mean**2 / (1 + mean**2), abs=0.01)
    assert float(mean_cosine(x)) == pytest.approx(expected, abs=0.01)
    assert float(mean_cosine(x - x.mean(0))) == pytest.approx(-1 / 1999, abs=1e-4)


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    x = normal(9, 4) + 1
    unit = x / x.norm(dim=1, keepdim=True)
    pairs = [float(unit[i] @ unit[j]) for i in range(9) for j in range(9) if i != j]
    assert float(mean_cosine(x)) == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)
    assert_close(mean_cosine(torch.cat([x, torch.zeros(3, 4)])), mean_cosine(x))
    with pytest.raises(DataError, match="2 rows that are not zero; there are 1"):
        mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_a_rogue_dimension_makes_the_cosine_and_is_seen() -> None:
    x = normal(300, 64)
    x[:, 5] = x[:, 5] + 100
    shares = cosine_contributions(x) / mean_cosine(x)
    assert float(shares[5]) > 0.99
    assert abs(float(mean_cosine(x, standardise=True))) < 0.01


# SelfCluster, coherence


def test_self_cluster_is_an_affine_function_of_the_participation_ratio() -> None:
    x = normal(50, 8) + 0.4
    n, d = x.shape
    unit = x / x.norm(dim=1, keepdim=True)
    ratio = float(participation_ratio(singular_values(unit).values))
    chance = n * (n - 1) / d
    assert float(self_cluster(x)) == pytest.approx((n * n / ratio - n - chance) / (n * n - n - chance), rel=1e-10)
    assert_close(self_cluster(x.mT[:, :20].mT), self_cluster(x[:20]), rtol=1e-12, atol=0)
    assert float(self_cluster(torch.ones(5, 3))) == pytest.approx(1)
    assert abs(float(self_cluster(normal(400, 50)))) < 0.02
    with pytest.raises(DataError, match="there are 0 and 3"):
        self_cluster(torch.zeros(5, 3))


def test_coherence_finds_a_row_that_carries_a_direction_alone() -> None:
    x = normal(200, 6)
    assert 1 <= float(coherence(x)) < 5
    x[17] = 0
    x = torch.cat([x, torch.zeros(200, 1)], 1)
    x[17, 6] = 1e-3
    assert float(coherence(x)) == pytest.approx(200 / 7, rel=1e-6)
    assert float(coherence(torch.eye(5))) == pytest.approx(1)
    assert_close(coherence(x[:, :6] @ normal(6, 6, seed=2)), coherence(x[:, :6]), rtol=1e-8, atol=0)
    with pytest.raises(DataError, match="all zero"):
        coherence(torch.zeros(4, 3))


# The mean, sinks, the floor


def test_the_means_share_is_that_of_its_energy() -> None:
    x = normal(4000, 16)
    x[:, 0] += 12
    found = mean_share(Moments.of(x, shift=x[0]))
    assert float(found) == pytest.approx(144 / (144 + 16), rel=0.02)
    assert mean_share(Moments.of(torch.zeros(4, 3), shift=torch.zeros(3))).tolist() == [0.0]
    assert mean_share(Moments.of(torch.ones(4, 3), shift=torch.zeros(3))).tolist() == [1.0]


def test_sinks_and_massive_dimensions_are_found_where_they_are(device: torch.device) -> None:
    x = normal(128, 32).to(device)
    assert float(sinks.count_sinks(x)) == 0
    x[7] += 3000
    assert sinks.sink_rows(x).nonzero().flatten().tolist() == [7]
    y = normal(128, 32)
    y[:, [3, 30]] += 1500
    assert sinks.massive_dimensions(y).nonzero().flatten().tolist() == [3, 30]
    assert float(sinks.count_massive(y)) == 2
    z = sinks.standardised(torch.cat([y, torch.ones(128, 1)], 1))
    assert_close(z[:, :32].square().mean(0), torch.ones(32, dtype=torch.float64), rtol=1e-9, atol=0)
    assert (z[:, 32] == 0).all()
    assert sinks.sink_rows(torch.zeros(0, 3)).shape == (0,)
    assert sinks.massive_dimensions(torch.zeros(3, 0)).shape == (0,)


def test_values_below_the_floor_are_counted_and_left_out() -> None:
    left, right = torch.linalg.qr(normal(1024, 128)).Q, turned(128)
    exact = (left * torch.logspace(0, -6, 128, dtype=torch.float64)) @ right.mT
    exact = exact - exact.mean(0)
    (s, floor), (rounded, rounded_floor) = map(spectrum_and_floor, (exact, exact.bfloat16()))
    assert float(values_below_floor(s, floor=floor, rows=1024)) == 0
    assert float(condition_number(s, floor=floor)) == pytest.approx(1e6, rel=0.05)
    below = float(values_below_floor(rounded, floor=rounded_floor, rows=1024))
    assert 40 < below < 110
    resolved = float(condition_number(rounded, floor=rounded_floor))
    assert resolved < 1e4
    assert float(condition_number(rounded)) > resolved


def test_the_value_that_centring_makes_zero_is_not_below_the_floor() -> None:
    s, floor = spectrum_and_floor(normal(20, 32))
    assert float(values_below_floor(s, floor=floor, rows=20)) == 0
    assert float(values_below_floor(s, floor=1e9, rows=20)) == 19


def spectrum_and_floor(x: Tensor) -> tuple[Tensor, float]:
    found = singular_values(x, centre=True)
    return found.values, rounding_floor(float(found.norm), found.rows, found.columns, found.dtype)


def test_the_condition_number_of_a_singular_matrix_is_infinite() -> None:
    assert condition_number(torch.tensor([[4.0, 2.0, 1.0], [4.0, 2.0, 0.0]])).tolist() == [4.0, math.inf]
    assert float(condition_number(torch.tensor([4.0, 2.0, 1e-9]), floor=1e-3)) == 2
    assert condition_number(torch.zeros(3)).isnan()
