"""Shuffles of samples: the pairing broken, and what rows of one sample share kept."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rankscope.errors import NotComparable
from rankscope.inference.nulls import shuffles


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


def test_p_values_are_uniform_when_rows_cluster_and_are_not_when_tokens_are_shuffled() -> None:
    """Rows shuffled between samples token by token make a null too narrow: it 'finds' relations that are not there."""
    sample = torch.arange(30).repeat_interleave(6)
    found: dict[str, list[bool]] = {"sample": [], "token": []}
    for seed in range(60):
        x, y = (draw(30, 4, seed=2 * seed + i)[sample] + 0.3 * draw(180, 4, seed=500 + 2 * seed + i) for i in (0, 1))
        for unit, rows in (("sample", sample), ("token", torch.arange(180))):
            orders = shuffles(rows, count=39, generator=seeded(seed))
            reached = sum(bool(alignment(x, y[order]) >= alignment(x, y)) for order in orders)
            found[unit].append((1 + reached) / 40 <= 0.05)
    assert sum(found["sample"]) <= 8
    assert sum(found["token"]) > 30


def test_one_sample_is_refused() -> None:
    with pytest.raises(NotComparable, match="shuffling between samples needs at least 2; there are 1"):
        shuffles(torch.zeros(5, dtype=torch.int64), count=3)
