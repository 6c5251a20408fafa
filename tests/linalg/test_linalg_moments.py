"""Sums over rows: equal to their definitions, whatever the order and grouping in which they were made."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from rankscope.errors import NonFinite, UsageError
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.sums import lifted


def rows(n: int, d: int, *, seed: int = 0, mean: float = 5.0, device: torch.device | str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) + mean).to(device)


def naive(x: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
    """The sums of the docstrings, a row at a time."""
    first, second, third, fourth = (
        torch.zeros(s, dtype=torch.float64) for s in ((x.shape[1],), (x.shape[1],) * 2, (x.shape[1],), ())
    )
    for row in x.double():
        z = row - shift
        first += z
        second += torch.outer(z, z)
        third += (z @ z) * z
        fourth += (z @ z) ** 2
    return first, second, third, fourth


def same(a: Moments, b: Moments) -> None:
    for name in ("rows", "first", "second", "third", "fourth"):
        assert_close(getattr(a, name), getattr(b, name), rtol=1e-12, atol=1e-9)


def test_sums_are_those_of_the_definition(device: torch.device) -> None:
    x = rows(11, 4, device=device)
    moments = Moments.of(x, shift=x[0])
    assert moments.rows.tolist() == [11]
    for mine, theirs in zip(
        (moments.first, moments.second, moments.third, moments.fourth), naive(x.cpu(), x[0].cpu()), strict=True
    ):
        assert_close(mine[0].cpu(), theirs, rtol=1e-13, atol=1e-12)


def test_groups_are_sums_of_their_own_rows(device: torch.device) -> None:
    x = rows(23, 3, device=device)
    group = torch.randint(0, 5, (23,), generator=torch.Generator().manual_seed(1))
    batched = Moments.of(x, shift=x[0], group=group, groups=6)
    for g in range(6):
        same(batched[g : g + 1], Moments.of(x[(group == g).to(device)], shift=x[0]))
    same(batched.sum(0)[None], Moments.of(x, shift=x[0]))


@given(st.lists(st.integers(0, 9), min_size=2, max_size=4), st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_joining_is_associative_and_commutative(sizes: list[int], seed: int, random) -> None:
    parts = [rows(n, 3, seed=seed + i) for i, n in enumerate(sizes)]
    shift = rows(1, 3, seed=99)[0]
    pieces = [Moments.of(p, shift=shift) for p in parts]
    whole = Moments.of(torch.cat(parts), shift=shift)
    random.shuffle(pieces)
    left = pieces[0]
    for piece in pieces[1:]:
        left = left + piece
    right = pieces[-1]
    for piece in pieces[-2::-1]:
        right = piece + right
    same(left, whole)
    same(right, whole)


def test_a_jackknife_is_the_total_less_the_groups() -> None:
    x, group = rows(30, 4), torch.arange(30) % 5
    groups = Moments.of(x, shift=x[0], group=group, groups=5)
    without = groups.sum(0) - groups
    for g in range(5):
        kept = x[group != g]
        assert_close(without.covariance[g], torch.cov(kept.mT), rtol=1e-12, atol=1e-12)
        assert_close(without.mean[g], kept.mean(0), rtol=1e-13, atol=0)
        expected = (kept - kept.mean(0)).square().sum(1).square().sum()
        assert_close(without.fourth_central[g], expected, rtol=1e-11, atol=0)


def test_thirteen_chunks_are_one_matrix() -> None:
    x = rows(131, 6, mean=30.0)
    first, *others = (Moments.of(part, shift=x[:8].mean(0)) for part in x.chunk(13))
    chunked = sum(others, start=first)
    assert_close(chunked.fourth_central, Moments.of(x, shift=x[:8].mean(0)).fourth_central, rtol=1e-13, atol=0)


def test_a_shift_keeps_what_a_far_origin_loses() -> None:
    x = rows(500, 4, mean=1e8)
    exact = (x - x.mean(0)).mT @ (x - x.mean(0))
    assert_close(Moments.of(x, shift=x[0]).scatter[0], exact, rtol=1e-10, atol=1e-6)
    about_zero = Moments.of(x, shift=torch.zeros(4)).scatter[0]
    assert (about_zero - exact).abs().max() > 1e-2  # the negative control: E[x²] - E[x]²


class Copies(TorchDispatchMode):
    """Records the device and dtype of every copy that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[object, object]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default:
            self.seen.append((kwargs.get("device"), kwargs.get("dtype")))
        return function(*args, **(kwargs or {}))


def test_rows_travel_as_they_are_stored() -> None:
    x, far = rows(4, 3).bfloat16(), torch.device("meta")
    with Copies() as copies:
        found = lifted(x, far)
    assert (found.device, found.dtype) == (far, torch.float64)
    assert copies.seen == [(far, torch.bfloat16), (None, torch.float64)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_features_are_lifted_before_anything_is_summed(dtype: torch.dtype, device: torch.device) -> None:
    x = rows(40, 5, device=device).to(dtype)
    same(Moments.of(x, shift=x[0]), Moments.of(x.double(), shift=x[0]))


def test_rows_that_are_equal_have_a_trace_of_exactly_zero() -> None:
    x = rows(1, 6, mean=0.1).expand(9, 6)
    assert Moments.of(x, shift=x.mean(0) * (1 + 1e-16)).trace.tolist() == [0.0]
    assert Moments.of(x, shift=torch.zeros(6)).trace.tolist() == [0.0]
    assert Moments.of(rows(9, 6), shift=torch.zeros(6)).trace.item() > 1


def test_no_rows_have_the_moments_of_nothing() -> None:
    empty = Moments.of(torch.zeros(0, 3), shift=torch.zeros(3))
    assert empty.rows.tolist() == [0]
    assert empty.scatter.abs().max() == 0
    assert empty.covariance.isnan().all()


def test_gram_is_about_the_origin() -> None:
    x = rows(9, 4)
    assert_close(Moments.of(x, shift=x[3]).gram[0], x.mT @ x, rtol=1e-13, atol=1e-11)


def test_pairs_are_those_of_the_definition(device: torch.device) -> None:
    a, b = rows(14, 3, device=device), rows(14, 5, seed=7, mean=-2.0, device=device)
    group = torch.arange(14) % 2
    pair = PairMoments.of(a, b, shift_a=a[0], shift_b=b[0], group=group, groups=2)
    same(pair.a, Moments.of(a, shift=a[0], group=group, groups=2))
    same(pair.b, Moments.of(b, shift=b[0], group=group, groups=2))
    chosen = (group == 1).to(device)
    z_a, z_b = (a - a[0])[chosen], (b - b[0])[chosen]
    q_a, q_b = z_a.square().sum(1), z_b.square().sum(1)
    assert_close(pair.cross[1], z_a.mT @ z_b)
    assert_close(pair.a_weighted[1], (q_b[:, None] * z_a).sum(0))
    assert_close(pair.b_weighted[1], (q_a[:, None] * z_b).sum(0))
    assert_close(pair.norms[1], (q_a * q_b).sum())
    total, centred = pair.sum(0), (a - a.mean(0)).mT @ (b - b.mean(0))
    assert_close(total.cross_scatter, centred, rtol=1e-11, atol=1e-11)
    left = (total - pair).cross_scatter[0]
    kept_a, kept_b = a[chosen], b[chosen]
    assert_close(left, (kept_a - kept_a.mean(0)).mT @ (kept_b - kept_b.mean(0)), rtol=1e-11, atol=1e-11)


def naive_clusters(x: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    z = x - x.mean(0)
    grams = [z[sample == c].mT @ z[sample == c] for c in sample.unique()]
    return sum(g.trace() ** 2 for g in grams), sum(g.square().sum() for g in grams)


def test_clusters_centre_exactly_in_every_replicate(device: torch.device) -> None:
    x = rows(60, 7, device=device)
    sample = torch.randint(0, 20, (60,), generator=torch.Generator().manual_seed(3))
    group = sample // 4
    groups = ClusterMoments.of(x, sample, shift=x[0], group=group, groups=5)
    without = groups.sum(0) - groups
    for g in range(5):
        kept = group != g
        traces, norms = naive_clusters(x.cpu()[kept], sample[kept])
        assert_close(without.central_traces_squared[g].cpu(), traces, rtol=1e-10, atol=0)
        assert_close(without.central_norms_squared[g].cpu(), norms, rtol=1e-10, atol=0)
        assert without.samples[g] == len(sample[kept].unique())


@pytest.mark.parametrize("d", [2, 40])
def test_clusters_longer_and_shorter_than_the_width_agree_with_the_definition(d: int) -> None:
    x = rows(30, d)
    sample = torch.tensor([0] * 17 + [1] * 9 + [2] * 4)
    found = ClusterMoments.of(x, sample, shift=x[0])
    traces, norms = naive_clusters(x, sample)
    assert_close(found.central_traces_squared[0], traces, rtol=1e-11, atol=0)
    assert_close(found.central_norms_squared[0], norms, rtol=1e-11, atol=0)


def test_spoilt_rows_are_refused_by_number() -> None:
    x = rows(6, 3)
    x[4, 1] = torch.nan
    with pytest.raises(NonFinite, match=r"row 4 of 6 \(1 in all\)"):
        Moments.of(x, shift=x[0])
    with pytest.raises(NonFinite, match="row 4 of 6"):
        PairMoments.of(rows(6, 3), x, shift_a=x[0], shift_b=x[0])


def test_arguments_that_cannot_be_meant_are_refused() -> None:
    x = rows(6, 3)
    with pytest.raises(UsageError, match="different shifts"):
        Moments.of(x, shift=x[0]) + Moments.of(x, shift=x[1])
    with pytest.raises(UsageError, match="numbered 0 to 1; got 0 to 2"):
        Moments.of(x, shift=x[0], group=torch.arange(6) % 3, groups=2)
    with pytest.raises(UsageError, match="the shift 2"):
        Moments.of(x, shift=x[0, :2])
    with pytest.raises(UsageError, match="got groups of shape"):
        Moments.of(x, shift=x[0], group=torch.arange(5))
    with pytest.raises(UsageError, match="one matrix has 6 rows, the other 5"):
        PairMoments.of(x, x[:5], shift_a=x[0], shift_b=x[0])
    with pytest.raises(UsageError, match=r"\(n, d\) matrix"):
        Moments.of(x[None], shift=x[0])
    with pytest.raises(UsageError, match="a sample lies in two groups"):
        ClusterMoments.of(x, torch.zeros(6, dtype=torch.int64), shift=x[0], group=torch.arange(6) % 2, groups=2)
