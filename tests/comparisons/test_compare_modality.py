"""The gap between two kinds of rows: planted distances, the formulas written out, what exchanging the kinds leaves, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.analysis.intervals import bounds_of, limits_of
from rankscope.analysis.references import unrelated
from rankscope.analysis.view import View
from rankscope.comparisons.modality import COMPARISONS, modality_cosine, modality_gap, modality_share
from rankscope.errors import NotComparable
from rankscope.features import TEXT, Rows
from rankscope.registry import known
from rankscope.selftest.formulas import of_two_runs

NAMES = ("modality-gap", "modality-cosine", "modality-share")
N, D = 64, 12


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(samples: int, each: int = 1) -> Rows:
    sample = torch.arange(samples).repeat_interleave(each)
    position = torch.arange(each).repeat(samples)
    return Rows(sample, position, torch.full_like(sample, TEXT).to(torch.uint8), tuple(map(str, range(samples))))


def kinds(shift: float, seed: int = 0, n: int = N) -> tuple[Tensor, Tensor]:
    """Two kinds that share half of their variance, and lie ``shift`` apart."""
    common, apart = draw(n, D, seed=seed), torch.zeros(D, dtype=torch.float64)
    apart[0] = shift
    return common + draw(n, D, seed=seed + 1), common + draw(n, D, seed=seed + 2) + apart


@pytest.mark.parametrize("each", [1, 3])
def test_they_are_their_formulas_whatever_the_rows_of_a_sample(each: int) -> None:
    own = rows(N // each, each)
    x, y = (z + 1 for z in kinds(2.0, n=len(own)))
    first = own.sample.numpy() % 2 == 0
    right = of_two_runs(x.numpy(), y.numpy(), own.sample.numpy(), first)
    view = View([x, y], own)
    assert_close(
        [float(view.value(known(n), 0, 1)) for n in NAMES], [float(right[n]) for n in NAMES], rtol=1e-9, atol=0
    )


def test_a_planted_offset_is_found_without_bias(moments_of: Callable) -> None:
    """Means over draws of few samples in many directions, where the plain distance would be 1.9 times too large."""
    shift, n = 1.0, 8
    found = torch.tensor(
        [
            [float(f(moments_of(*kinds(shift, seed, n)))) for f in (modality_gap, modality_share)]
            for seed in range(0, 900, 3)
        ]
    )
    # Every feature has variance 2, half of it shared: E‖z‖² = 2 D + shift²/2, and between lies shift²/4
    square, error = found[:, 0].abs() * found[:, 0], found.std(0) / math.sqrt(len(found))
    assert abs(float(square.mean()) - shift**2 / (2 * D + shift**2 / 2)) < 4 * float(square.std()) / math.sqrt(
        len(found)
    )
    assert abs(float(found[:, 1].mean()) - 0.25 / (2 * D + 0.25)) < 4 * float(error[1])


def test_the_cosine_is_that_of_the_means_without_their_noise(moments_of: Callable) -> None:
    along, turned = torch.zeros(D, dtype=torch.float64), torch.zeros(D, dtype=torch.float64)
    along[0], turned[:2] = 3.0, torch.tensor([3 * math.cos(1.0), 3 * math.sin(1.0)])
    found = [
        float(modality_cosine(moments_of(draw(16, D, seed=s) + along, draw(16, D, seed=s + 1) + turned)))
        for s in range(0, 400, 2)
    ]
    assert abs(np.mean(found) - math.cos(1.0)) < 4 * np.std(found) / math.sqrt(len(found)) + 0.01


def test_a_coin_in_each_sample_leaves_the_closed_form_and_no_gap() -> None:
    x, y = kinds(3.0)
    view, gap = View([x, y], rows(N)), known("modality-gap")
    raw, kept = [], []
    for seed in range(400):
        sign = torch.where(draw(N, 1, seed=seed) < 0, -1.0, 1.0)
        mean = (sign * (y - x)).mean(0).square().sum()
        raw.append(mean)
        kept.append(mean - torch.cov((sign * (y - x)).mT).trace() / N)
    # E‖mean D‖² = Σ‖D‖²/n², all of which is taken away
    expected = (y - x).square().sum() / N**2
    assert_close(torch.stack(raw).mean(), expected, rtol=0.05, atol=0)
    assert abs(torch.stack(kept).mean()) < 0.05 * expected
    found = unrelated(view, gap, 0, 1, draws=19)
    assert found.p == 1 / 20
    assert abs(found.mean or 0) < 0.1 < float(view.value(gap, 0, 1))
    for name in NAMES:
        x, y = kinds(0.0)
        p = unrelated(View([x + 1, y + 1], rows(N)), known(name), 0, 1, draws=19).p
        assert p is not None
        assert p > 0.05
    # Of means that are not told from 0 there is no cosine, and then no p
    none = unrelated(View([*kinds(0.0)], rows(N)), known("modality-cosine"), 0, 1, draws=19)
    assert (none.mean, none.p) == (None, None)


def test_intervals_cover_small_and_large_gaps() -> None:
    """Also of no gap at all, where a root has no derivative: it is made on the square."""
    gap, covered = known("modality-gap"), []
    for shift in (0.0, 0.7, 4.0):
        truth = shift / math.sqrt(2 * D + shift**2 / 2)
        inside = []
        for seed in range(0, 180, 3):
            view = View([*kinds(shift, seed)], rows(N))
            end = limits_of(view.evaluate(gap, 0, 1), bounds_of(gap, view), 0.95).estimate
            assert end.low is not None
            assert end.low <= end.value <= end.high
            inside.append(end.low <= truth <= end.high)
        covered.append(np.mean(inside))
    assert min(covered) >= 0.86, covered  # 0.95 of 60 draws, less three standard errors


@pytest.mark.parametrize("function", [modality_gap, modality_cosine, modality_share])
def test_they_turn_and_scale_with_both_sides_only(function: Callable, moments_of: Callable) -> None:
    x, y = (z + 1 for z in kinds(2.0))
    q = torch.linalg.qr(draw(D, D, seed=9)).Q
    value = function(moments_of(x, y))
    assert_close(function(moments_of(3 * x @ q, 3 * y @ q)), value, rtol=1e-9, atol=0)
    assert_close(function(moments_of(y, x)), value, rtol=1e-9, atol=0)
    assert (function(moments_of(x, y @ q)) - value).abs() > 1e-3
    moved = (function(moments_of(x + 5, y + 5)) - value).abs()
    assert moved < 1e-9 if function is modality_share else moved > 1e-3
    assert function(moments_of(x.bfloat16(), y.bfloat16())).dtype == torch.float64


def test_at_the_ends_of_their_ranges(moments_of: Callable) -> None:
    x, _ = kinds(0.0)
    x = x + 1
    same, opposite = moments_of(x, x.clone()), moments_of(x - x + 1, x - x - 1)
    assert_close(
        [float(f(same)) for f in (modality_gap, modality_cosine, modality_share)], [0.0, 1.0, 0.0], rtol=0, atol=1e-7
    )
    assert_close([float(f(opposite)) for f in (modality_gap, modality_cosine, modality_share)], [2.0, -1.0, 1.0])
    nothing = moments_of(x - x, x - x)
    assert all(f(nothing).isnan() for f in (modality_gap, modality_cosine, modality_share))
    # Rows that cancel in pairs are as near as can be: the lower ends
    d = draw(2, D)
    least = moments_of(torch.cat([d, -d]), torch.cat([-d, d]))
    view = View([torch.cat([d, -d]), torch.cat([-d, d])], rows(4))
    for f, one in ((modality_gap, COMPARISONS[0]), (modality_share, COMPARISONS[2])):
        assert float(f(least)) == pytest.approx(bounds_of(one, view).within.least)


def test_what_they_cannot_relate_is_refused(moments_of: Callable) -> None:
    x, y = kinds(1.0)
    with pytest.raises(NotComparable, match="needs two runs with the same features; one has 12 and the other 5"):
        modality_gap(moments_of(x, y[:, :5]))
    with pytest.raises(NotComparable, match="at least 4 rows; there are 3"):
        modality_share(moments_of(x[:3], y[:3]))
    with pytest.raises(NotComparable, match="counted in samples"):
        View([x[:6], y[:6]], rows(2, 3)).value(known("modality-cosine"), 0, 1)
