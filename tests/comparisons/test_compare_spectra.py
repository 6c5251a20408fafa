"""Distances of spectra and of clouds: POT and scipy as witnesses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import eigh, sqrtm
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, wasserstein_distance
from torch import Tensor
from torch.testing import assert_close

from rankscope.comparisons.gaussian import affine_distance, bures, frechet, generalised_eigenvalues
from rankscope.comparisons.rounding import rounding_share
from rankscope.comparisons.spectra import (
    atom_wasserstein,
    cumulative_distance,
    js,
    kl,
    log_wasserstein,
    log_wasserstein_2,
)
from rankscope.errors import NotComparable

DISTANCES = (log_wasserstein, log_wasserstein_2, atom_wasserstein, kl, js, cumulative_distance)


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectra(r: int = 40) -> tuple[Tensor, Tensor]:
    i = torch.arange(1, r + 1, dtype=torch.float64)
    return 3 * i**-0.5, i**-0.8


def shares(s: Tensor) -> np.ndarray:
    return (s.square() / s.square().sum()).numpy()


def test_equal_scipy() -> None:
    a, b = spectra()
    p, q = shares(a), shares(b)
    assert_close(atom_wasserstein(a, b).item(), wasserstein_distance(p, q), rtol=0, atol=1e-15)
    assert_close(log_wasserstein(a, b).item(), wasserstein_distance(np.log(p), np.log(q)), rtol=0, atol=1e-14)
    assert_close(kl(a, b).item(), entropy(q, p), rtol=0, atol=1e-15)
    assert_close(js(a, b).item(), jensenshannon(p, q) ** 2, rtol=0, atol=1e-15)
    sup = np.abs(np.cumsum(a.numpy() / a.sum().item()) - np.cumsum(b.numpy() / b.sum().item())).max()
    assert_close(cumulative_distance(a, b).item(), sup, rtol=0, atol=1e-15)


def test_equal_pot() -> None:
    import ot

    a, b = spectra()
    p, q = shares(a), shares(b)
    assert_close(atom_wasserstein(a, b).item(), ot.wasserstein_1d(p, q, p=1), rtol=0, atol=1e-15)
    assert_close(log_wasserstein(a, b).item(), ot.wasserstein_1d(np.log(p), np.log(q), p=1), rtol=0, atol=1e-14)
    squared = ot.wasserstein_1d(np.log(p), np.log(q), p=2)
    assert_close(log_wasserstein_2(a, b).square().item(), squared, rtol=0, atol=1e-14)
    assert log_wasserstein_2(a, b) > log_wasserstein(a, b)


@pytest.mark.parametrize("distance", DISTANCES)
def test_scale_and_order_change_nothing_and_a_spectrum_is_at_zero_from_itself(distance) -> None:
    a, b = spectra()
    assert_close(distance(7 * a.flip(0), 0.1 * b), distance(a, b))
    assert distance(a, a) == 0
    assert distance(a, b) > 1e-4
    batch = distance(torch.stack([a, b]), torch.stack([b, b]))
    assert batch.shape == (2,)
    assert_close(batch[0], distance(a, b))
    assert distance(a[None][:0], b[None][:0]).shape == (0,)
    assert distance(a.float(), b.float()).dtype == torch.float64


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_spectrum_of_zeros_has_no_distance_and_lengths_must_agree(distance) -> None:
    a, b = spectra()
    assert distance(a, torch.zeros_like(b)).isnan()
    with pytest.raises(NotComparable, match="one has 40 singular values and the other 39"):
        distance(a, b[:-1])


def test_limits() -> None:
    one, flat = torch.zeros(10), torch.ones(10)
    one[0] = 1
    assert kl(one, flat).isinf()
    assert_close(kl(flat, one).item(), math.log(10))
    two = torch.zeros(10)
    two[:2] = 1
    assert js(one, two) < math.log(2)
    assert_close(cumulative_distance(one, flat).item(), 0.9)
    assert cumulative_distance(*spectra(), power=2) != cumulative_distance(*spectra())


def test_the_log_distance_stops_at_the_dtype_floor() -> None:
    """Two collapsed spectra whose tails are rounding noise of different size are not far apart."""
    a = torch.cat([torch.ones(4), torch.full((4,), 1e-9)]).double()
    b = torch.cat([torch.ones(4), torch.full((4,), 1e-12)]).double()
    assert log_wasserstein(a, b) == log_wasserstein(b, a)
    assert log_wasserstein(a, b) < 1e-6
    assert_close(log_wasserstein(a, b, dtype=torch.float64).item(), 6 * math.log(10) / 2, rtol=1e-3, atol=0)
    assert_close(rounding_share(8, torch.bfloat16) / rounding_share(8, torch.float32), 2.0**32)


def test_bures_and_frechet_equal_the_definition(moments_of) -> None:
    x, y = draw(50, 6) * torch.arange(1, 7), draw(50, 6, 1) + 2
    s, t = np.cov(x.T.numpy()), np.cov(y.T.numpy())
    root = np.real(sqrtm(s))
    expected = np.trace(s) + np.trace(t) - 2 * np.trace(np.real(sqrtm(root @ t @ root)))
    assert_close(bures(moments_of(x, y)).item(), expected, rtol=1e-10, atol=0)
    moved = float((x.mean(0) - y.mean(0)).square().sum())
    assert_close(frechet(moments_of(x, y)).item(), expected + moved, rtol=1e-10, atol=0)


def test_bures_and_frechet_equal_pot_and_torchmetrics(moments_of) -> None:
    """POT; torchmetrics 1.9.0 (the core of its FID) frozen."""
    rng = np.random.default_rng(20)
    z = rng.standard_normal((60, 12))
    x = z @ rng.standard_normal((12, 8)) + 0.1
    y = z @ rng.standard_normal((12, 8)) * 0.7 + rng.standard_normal((60, 8)) + 3
    pair = moments_of(torch.tensor(x), torch.tensor(y))
    assert_close(frechet(pair).item(), 125.02611523416914, rtol=0, atol=1e-12)
    import ot

    reference = ot.gaussian.bures_distance(np.cov(x.T), np.cov(y.T))
    assert_close(bures(pair).sqrt().item(), reference, rtol=0, atol=1e-12)


def test_bures_needs_a_shared_basis(moments_of) -> None:
    x = draw(60, 5) * torch.arange(1, 6)
    q = torch.linalg.qr(draw(5, 5, 3)).Q
    assert bures(moments_of(x, x @ q)) > 1, "one side rotated is another cloud"
    both = moments_of(x @ q, (x + draw(60, 5, 1)) @ q)
    assert_close(bures(both), bures(moments_of(x, x + draw(60, 5, 1))), rtol=1e-9, atol=0)
    assert_close(bures(moments_of(x, x)).item(), 0.0, rtol=0, atol=1e-12)
    with pytest.raises(NotComparable, match="the Bures distance needs two runs with the same features"):
        bures(moments_of(x, x[:, :4]))
    with pytest.raises(NotComparable, match="the Bures distance needs at least 4 rows; there are 2"):
        bures(moments_of(x[:2], x[:2]))


def test_generalised_eigenvalues_equal_scipy(moments_of) -> None:
    x, y = draw(80, 5), draw(80, 5, 1) @ draw(5, 5, 2)
    reference = eigh(np.cov(y.T.numpy()), np.cov(x.T.numpy()), eigvals_only=True)[::-1]
    found = generalised_eigenvalues(moments_of(x, y))
    assert_close(found, torch.tensor(reference.copy()), rtol=1e-8, atol=0)
    assert_close(
        affine_distance(moments_of(x, y)).item(), float(np.sqrt((np.log(reference) ** 2).sum())), rtol=1e-8, atol=0
    )


def test_an_invertible_map_of_both_sides_keeps_the_affine_distance(moments_of) -> None:
    x, y, a = draw(80, 5), draw(80, 5, 1), draw(5, 5, 2)
    assert_close(affine_distance(moments_of(x @ a, y @ a)), affine_distance(moments_of(x, y)), rtol=1e-6, atol=0)
    assert_close(generalised_eigenvalues(moments_of(x, 2 * x)), torch.full((5,), 4.0, dtype=torch.float64))


def test_directions_below_rounding_count_as_unchanged(moments_of) -> None:
    x = torch.linalg.qr(draw(80, 5) - draw(80, 5).mean(0)).Q
    x[:, 4] = 0
    y = x.clone()
    y[:, 0] *= 3
    found = generalised_eigenvalues(moments_of(x, y))
    assert_close(found, torch.tensor([9.0, 1, 1, 1, 1], dtype=torch.float64), rtol=1e-6, atol=0)
    assert generalised_eigenvalues(moments_of(torch.ones(9, 3), draw(9, 3))).isnan().all()
    with pytest.raises(NotComparable, match="generalised eigenvalues needs at least 4 rows"):
        generalised_eigenvalues(moments_of(x[:3], x[:3]))
