"""Shuffles of samples: the pairing broken, and what rows of one sample share kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rankscope.errors import NotComparable
from rankscope.inference.nulls import exchanged, shuffles


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


def test_samples_are_exchanged_only_with_samples_of_equal_length() -> None:
    sample = torch.tensor([0, 1, 0, 2, 1, 0, 3, 3, 4])
    rows = {s: (sample == s).nonzero().flatten().tolist() for s in range(5)}
    seen = set()
    for order in shuffles(sample, count=40, generator=seeded()):
        assert sorted(order.tolist()) == list(range(9))
        paired = [[int(order[i]) for i in rows[s]] for s in range(5)]
        assert paired[0] == rows[0], "the only sample of three rows stays"
        assert {tuple(paired[1]), tuple(paired[3])} == {tuple(rows[1]), tuple(rows[3])}
        assert {tuple(paired[2]), tuple(paired[4])} == {tuple(rows[2]), tuple(rows[4])}
        seen.add(tuple(order.tolist()))
    assert len(seen) == 4, "two samples of two rows and two of one have four orders"


def test_in_a_pairing_apart_no_sample_meets_itself() -> None:
    sample = torch.tensor([0, 1, 0, 2, 1, 0, 3, 3, 4, 5, 5])
    for seed in range(20):
        keep, order = exchanged(sample, generator=seeded(seed))
        assert keep.tolist() == (sample != 0).tolist(), "the only sample of three rows is left out"
        assert sorted(order.tolist()) == keep.nonzero().flatten().tolist()
        assert (sample[order] != sample[keep]).all()
    with pytest.raises(
        NotComparable, match="only samples with equally many rows can be exchanged, and no two of the 2"
    ):
        exchanged(torch.tensor([0, 0, 1]))


def test_the_level_holds_where_samples_have_unequally_many_rows() -> None:
    """Laid end to end, samples of unequal length make a null that nearly every pair of unrelated runs exceeds."""
    found: dict[str, list[bool]] = {"equal": [], "end to end": []}
    for seed in range(100):
        counts = torch.randint(1, 9, (30,), generator=seeded(seed))
        sample = torch.arange(30).repeat_interleave(counts)
        n = len(sample)
        x, y = (
            0.8 * draw(30, 6, seed=2 * seed + i)[sample] + 0.6 * draw(n, 6, seed=700 + 2 * seed + i) for i in (0, 1)
        )
        ends = [
            torch.cat([(sample == s).nonzero().flatten() for s in torch.randperm(30, generator=seeded(i))])
            for i in range(39)
        ]
        for how, orders in (("equal", shuffles(sample, count=39, generator=seeded(seed))), ("end to end", ends)):
            reached = sum(bool(alignment(x, y[order]) >= alignment(x, y)) for order in orders)
            found[how].append((1 + reached) / 40 <= 0.05)
    assert sum(found["equal"]) <= 11, "a level of 0.05 gives more than 11 of 100 once in 200 times"
    assert sum(found["end to end"]) > 30


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
