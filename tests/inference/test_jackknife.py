"""Intervals from leaving out groups of samples, and why not from drawing rows twice."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from rankscope.definition import Range
from rankscope.errors import NotComparable, UsageError
from rankscope.inference.jackknife import critical_t, degrees_of_freedom, pseudo_values, standard_error
from rankscope.inference.ranges import Bounded, Scale, interval_inside
from rankscope.linalg.moments import Moments
from rankscope.measures.participation_ratio import unbiased_participation_ratio


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def means(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    group = torch.arange(len(x)) * groups // len(x)
    return x.mean(0), torch.stack([x[group != g].mean(0) for g in range(groups)])


def erank(x: Tensor) -> Tensor:
    s = torch.linalg.svdvals(x - x.mean(0))
    return torch.special.entr(s / s.sum()).sum().exp()


def jackknifed(value: Tensor, left_out: Tensor, scale: Scale = "plain") -> Bounded:
    critical = float(critical_t(len(left_out) - 1, 0.95))
    return interval_inside(float(value), float(standard_error(left_out)), critical, within=Range(), scale=scale)


def test_of_a_mean_it_is_the_textbook_interval() -> None:
    x = draw(30)
    found = jackknifed(*means(x, 30))
    expected = stats.t.interval(0.95, 29, x.mean().item(), stats.sem(x.numpy()))
    assert_close((found.low, found.high), tuple(float(e) for e in expected), rtol=1e-12, atol=0)


def test_pseudo_values_of_a_mean_are_the_group_means() -> None:
    x = draw(40, 3)
    value, left = means(x, 8)
    pseudo = pseudo_values(value, left)
    assert_close(pseudo, x.reshape(8, 5, 3).mean(1))
    assert_close(pseudo.std(0) / math.sqrt(8), standard_error(left))


def test_a_log_interval_is_positive_and_scales() -> None:
    value, left = means(draw(20).exp(), 10)
    found, scaled = jackknifed(value, left, "log"), jackknifed(100 * value, 100 * left, "log")
    assert found.low > 0
    assert_close(scaled.low, 100 * found.low)
    assert_close(found.low * found.high, float(value) ** 2)


def test_pairing_takes_the_common_noise_out() -> None:
    common, own = draw(400), 0.05 * draw(400, seed=1)
    (a, a_left), (b, b_left) = means(common, 20), means(common + own + 0.1, 20)
    assert standard_error(b_left - a_left) < standard_error(b_left) / 10
    paired = jackknifed(b - a, b_left - a_left)
    assert paired.low < 0.1 < paired.high


def test_equal_groups_have_all_degrees_of_freedom_and_one_that_decides_has_one() -> None:
    """G - 1 of normal parts on average, fewer where few groups make the spread: Satterthwaite from the kurtosis."""
    normal = degrees_of_freedom(draw(20, 4000))
    assert 15 < normal.mean() < 19
    assert (normal == 19).double().mean() > 0.4
    alone = torch.zeros(20, dtype=torch.float64)
    alone[3] = 1.0
    assert degrees_of_freedom(alone) < 2
    assert degrees_of_freedom(torch.ones(20)) == 19
    assert degrees_of_freedom(draw(3)) == 2
    parts = draw(20) ** 3
    expected = 2 * 20 / (stats.kurtosis(parts.numpy(), bias=False) + 2)
    assert float(degrees_of_freedom(parts)) == pytest.approx(expected)


def test_refusals() -> None:
    with pytest.raises(NotComparable, match="an interval needs at least 2 groups of samples; there are 1"):
        standard_error(torch.tensor([1.0]))
    with pytest.raises(UsageError, match=r"as in 0\.95; got 95"):
        critical_t(4, 95)


def test_a_bootstrap_of_rows_excludes_its_own_estimate_and_the_jackknife_holds_it() -> None:
    """Trap 12: rows drawn twice are copies; at n = d = 512 the bootstrap is 231 where the estimate is 327."""
    n = d = 512
    x = draw(n, d) * torch.arange(1, d + 1, dtype=torch.float64).rsqrt()
    value = erank(x)
    generator = torch.Generator().manual_seed(1)
    boot = torch.stack([erank(x[torch.randint(0, n, (n,), generator=generator)]) for _ in range(8)])
    assert_close(value.item(), 327.2, rtol=0, atol=2)
    assert_close(boot.mean().item(), 231.2, rtol=0, atol=3)
    assert boot.mean() + 5 * boot.std() < value
    group = torch.arange(n) * 16 // n
    found = jackknifed(value, torch.stack([erank(x[group != g]) for g in range(16)]), "log")
    assert found.low < value < found.high


def test_tokens_as_the_unit_are_three_times_too_sure() -> None:
    """Trap 11: 64 prompts × 32 tokens with half of the variance between prompts: .0244 by tokens, .0733 by prompts, truth .0754."""
    spreads: dict[str, list[float]] = {"token": [], "prompt": []}
    values = []
    scale = torch.arange(1, 65, dtype=torch.float64).rsqrt()
    for seed in range(40):
        x = (draw(64, 1, 64, seed=seed) + draw(64, 32, 64, seed=seed + 1000)).flatten(0, 1) * scale
        for unit, group in (("prompt", torch.arange(2048) // 64), ("token", torch.arange(2048) % 32)):
            parts = Moments.of(x, shift=x[0], group=group, groups=32)
            left_out = unbiased_participation_ratio(parts.sum()[None] - parts)
            spreads[unit].append(float(standard_error(left_out.log())))
        values.append(float(unbiased_participation_ratio(parts.sum()).log()))
    truth = float(torch.tensor(values).std())
    means_of = {unit: sum(v) / len(v) for unit, v in spreads.items()}
    assert means_of["token"] == pytest.approx(0.0244, rel=0.2)
    assert means_of["prompt"] == pytest.approx(0.0733, rel=0.05)
    assert means_of["prompt"] > 3 * means_of["token"]
    assert truth == pytest.approx(0.0754, rel=3 / (2 * 39) ** 0.5), "three standard errors of a deviation of 40 draws"
