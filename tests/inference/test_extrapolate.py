"""Curves in n, their limits where a law is known, and refusals where none is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import NotComparable, UnknownName, UsageError
from rankscope.inference.extrapolate import Curve, extrapolate, subsampling_curve

D = 512
TRUE = {"participation-ratio-naive": 28.2808, "entropy-rank": 117.2312, "roy-vetterli": 409.5545}


def rows(n: int, width: int = D, seed: int = 0) -> Tensor:
    normal = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normal * torch.arange(1, width + 1, dtype=torch.float64).rsqrt()


def value(x: Tensor, measure: str) -> Tensor:
    z = x - x.mean(0)
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    if measure == "participation-ratio-naive":
        return gram.trace() ** 2 / gram.square().sum()
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    values = values.sqrt() if measure == "roy-vetterli" else values
    return torch.special.entr(values / values.sum()).sum().exp()


def curve(n: int, measure: str, seed: int = 0) -> Curve:
    x = rows(n, seed=seed)
    generator = torch.Generator().manual_seed(1)
    return subsampling_curve(lambda index: value(x[index], measure), torch.arange(n), generator=generator)


def test_participation_ratio_from_half_as_many_rows_as_features() -> None:
    found = [curve(256, "participation-ratio-naive", seed) for seed in range(6)]
    limits = torch.stack([extrapolate(c, "participation-ratio-naive", width=D) for c in found])
    assert_close(limits.mean().item(), TRUE["participation-ratio-naive"], rtol=0.06, atol=0)
    naive = torch.stack([c.values[0].mean() for c in found]).mean()
    assert_close(1 / naive, torch.tensor(1 / 28.2808 + 1 / 256).double(), rtol=0.05, atol=0)
    assert naive < 0.95 * TRUE["participation-ratio-naive"]


@pytest.mark.parametrize("n", [512, 1024])
def test_entropy_of_eigenvalues_is_quadratic(n: int) -> None:
    found = curve(n, "entropy-rank")
    assert_close(extrapolate(found, "entropy-rank", width=D).item(), TRUE["entropy-rank"], rtol=0.04, atol=0)
    assert found.values[0].mean() < 0.93 * TRUE["entropy-rank"]


def test_entropy_of_singular_values_needs_two_rows_a_feature_in_the_smallest_part() -> None:
    found = curve(4096, "roy-vetterli")
    assert_close(extrapolate(found, "roy-vetterli", width=D).item(), TRUE["roy-vetterli"], rtol=0.01, atol=0)
    few = curve(512, "roy-vetterli")
    with pytest.raises(NotComparable, match="if the smallest part has 2 rows per feature, 1024; it has 128"):
        extrapolate(few, "roy-vetterli", width=D)
    line = torch.stack([v.log().mean() for v in few.values])
    overshoot = float((line[0] + (line[0] - line[2]) / 3).exp())
    assert overshoot > 1.04 * TRUE["roy-vetterli"], "and rightly: it would have overshot"


def test_exact_laws_are_exact() -> None:
    n = torch.tensor([800.0, 400, 200], dtype=torch.float64)
    harmonic = Curve(n, tuple((1 / (1 / 30 + 1 / m)).reshape(1) for m in n))
    assert_close(extrapolate(harmonic, "participation-ratio-naive", width=64).item(), 30.0)
    quadratic = Curve(n, tuple((4 - 30 / m + 900 / m**2).exp().reshape(1) for m in n))
    assert_close(
        extrapolate(quadratic, "entropy-rank", width=64).item(),
        float(torch.tensor(4.0, dtype=torch.float64).exp()),
    )


def test_parts_are_disjoint_whole_samples() -> None:
    sample = torch.arange(40).repeat_interleave(3)
    seen: list[set[int]] = []

    def record(index: Tensor) -> Tensor:
        seen.append(set(sample[index].tolist()))
        assert len(index) == 3 * len(seen[-1])
        return torch.tensor(float(len(index)))

    found = subsampling_curve(record, sample, parts=(1, 2, 4))
    assert found.rows.tolist() == [120, 60, 30]
    assert [len(v) for v in found.values] == [1, 2, 4]
    assert set.union(*seen[3:]) == set(range(40))
    assert all(not (a & b) for i, a in enumerate(seen[3:]) for b in seen[4 + i :])


def test_refusals() -> None:
    with pytest.raises(NotComparable, match="a curve with 4 parts needs 16 samples; there are 5"):
        subsampling_curve(lambda index: index.sum(), torch.arange(5))
    flat = Curve(torch.tensor([100.0, 50]), (torch.ones(1), torch.ones(2)))
    with pytest.raises(
        UnknownName, match="no law in n is known for 'alpha-req'; there is one for participation-ratio-naive"
    ):
        extrapolate(flat, "alpha-req", width=4)
    with pytest.raises(UsageError, match="quadratic in 1/n: that needs at least 3 levels, and the curve has 2"):
        extrapolate(flat, "entropy-rank", width=4)
