"""Procrustes: scipy, netrep and torchmetrics as witnesses, its bias, and what is pure rotation."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes as scipy_procrustes
from torch import Tensor
from torch.testing import assert_close

from rankscope.comparisons.procrustes import (
    identity_distance,
    procrustes,
    procrustes_angle,
    procrustes_disparity,
    procrustes_held_out,
    rotation_gap,
)
from rankscope.errors import NotComparable


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(20)
    z = rng.standard_normal((60, 12))
    x = z @ rng.standard_normal((12, 8)) + 0.1
    y = z @ rng.standard_normal((12, 8)) * 0.7 + rng.standard_normal((60, 8)) + 3
    return torch.tensor(x), torch.tensor(y)


def rotation(width: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(width, width, seed)).Q


def test_equals_scipy(moments_of) -> None:
    x, y = related()
    pair = moments_of(x, y)
    assert_close(procrustes_disparity(pair).item(), scipy_procrustes(x.numpy(), y.numpy())[2], rtol=0, atol=1e-14)
    unit = [(z - z.mean(0)) / torch.linalg.matrix_norm(z - z.mean(0)) for z in (x, y)]
    assert_close(procrustes(pair).item(), orthogonal_procrustes(*(u.numpy() for u in unit))[1], rtol=0, atol=1e-14)


def test_equals_netrep_and_torchmetrics(moments_of) -> None:
    """netrep (git 0186b8a) LinearMetric(alpha=1) and torchmetrics 1.9.0 procrustes_disparity, not installed here."""
    pair = moments_of(*related())
    assert_close(procrustes_angle(pair).item(), 0.9496403570036288, rtol=0, atol=1e-14)
    assert_close(procrustes_disparity(pair).item(), 0.6613044114468275, rtol=0, atol=1e-14)


def test_rotation_scale_and_translation_change_nothing(moments_of) -> None:
    x, y = related()
    for seed in range(5):
        turned = moments_of(x, 0.3 * y @ rotation(8, seed) + seed)
        assert_close(procrustes(turned), procrustes(moments_of(x, y)), rtol=1e-10, atol=0)
    assert (procrustes(moments_of(x, y * torch.arange(1, 9))) - procrustes(moments_of(x, y))).abs() > 1e-3


@pytest.mark.parametrize(("rows", "width"), [(4000, 64), (8000, 32)])
def test_independent_features_score_their_bias_and_none_held_out(moments_of, rows: int, width: int) -> None:
    """Trap 17: (8/3π)√(d/n) for n ≫ d; a rotation chosen on other rows has none of it."""
    x, y = draw(rows, width), draw(rows, width, 1)
    assert_close(procrustes(moments_of(x, y)).item(), 8 / (3 * pi) * sqrt(width / rows), rtol=0.03, atol=0)
    folds = moments_of(x, y, torch.arange(rows) % 2, 2)
    assert abs(procrustes_held_out(folds[0], folds[1])) < 0.01


def test_few_rows_saturate_it(moments_of) -> None:
    assert_close(procrustes(moments_of(draw(128, 768), draw(128, 768, 1))).item(), 0.959, rtol=0, atol=0.01)


def test_held_out_is_one_for_a_rotation(moments_of) -> None:
    x = draw(80, 6)
    folds = moments_of(x, 2 * x @ rotation(6, 3) - 1, torch.arange(80) % 2, 2)
    assert_close(procrustes_held_out(folds[0], folds[1]).item(), 1.0)


def test_a_rotated_base_is_all_rotation(moments_of) -> None:
    x = draw(100, 6)
    turned = moments_of(x, x @ rotation(6, 1) + 3)
    direct = torch.linalg.matrix_norm((x @ rotation(6, 1)) - x - ((x @ rotation(6, 1)) - x).mean(0))
    assert_close(identity_distance(turned), direct / torch.linalg.matrix_norm(x - x.mean(0)), rtol=1e-10, atol=0)
    assert_close(rotation_gap(turned), identity_distance(turned), rtol=0, atol=1e-6)
    stretched = moments_of(x, 2 * x)
    assert_close(identity_distance(stretched).item(), 1.0)
    assert abs(rotation_gap(stretched)) < 1e-6


def test_edges(moments_of) -> None:
    x = draw(20, 3)
    assert procrustes(moments_of(x, torch.zeros(20, 3))).isnan()
    assert_close(procrustes(moments_of(x, draw(20, 1, 1))), procrustes(moments_of(x, -draw(20, 1, 1))))
    assert procrustes(moments_of(x, x)) <= 1
    assert_close(identity_distance(moments_of(x, x)).item(), 0.0, rtol=0, atol=1e-7)
    with pytest.raises(
        NotComparable, match="one has 3 and the other 2: cka, cca, rsa and mutual-neighbours compare any"
    ):
        identity_distance(moments_of(x, x[:, :2]))
    with pytest.raises(NotComparable, match="Procrustes similarity needs at least 4 rows; there are 3"):
        procrustes(moments_of(x[:3], x[:3]))
