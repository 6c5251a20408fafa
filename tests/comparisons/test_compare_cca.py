"""Canonical correlations: scikit-learn, netrep and the exact null as witnesses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.cross_decomposition import CCA
from torch import Tensor
from torch.testing import assert_close

from rankscope.comparisons.cca import canonical, cca, cca_adjusted, cca_angle, cca_mean, cca_null, pwcca, svcca
from rankscope.errors import NotComparable


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(rows: int = 60) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(20)
    z = rng.standard_normal((60, 12))
    x = z @ rng.standard_normal((12, 8)) + 0.1
    y = z @ rng.standard_normal((12, 8)) * 0.7 + rng.standard_normal((60, 8)) + 3
    return torch.tensor(x[:rows]), torch.tensor(y[:rows])


def by_qr(x: Tensor, y: Tensor) -> Tensor:
    """Canonical correlations from the definition: cosines between the column spaces of the centred data."""
    q, r = (torch.linalg.qr(z - z.mean(0)).Q for z in (x, y))
    return torch.linalg.svdvals(q.T @ r)


def test_equals_the_definition(moments_of) -> None:
    x, y = related()
    y = y[:, :5]
    rho = by_qr(x, y)
    found = canonical(moments_of(x, y))
    assert_close(found.correlations, rho, rtol=1e-9, atol=0)
    assert (found.rank_a, found.rank_b) == (8, 5)
    assert_close(cca(moments_of(x, y)), rho.square().mean(), rtol=1e-9, atol=0)
    assert_close(cca_mean(moments_of(x, y)), rho.mean(), rtol=1e-9, atol=0)


def test_first_correlation_equals_scikit_learn(moments_of) -> None:
    x, y = related()
    model = CCA(n_components=1, scale=False, tol=1e-12, max_iter=5000).fit(x.numpy(), y.numpy())
    u, v = model.transform(x.numpy(), y.numpy())
    assert_close(
        canonical(moments_of(x, y)).correlations[0].item(), abs(np.corrcoef(u[:, 0], v[:, 0])[0, 1]), rtol=0, atol=1e-10
    )


def test_mean_equals_netrep(moments_of) -> None:
    """netrep (git 0186b8a), LinearMetric(alpha=0), which is the arc cosine of the mean correlation."""
    assert_close(cca_angle(moments_of(*related())).item(), 0.9132282531269114, rtol=0, atol=1e-12)


def test_projection_weights_equal_the_definition(moments_of) -> None:
    x, y = related()
    xc, yc = x - x.mean(0), y - y.mean(0)
    root_a = torch.tensor(np.linalg.inv(np.real(sqrtm((xc.T @ xc).numpy()))))
    root_b = torch.tensor(np.linalg.inv(np.real(sqrtm((yc.T @ yc).numpy()))))
    u, rho, _ = torch.linalg.svd(root_a @ xc.T @ yc @ root_b)
    variates = xc @ root_a @ u
    alpha = (variates.T @ xc).abs().sum(1)
    assert_close(pwcca(moments_of(x, y)), (alpha * rho).sum() / alpha.sum(), rtol=1e-9, atol=0)
    assert (pwcca(moments_of(x, y)) - pwcca(moments_of(y, x))).abs() > 1e-4, "it is not symmetric"


def test_svcca_keeps_the_components_that_hold_the_energy(moments_of) -> None:
    x, y = related()
    sides = []
    for z in (x, y):
        z = z - z.mean(0)
        u, s, _ = torch.linalg.svd(z, full_matrices=False)
        keep = int((s.square().cumsum(0) / s.square().sum() < 0.9).sum()) + 1
        sides.append(u[:, :keep])
    expected = torch.linalg.svdvals(sides[0].T @ sides[1]).mean()
    assert_close(svcca(moments_of(x, y), energy=0.9), expected, rtol=1e-9, atol=0)
    assert (canonical(moments_of(x, y), energy=0.9).rank_a, canonical(moments_of(x, y), energy=0.9).rank_b) == (
        sides[0].shape[1],
        sides[1].shape[1],
    )


def test_any_invertible_map_of_a_side_changes_nothing(moments_of) -> None:
    x, y = related()
    mapped = moments_of(x @ draw(8, 8, 1) + 4, y @ draw(8, 8, 2) - 7)
    for measure in (cca, cca_mean, cca_adjusted):
        assert_close(measure(mapped), measure(moments_of(x, y)), rtol=1e-7, atol=0)
    assert (svcca(mapped, energy=0.9) - svcca(moments_of(x, y), energy=0.9)).abs() > 1e-3, "SVCCA is not so invariant"
    assert_close(cca(moments_of(x, x @ draw(8, 8, 3))).item(), 1.0, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("rows", "width"), [(1024, 192), (512, 96), (1000, 38)])
def test_independent_features_score_the_exact_null(moments_of, rows: int, width: int) -> None:
    """Trap 17: d/(n - 1), so nearly anything at small n; the adjusted value is 0."""
    pair = moments_of(draw(rows, width), draw(rows, width, 1))
    assert_close(cca_null(pair).item(), width / (rows - 1), rtol=1e-12, atol=0)
    assert_close(cca(pair).item(), width / (rows - 1), rtol=0.03, atol=0)
    assert abs(cca_adjusted(pair)) < 0.01


def test_the_null_holds_on_average_for_unequal_widths(moments_of) -> None:
    values = torch.stack([cca(moments_of(draw(25, 6, 2 * i), draw(25, 3, 2 * i + 1))) for i in range(200)])
    assert abs(values.mean() - 6 / 24) < 3 * values.std() / 200**0.5


def test_no_more_rows_than_dimensions_are_refused(moments_of) -> None:
    """Trap 17: at n ≤ d every correlation is 1, whatever the features."""
    x, y = draw(16, 20), draw(16, 20, 1)
    assert_close(by_qr(x[:, :15], y[:, :15]), torch.ones(15, dtype=torch.float64))
    with pytest.raises(NotComparable, match="canonical correlations of 16 rows with 15 dimensions are all 1"):
        cca(moments_of(x, y))
    assert svcca(moments_of(x, y), energy=0.5) < 1


def test_a_low_rank_side_counts_its_rank(moments_of) -> None:
    x = draw(100, 3) @ draw(3, 10, 1)
    found = canonical(moments_of(x, x @ draw(10, 7, 2)))
    assert (found.rank_a, found.rank_b) == (3, 3)
    assert_close(found.correlations[:3], torch.ones(3, dtype=torch.float64))
    assert (found.correlations[3:] == 0).all()
    assert_close(cca(moments_of(x, x)).item(), 1.0)


def test_projection_weights_count_no_more_variates_than_the_smaller_rank(moments_of) -> None:
    x, y = related()
    narrow = y[:, :3]
    assert_close(pwcca(moments_of(x, narrow @ draw(3, 8, 1))), pwcca(moments_of(x, narrow)), rtol=1e-7, atol=0)


def test_batches_and_constant_sides(moments_of) -> None:
    x, y = related()
    y = y.clone()
    parts = moments_of(x, y, torch.arange(60) % 2, 2)
    assert_close(cca(parts)[1], cca(moments_of(x[1::2], y[1::2])), rtol=1e-9, atol=0)
    assert cca(moments_of(x, torch.ones(60, 8))).isnan()
    with pytest.raises(NotComparable, match="canonical correlation needs at least 4 rows; there are 3"):
        cca(moments_of(x[:3], y[:3]))
