"""A matrix that is read a few rows at a time, beside the tensor that it stands for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope import memory
from rankscope.analysis.references import gaussian
from rankscope.errors import TooLarge
from rankscope.linalg import sums
from rankscope.linalg.rows import at_unit_scale, sample_means
from rankscope.linalg.streamed import Streamed
from rankscope.linalg.svd import singular_values


def matrix(n: int = 40, d: int = 6, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def streamed(x: Tensor) -> Streamed:
    return Streamed((x.shape[0], x.shape[1]), x.dtype, lambda rows: x[rows])


def test_it_has_the_rows_of_its_tensor() -> None:
    x = matrix()
    s, pairs, mask = streamed(x), torch.tensor([[3, 1], [1, 39]]), torch.arange(40) % 3 == 0
    assert (len(s), s.shape, s.ndim, s.dtype, s.numel()) == (40, (40, 6), 2, torch.float32, 240)
    for index in (slice(5, 9), slice(None), slice(38, 90), mask, torch.tensor([7, 7, 2]), pairs):
        assert_close(s[index], x[index], rtol=0, atol=0)
    assert_close(s.taken(mask).taken(slice(2, 5)).mapped(Tensor.double)[:], x[mask][2:5].double(), rtol=0, atol=0)
    assert s.mapped(Tensor.double).dtype == torch.float64


@pytest.mark.parametrize(
    "whole",
    [
        lambda x: x.double(),
        lambda x: x @ x.mT,
        lambda x: x - 1,
        lambda x: 2 * x,
        lambda x: torch.cat([torch.zeros(1, 6), x]),
        lambda x: torch.zeros(1, 6) + x,
        lambda x: x == x,
    ],
)
def test_what_takes_all_of_it_is_refused(whole: Callable[[Streamed], object]) -> None:
    with pytest.raises(TooLarge, match=r"this needs all 40 rows of 6 features at once, 9\.6e-07 GB"):
        whole(streamed(matrix()))


def test_an_attribute_that_no_tensor_has_is_a_mistake_and_no_lack_of_memory() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = streamed(matrix()).no_such_thing  # type: ignore[attr-defined]


def test_no_more_is_read_at_once_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: 4 * 10 * 6 * 4.0)
    s = streamed(matrix())
    assert len(s[:10]) == 10
    with pytest.raises(TooLarge, match="this needs 11 of 40 rows"):
        _ = s[:11]


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize(
    ("shape", "dtype", "route"),
    [((400, 90), torch.float32, "gram"), ((120, 190), torch.float32, "kernel"), ((40, 6), torch.float32, "direct")],
)
def test_its_singular_values_are_those_of_its_tensor(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: torch.dtype, route: str, centre: bool
) -> None:
    monkeypatch.setattr(sums, "BLOCK", 17 * shape[1])
    x = matrix(*shape, dtype)
    got, want = singular_values(streamed(x), centre=centre), singular_values(x, centre=centre)
    assert got.routes == want.routes == (route,)
    assert_close(got.values, want.values, rtol=1e-9, atol=1e-9)
    assert_close(got.norm, want.norm)


def test_a_tail_below_the_gram_matrix_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "BLOCK", 64 * 90)
    x = matrix(400, 90, torch.float64) * 10.0 ** -torch.linspace(0, 9, 90, dtype=torch.float64)
    got, want = singular_values(streamed(x)), torch.linalg.svdvals(x)
    assert got.routes == ("direct",)
    assert_close(got.values, want, rtol=1e-6, atol=0)


def test_a_unit_that_suits_all_rows_is_found_and_applied_as_they_are_read() -> None:
    x = matrix(dtype=torch.float64) * 2.0**300
    (got,), exponent = at_unit_scale([streamed(x)])
    (want,), same = at_unit_scale([x])
    assert exponent == same != 0
    assert_close(got[:], want[:], rtol=0, atol=0)


def test_means_of_samples_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, sample = matrix(), torch.arange(40) // 7
    want = sample_means(x, sample)
    monkeypatch.setattr(sums, "BLOCK", 11 * 6)
    assert_close(sample_means(streamed(x), sample), want, rtol=0, atol=0)


def test_noise_is_the_same_however_it_is_read() -> None:
    noise = gaussian(50, 6, torch.float32)
    seed = 50 * 1_000_003 + 6
    assert_close(noise[:], torch.randn(50, 6, generator=torch.Generator().manual_seed(seed)), rtol=0, atol=0)
    shuffled = torch.randperm(50)
    assert_close(noise[shuffled], noise[:][shuffled], rtol=0, atol=0)


def test_noise_of_several_seeds_does_not_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankscope.analysis.references.DRAWN", 16 * 6)
    noise = gaussian(50, 6, torch.float64)
    assert noise.dtype == torch.float64
    assert len(torch.unique(noise[:], dim=0)) == 50
    assert_close(noise[20:40], noise[:][20:40], rtol=0, atol=0)
