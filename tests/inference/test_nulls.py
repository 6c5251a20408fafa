"""What no relation gives, what noise gives, and what a run gives against itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import NotComparable, UsageError
from rankscope.inference.nulls import halves, noise_level, permutation_null, shuffles, split_half_ceiling


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Biased linear CKA, written out."""
    x, y = x - x.mean(0), y - y.mean(0)
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def test_equal_samples_are_exchanged_whole() -> None:
    sample = torch.tensor([7, 7, 2, 2, 9, 9])
    orders = shuffles(sample, count=50, generator=seeded())
    assert orders.shape == (50, 6)
    for order in orders:
        assert sorted(order.tolist()) == list(range(6))
        blocks = order.reshape(3, 2)
        assert (blocks[:, 1] - blocks[:, 0] == 1).all()
        assert (sample[blocks[:, 0]] == sample[blocks[:, 1]]).all()
    assert len({tuple(o.tolist()) for o in orders}) == 6, "all orders of three samples occur"


def test_scattered_and_unequal_samples_keep_their_rows_together() -> None:
    sample = torch.tensor([0, 1, 0, 2, 1, 0])
    own = torch.tensor([0, 2, 5, 1, 4, 3])
    for order in shuffles(sample, count=20, generator=seeded()):
        assert sorted(order.tolist()) == list(range(6))
        seen = sample[order[own]].tolist()
        assert sum(a != b for a, b in pairwise(seen)) == 2


def test_strata_are_not_left() -> None:
    sample, strata = torch.arange(12) // 2, torch.arange(12) // 2 % 2
    for order in shuffles(sample, count=20, strata=strata, generator=seeded()):
        assert torch.equal(strata[order], strata)
    with pytest.raises(UsageError, match="a sample lies in two strata"):
        shuffles(sample, count=1, strata=torch.arange(12) % 2)


def test_a_relation_stands_out_and_none_does_not() -> None:
    x = draw(80, 6)
    related = permutation_null(alignment, x, x + draw(80, 6, seed=1), torch.arange(80), draws=99, generator=seeded())
    assert related.p == 0.01
    assert related.value > related.mean + 5 * related.sd
    unrelated = permutation_null(alignment, x, draw(80, 6, seed=2), torch.arange(80), draws=99, generator=seeded())
    assert unrelated.p > 0.05
    assert_close(unrelated.mean.item(), 6 / 86, rtol=0.15, atol=0)
    assert unrelated.draws.shape == (99,)


def test_p_values_are_uniform_when_rows_cluster_and_are_not_when_tokens_are_shuffled() -> None:
    """Rows shuffled between samples token by token make a null too narrow: it 'finds' relations that are not there."""
    sample = torch.arange(30).repeat_interleave(6)
    found: dict[str, list[bool]] = {"sample": [], "token": []}
    for seed in range(60):
        x, y = (draw(30, 4, seed=2 * seed + i)[sample] + 0.3 * draw(180, 4, seed=500 + 2 * seed + i) for i in (0, 1))
        for unit, rows in (("sample", sample), ("token", torch.arange(180))):
            null = permutation_null(alignment, x, y, rows, draws=39, generator=seeded(seed))
            found[unit].append(bool(null.p <= 0.05))
    assert sum(found["sample"]) <= 8
    assert sum(found["token"]) > 30


def test_noise_of_the_shape() -> None:
    mean, sd = noise_level(alignment, 100, (30, 60), generator=seeded())
    assert_close(mean.item(), (30 * 60 / (130 * 160)) ** 0.5, rtol=0.05, atol=0)
    assert 0 < sd < 0.05


def test_halves_split_samples() -> None:
    sample = torch.tensor([3, 3, 1, 1, 1, 8, 9])
    mask = halves(sample, generator=seeded())
    assert len(set(sample[mask].tolist()) & set(sample[~mask].tolist())) == 0
    assert len(set(sample[mask].tolist())) == 2


def test_a_ceiling_is_below_one_and_above_another_run() -> None:
    def overlap(a: Tensor, b: Tensor) -> Tensor:
        u, v = (torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:4] for z in (a, b))
        return (u @ v.T).square().sum() / 4

    x = draw(200, 20) * torch.arange(1, 21, dtype=torch.float64).rsqrt()
    mean, sd = split_half_ceiling(overlap, x, torch.arange(200), generator=seeded())
    turned = overlap(x, x @ torch.linalg.qr(draw(20, 20, seed=3)).Q)
    assert turned < mean - 3 * sd < 1


def test_refusals() -> None:
    with pytest.raises(NotComparable, match="shuffling between samples needs at least 2; there are 1"):
        shuffles(torch.zeros(5, dtype=torch.int64), count=3)
    with pytest.raises(NotComparable, match="two halves need at least 2 samples; there are 1"):
        halves(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(NotComparable, match="shuffling needs the same rows; there are 5, 4 and 5 identities"):
        permutation_null(alignment, draw(5, 2), draw(4, 2), torch.arange(5))
