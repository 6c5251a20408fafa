"""Intrinsic dimensions, against independent packages, and what duplicates do to them.

GRIDE is frozen from dadapy 0.3.4 ``return_id_scaling_gride(range_max=64)`` on the data of :func:`embedded`; that package
solves the likelihood with N - 1 for N, which lowers its value by 1/(N n1) relative.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import DataError, NonFinite, UsageError
from rankscope.linalg.svd import singular_values
from rankscope.measures import neighbours
from rankscope.measures.gride import gride
from rankscope.measures.levina_bickel import levina_bickel
from rankscope.measures.neighbours import nearest
from rankscope.measures.participation_ratio import participation_ratio
from rankscope.measures.two_nn import two_nn


def embedded() -> Tensor:
    """400 rows of dimension 5 in 12."""
    return torch.from_numpy(
        np.random.default_rng(2).standard_normal((400, 5)) @ np.random.default_rng(4).standard_normal((5, 12))
    )


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_dimensions_are_those_of_scikit_dimension() -> None:
    import skdim

    z = embedded()
    assert float(two_nn(z)) == pytest.approx(skdim.id.TwoNN(method="mle", discard_fraction=0).fit(z.numpy()).dimension_)
    assert float(two_nn(z, method="linear")) == pytest.approx(skdim.id.TwoNN().fit(z.numpy()).dimension_, rel=1e-12)
    assert float(levina_bickel(z)) == pytest.approx(skdim.id.MLE().fit(z.numpy()).dimension_, rel=1e-12)
    full = z + torch.from_numpy(np.random.default_rng(5).standard_normal((400, 12)))
    ratio = participation_ratio(singular_values(full, centre=True).values)
    theirs = skdim.id.lPCA(ver="participation_ratio").fit(full.numpy()).dimension_
    assert float(ratio) == pytest.approx(theirs, rel=1e-11)


def test_two_nn_and_levina_bickel_are_their_frozen_values() -> None:
    """As scikit-dimension 0.5.0 and dadapy 0.3.4 gave them, for a machine without these."""
    z = embedded()
    assert float(two_nn(z)) == pytest.approx(4.740815923501588, rel=1e-12)
    assert float(two_nn(z, method="linear")) == pytest.approx(4.8809250062921645, rel=1e-12)
    assert float(levina_bickel(z)) == pytest.approx(4.6179631331596305, rel=1e-12)


def test_the_arithmetic_mean_is_another_number() -> None:
    distances = nearest(embedded(), 20)
    local = 1 / (distances[:, -1:] / distances[:, :-1]).log().mean(-1)
    assert float(local.mean()) > 1.05 * float(levina_bickel(embedded()))


DADAPY = ["0x1.2f698714baf7ep+2", "0x1.3f38873f817eep+2", "0x1.3da32d16922f1p+2", "0x1.24f3453ec0b67p+2"]


@pytest.mark.parametrize(("n1", "theirs"), list(zip((1, 2, 4, 8), DADAPY, strict=True)))
def test_gride_is_dadapys_but_for_its_n_minus_one(n1: int, theirs: str) -> None:
    mine, value = float(gride(embedded(), n1=n1)), float.fromhex(theirs)
    assert 0 < mine / value - 1 < 1.5 / (400 * n1)


def test_gride_at_one_and_two_is_two_nn() -> None:
    z = embedded()
    assert float(gride(z, n1=1)) == pytest.approx(float(two_nn(z)) * 400 / 399, rel=1e-12)


@pytest.mark.parametrize(("d", "expected"), [(2, 1.93), (5, 4.80), (10, 8.38), (20, 15.7), (50, 30.8)])
def test_high_dimensions_are_underestimated(d: int, expected: float) -> None:
    cube = torch.rand(1200, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    assert float(two_nn(cube)) == pytest.approx(expected, rel=0.12)


def test_distances_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    x = torch.randn(60, 5, dtype=torch.float64) + 1e4
    exact = (
        torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf).sort(1).values[:, :4]
    )
    assert_close(nearest(x.to(device), 4).cpu(), exact, rtol=1e-12, atol=0)
    monkeypatch.setattr(neighbours, "_BLOCK", 60 * 7)
    assert_close(nearest(x.to(device), 4).cpu(), exact, rtol=1e-12, atol=0)


def test_neighbours_are_other_samples_by_their_nearest_row(device: torch.device) -> None:
    x = torch.randn(40, 3, dtype=torch.float64)
    sample = 2 * (torch.arange(40) % 8) + 5
    pairs = torch.cdist(x, x)
    each = torch.stack([pairs[:, sample == c].min(1).values for c in sample.unique()], 1)
    own = sample[:, None] == sample.unique()
    exact = each.masked_fill(own, torch.inf).sort(1).values[:, :3]
    assert_close(nearest(x.to(device), 3, sample=sample).cpu(), exact, rtol=1e-9, atol=0)
    assert_close(nearest(x, 3, sample=torch.arange(40)), nearest(x, 3))


def test_it_does_not_change_with_scale_turn_shift_or_order() -> None:
    z = embedded()
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    for estimate in (two_nn, levina_bickel, gride):
        value = estimate(z)
        for other in (z * 1e-4, z @ turn, z + 5, z.flip(0)):
            assert_close(estimate(other), value, rtol=1e-7, atol=0)


def test_duplicates_are_removed() -> None:
    """Eight dimensions; every row three times over sends the ratio of distances to 0/0."""
    z = torch.rand(500, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tripled = z.repeat(3, 1)
    plain = torch.cdist(tripled, tripled, compute_mode="donot_use_mm_for_euclid_dist").topk(3, largest=False).values
    assert not (plain[:, 2] / plain[:, 1]).log().mean().isfinite()  # the naive estimate
    assert len(nearest(tripled, 2)) == 500
    assert_close(two_nn(tripled), two_nn(z), rtol=1e-12, atol=0)


def test_near_duplicates_are_told_by_their_sample() -> None:
    """Every row twice, 1e-5 apart, makes eight dimensions 0.1."""
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(500, 8, generator=generator, dtype=torch.float64)
    pairs = z.repeat(2, 1) + 1e-5 * torch.randn(1000, 8, generator=generator, dtype=torch.float64)
    assert float(two_nn(pairs)) == pytest.approx(0.1, abs=0.02)
    assert float(two_nn(pairs, torch.arange(500).repeat(2))) == pytest.approx(float(two_nn(z)), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_storage_at_half_precision_is_harmless(dtype: torch.dtype) -> None:
    z = torch.rand(600, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert float(two_nn(z.to(dtype))) == pytest.approx(float(two_nn(z)), rel=0.03)


def test_what_cannot_be_estimated_is_refused() -> None:
    z = embedded()
    with pytest.raises(DataError, match="1 of 3 rows differ, and a row has 0 other rows"):
        two_nn(torch.ones(3, 4))
    with pytest.raises(DataError, match="20 neighbours are asked for"):
        levina_bickel(z[:20])
    with pytest.raises(
        DataError, match="2 neighbours are asked for, but 400 of 400 rows differ, and a row has 1 other samples"
    ):
        two_nn(z, torch.arange(400) % 2)
    with pytest.raises(NonFinite, match="must be finite"):
        two_nn(torch.full((5, 2), torch.nan))
    with pytest.raises(UsageError, match="'mle' or 'linear'; got 'ml'"):
        two_nn(z, method="ml")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 2 neighbours; got 1"):
        levina_bickel(z, k=1)
    with pytest.raises(UsageError, match="1 <= n1 < n2; got 4 and 2"):
        gride(z, n1=4, n2=2)
