"""Is the base's basis still in use: overlap, variance captured, usage."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.special import digamma
from torch import Tensor
from torch.testing import assert_close

from rankscope.comparisons.subspace import (
    leading_subspace,
    overlap,
    overlap_between,
    subspace_distance,
    subspace_size,
    variance_captured,
)
from rankscope.comparisons.usage import relative_usage, usage_entropy, usage_shares
from rankscope.errors import NotComparable, UsageError
from rankscope.linalg.moments import Moments, PairMoments


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def power_law(rows: int, width: int, seed: int = 0) -> Tensor:
    return draw(rows, width, seed) * torch.arange(1, width + 1, dtype=torch.float64).rsqrt()


def rotation(width: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(width, width, seed)).Q


def halved(x: Tensor, y: Tensor, moments_of) -> tuple:
    folds = moments_of(x, y, torch.arange(len(x)) % 2, 2)
    return folds[0], folds[1]


def components(x: Tensor, k: int) -> Tensor:
    return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:k].T


@pytest.mark.parametrize(("width", "k"), [(4, 1), (64, 8), (256, 32), (4096, 32)])
def test_the_default_subspace(width: int, k: int) -> None:
    assert subspace_size(width) == k
    assert width < 8 or k / width <= 1 / 8


def test_overlap_equals_the_definition_and_scipy_angles(moments_of) -> None:
    x, y = power_law(80, 12), power_law(80, 12, 1) @ rotation(12, 2)
    u, v = components(x, 3), components(y, 3)
    angles = torch.tensor(subspace_angles(u.numpy(), v.numpy()))
    pair = moments_of(x, y)
    assert_close(overlap(pair, k=3), angles.cos().square().mean(), rtol=1e-9, atol=0)
    assert_close(overlap(pair, k=3), (u.T @ v).square().sum() / 3, rtol=1e-9, atol=0)
    assert_close(subspace_distance(pair, k=3), angles.norm(), rtol=1e-9, atol=0)
    for measure in (overlap, subspace_distance):
        assert_close(measure(moments_of(y, x), k=3), measure(pair, k=3), rtol=1e-10, atol=0)


def test_overlap_turns_with_both_sides_only(moments_of) -> None:
    x, y, q = power_law(80, 12), power_law(80, 12, 1), rotation(12, 2)
    assert_close(overlap(moments_of(x @ q, 2 * y @ q + 1), k=3), overlap(moments_of(x, y), k=3), rtol=1e-9, atol=0)
    assert overlap(moments_of(x, x @ q), k=3) < 0.7
    assert_close(overlap(moments_of(x, x + 3), k=3).item(), 1.0)
    assert subspace_distance(moments_of(x, 2 * x), k=3) < 1e-7


@pytest.mark.parametrize("k", [4, 16, 32])
def test_overlap_of_unrelated_runs_is_k_over_d(moments_of, k: int) -> None:
    values = torch.stack([overlap(moments_of(draw(150, 64, i), draw(150, 64, i + 9)), k=k) for i in range(8)])
    assert_close(values.mean().item(), k / 64, rtol=0.15, atol=0)


def test_overlap_ceiling_and_gap(moments_of) -> None:
    """The same model on two halves of its rows does not reach 1 where the cut has no gap, and does where it has."""
    flat = draw(400, 16)
    spiked = draw(400, 16) * torch.tensor([10.0] * 4 + [1.0] * 12)
    ceilings = []
    for x in (flat, spiked):
        halves = Moments.of(x, shift=x[0], group=torch.arange(400) % 2, groups=2)
        ceilings.append(float(overlap_between(halves[0], halves[1], k=4)))
    assert ceilings[0] < 0.6 < 0.99 < ceilings[1]
    values = [torch.linalg.eigvalsh(Moments.of(x, shift=x[0]).sum().scatter).flip(-1) for x in (flat, spiked)]
    gaps = [float(s[3] / s[4]) for s in values]
    assert gaps[0] < 1.2 < 50 < gaps[1]


def test_variance_captured_equals_the_definition(moments_of) -> None:
    x, y = power_law(100, 12), power_law(100, 12, 1) @ rotation(12, 2)
    v = components(x[::2], 3)
    held = y[1::2] - y[1::2].mean(0)
    expected = (held @ v).square().sum() / held.square().sum()
    assert_close(variance_captured(*halved(x, y, moments_of), k=3), expected, rtol=1e-10, atol=0)
    assert_close(variance_captured(*halved(x, y, moments_of), k=12).item(), 1.0)


@pytest.mark.parametrize(("rows", "own", "other"), [(128, 0.915, 0.671), (1024, 0.796, 0.756)])
def test_a_basis_captures_more_of_its_own_rows(moments_of, rows: int, own: float, other: float) -> None:
    """Trap 15: identical models, d = 256, k = 64, truth .775: in-sample .915 at n = 128, cross-fitted .671."""
    x = torch.cat([power_law(rows, 256), power_law(4096, 256, 1)])
    pair = moments_of(x, x, (torch.arange(len(x)) >= rows).long(), 2)
    same, held = variance_captured(pair[0], pair[0], k=64), variance_captured(pair[0], pair[1], k=64)
    assert_close(same.item(), own, rtol=0, atol=0.015)
    assert_close(held.item(), other, rtol=0, atol=0.02)
    assert held < 0.775 < same


def test_chance_of_variance_captured_under_random_rotations() -> None:
    x = power_law(400, 64)
    y = Moments.of(x, shift=x[0]).sum()
    d, k, purity = 64, 8, y.scatter.square().sum() / y.scatter.trace() ** 2
    sd = (2 * k * (d - k) * (d * purity - 1) / (d**2 * (d - 1) * (d + 2))).sqrt()
    bases = torch.stack([rotation(d, i)[:, :k] for i in range(400)])
    share = (bases.mT @ y.scatter @ bases).diagonal(dim1=-2, dim2=-1).sum(-1) / y.scatter.trace()
    assert abs(share.mean() - k / d) < 4 * sd / 20
    assert_close(share.std(), sd, rtol=0.12, atol=0)


def test_the_ceiling_is_the_base_against_itself(moments_of) -> None:
    fit, evaluate = halved(power_law(600, 32), power_law(600, 32) @ rotation(32, 1), moments_of)
    ceiling = variance_captured(PairMoments.itself(fit.a), PairMoments.itself(evaluate.a))
    assert ceiling > 3 * variance_captured(fit, evaluate)
    assert_close(ceiling, variance_captured(*halved(power_law(600, 32), power_law(600, 32), moments_of)))


def test_usage_equals_the_definition_and_bounds_the_rank(moments_of) -> None:
    x, y = power_law(300, 16), power_law(300, 16, 1) @ rotation(16, 2)
    fit, evaluate = halved(x, y, moments_of)
    v = components(x[::2], 16)
    held = y[1::2] - y[1::2].mean(0)
    expected = (held @ v).square().sum(0) / held.square().sum()
    assert_close(usage_shares(fit, evaluate), expected, rtol=1e-8, atol=1e-12)
    values = torch.linalg.eigvalsh(evaluate.b.scatter)
    rank = torch.special.entr(values / values.sum()).sum().exp()
    assert usage_entropy(fit, evaluate) >= rank
    assert_close(
        relative_usage(PairMoments.itself(fit.a), PairMoments.itself(evaluate.a)), torch.ones(16, dtype=torch.float64)
    )


def test_a_rank_one_collapse_uses_half_of_the_basis(moments_of) -> None:
    """exp H(u) = d e^{-(ψ(3/2) + ln 2)} = .482 d for one random direction: usage cannot show preservation."""
    d = 96
    x = power_law(400, d)
    expected = d * math.exp(-(digamma(1.5) + math.log(2)))
    assert_close(expected, 0.482 * d, rtol=2e-3, atol=0)
    found = [usage_entropy(*halved(x, torch.outer(x[:, 0], draw(d, 1, s)[:, 0]), moments_of)) for s in range(40)]
    assert_close(torch.stack(found).mean().item(), expected, rtol=0.05, atol=0)


def test_refusals_and_edges(moments_of) -> None:
    x = draw(20, 16)
    pair = moments_of(x, x)
    with pytest.raises(NotComparable, match="overlap of leading subspaces needs two runs with the same features"):
        overlap(moments_of(x, x[:, :8]))
    with pytest.raises(NotComparable, match="a subspace of 8 dimensions needs at least 9 rows; there are 5"):
        overlap(moments_of(x[:5], x[:5]), k=8)
    with pytest.raises(UsageError, match="between 1 and 16 dimensions here; k = 17"):
        leading_subspace(pair.a, 17)
    with pytest.raises(NotComparable, match="variance captured needs at least 4 rows; there are 3"):
        variance_captured(pair, moments_of(x[:3], x[:3]))
    with pytest.raises(NotComparable, match="usage of the base's basis needs at least 4 rows; there are 3"):
        usage_entropy(pair, moments_of(x[:3], x[:3]))
    constant = moments_of(x, torch.full((20, 16), 0.1))
    for value in (overlap(constant), subspace_distance(constant), variance_captured(pair, constant)):
        assert value.isnan()
    assert usage_entropy(pair, constant).isnan()
    assert variance_captured(constant, pair).isfinite()


def test_batches(moments_of) -> None:
    x, y = power_law(120, 10), power_law(120, 10, 1)
    parts = moments_of(x, y, torch.arange(120) % 3, 3)
    first = moments_of(x[::3], y[::3])
    for measure in (overlap, subspace_distance):
        assert_close(measure(parts, k=2)[0], measure(first, k=2))
    batched = variance_captured(parts, parts, k=2)
    assert batched.shape == (3,)
    assert_close(batched[0], variance_captured(first, first, k=2))
