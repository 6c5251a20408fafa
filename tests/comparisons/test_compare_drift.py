"""Drift: where the rows went."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.comparisons.drift import (
    drift,
    drift_inside,
    drift_mean_share,
    drift_per_component,
    drift_rank,
    drift_shares,
)
from rankscope.errors import NotComparable


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_the_definition(moments_of) -> None:
    x = draw(70, 10) * torch.arange(10, 0, -1)
    y = x + draw(70, 10, 1) * torch.arange(1, 11) + 2
    pair, delta = moments_of(x, y), y - x
    squared = delta.square().sum(1).mean()
    assert_close(drift(pair), squared / torch.cov(x.T).trace(), rtol=1e-11, atol=0)
    assert_close(drift_mean_share(pair), delta.mean(0).square().sum() / squared, rtol=1e-11, atol=0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    along = (delta @ vectors).square().mean(0)
    assert_close(drift_per_component(pair), (along / values).flip(0), rtol=1e-9, atol=0)
    assert_close(drift_inside(pair, k=3), along[-3:].sum() / squared, rtol=1e-9, atol=0)
    spectrum = torch.linalg.eigvalsh(torch.cov(delta.T))
    assert_close(drift_rank(pair), torch.special.entr(spectrum / spectrum.sum()).sum().exp(), rtol=1e-9, atol=0)
    assert_close(drift_shares(pair), spectrum.flip(0) / spectrum.sum(), rtol=1e-9, atol=0)


def test_nothing_drifted_is_exactly_zero(moments_of) -> None:
    x = draw(5000, 12) * 1e3 + 7
    for y in (x, x.clone()):
        pair = moments_of(x, y)
        assert (
            drift(pair)
            == drift_mean_share(pair)
            == drift_inside(pair)
            == drift_rank(pair)
            == drift_shares(pair).sum()
            == 0
        )
    assert drift(moments_of(x, x + 1e-3)) > 0, "a thousandth of a thousandth is seen"


def test_a_shift_is_all_mean_and_has_no_rank(moments_of) -> None:
    x = draw(300, 8)
    pair = moments_of(x, x + 3)
    assert_close(drift_mean_share(pair).item(), 1.0)
    assert drift_rank(pair) == drift_shares(pair).sum() == 0
    assert_close(drift(pair), 72 / torch.cov(x.T).trace())


def test_independent_runs_drift_by_both_variances(moments_of) -> None:
    x, y = draw(3000, 16), 2 * draw(3000, 16, 1)
    assert_close(drift(moments_of(x, y)).item(), 5.0, rtol=0.03, atol=0)
    assert drift_mean_share(moments_of(x, y)) < 3 / 3000
    assert_close(drift_inside(moments_of(x, x + draw(3000, 16, 2)), k=4).item(), 0.25, rtol=0.05, atol=0)
    assert_close(drift_rank(moments_of(x, x + torch.outer(draw(3000, 1, 3)[:, 0], torch.ones(16)))).item(), 1.0)
    one = drift_shares(moments_of(x, x + torch.outer(draw(3000, 1, 3)[:, 0], torch.ones(16)) + 7))
    assert_close(one[:2], torch.tensor([1.0, 0.0]).double(), rtol=1e-9, atol=1e-9)


def test_a_drift_without_preferred_direction_scores_what_its_definition_says(moments_of) -> None:
    x, n, d = draw(4000, 40), 4000, 40
    edge = (1 + (d / n) ** 0.5) ** 2 / d
    assert_close(drift_shares(moments_of(x, x + draw(n, d, 1)))[0].item(), edge, rtol=0.05, atol=0)


def test_it_moves_and_turns_with_both_sides(moments_of) -> None:
    x, y = draw(60, 6), draw(60, 6, 1)
    q = torch.linalg.qr(draw(6, 6, 2)).Q
    assert_close(drift(moments_of(3 * x @ q + 1, 3 * y @ q + 1)), drift(moments_of(x, y)), rtol=1e-9, atol=0)
    assert drift(moments_of(x, x @ q)) > 0.5, "a rotation of one side is a drift"


def test_batches_edges_and_refusals(moments_of) -> None:
    x, y = draw(60, 6), draw(60, 6, 1)
    parts = moments_of(x, y, torch.arange(60) % 2, 2)
    for measure in (drift, drift_mean_share, drift_rank, drift_inside, drift_shares):
        assert_close(measure(parts)[1], measure(moments_of(x[1::2], y[1::2])), rtol=1e-9, atol=0)
    assert drift(moments_of(torch.ones(9, 3), draw(9, 3))).isnan()
    assert drift(moments_of(x.bfloat16(), y.bfloat16())).dtype == torch.float64
    with pytest.raises(NotComparable, match="drift needs two runs with the same features; one has 6 and the other 5"):
        drift(moments_of(x, y[:, :5]))
    with pytest.raises(NotComparable, match="drift needs at least 4 rows; there are 3"):
        drift(moments_of(x[:3], y[:3]))
