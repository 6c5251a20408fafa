"""Sums about another shift are those that the rows give about it, and one triangle is the whole matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rankscope.inference.influence import named
from rankscope.linalg.about import clusters_about, moments_about, one_a_sample, pair_about, symmetric, triangle
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.sums import Sums

N, D, E, GROUPS = 60, 5, 4, 3


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = drawn(N, D, seed=0) + 3, drawn(N, E, seed=1) - 1
SAMPLE = torch.arange(N) // torch.tensor([1, 2, 3]).repeat_interleave(20) + torch.arange(N) // 20 * 100
GROUP = SAMPLE // 100


def shift(width: int, place: int) -> Tensor:
    return drawn(width, seed=10 * place + width)


def of_moments(at: int) -> Sums:
    return Moments.of(X, shift=shift(D, at), group=GROUP, groups=GROUPS)


def of_clusters(at: int) -> Sums:
    return ClusterMoments.of(X, SAMPLE, shift=shift(D, at), group=GROUP, groups=GROUPS)


def of_pairs(at: int) -> Sums:
    return PairMoments.of(X, Y, shift_a=shift(D, at), shift_b=shift(E, at), group=GROUP, groups=GROUPS)


def moved(sums: Sums) -> Sums:
    if isinstance(sums, ClusterMoments):
        return clusters_about(sums, shift(D, 2))
    if isinstance(sums, PairMoments):
        sides = moments_about(sums.a, shift(D, 2)), moments_about(sums.b, shift(E, 2))
        return pair_about(sums, *sides)
    assert isinstance(sums, Moments)
    return moments_about(sums, shift(D, 2))


@pytest.mark.parametrize("made", [of_moments, of_clusters, of_pairs])
def test_every_sum_is_that_of_the_rows_about_the_other_shift(made: Callable[[int], Sums]) -> None:
    found, expected = named(moved(made(1))), named(made(2))
    assert found.keys() == expected.keys()
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-11, atol=1e-9, msg=name)
    before = named(made(1))
    assert all((before[name] - x).abs().max() > 1e-3 for name, x in expected.items() if name not in COUNTS)


COUNTS = {"rows", "moments.rows", "a.rows", "b.rows", "samples", "sizes_squared"}


def test_samples_of_one_row_have_the_sums_of_the_rows() -> None:
    found = named(one_a_sample(Moments.of(X, shift=shift(D, 0), groups=1)))
    expected = named(ClusterMoments.of(X, torch.arange(N), shift=shift(D, 0)))
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name], msg=name)


@pytest.mark.parametrize("width", [1, 2, 7])
def test_one_triangle_is_the_whole_matrix(width: int) -> None:
    z = drawn(9, width, seed=width)
    matrix = z.mT @ z
    packed = triangle(matrix)
    assert packed.shape == (width * (width + 1) // 2,)
    torch.testing.assert_close(symmetric(packed, width), matrix, rtol=0, atol=1e-14)
