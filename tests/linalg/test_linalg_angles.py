"""Principal angles: as scipy's, small ones to full precision, unchanged by bases and common turns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.linalg.angles import principal_angles


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_angles_are_scipys_symmetric_and_turn_along(k: int, m: int, seed: int) -> None:
    u, v = normal(9, k, seed=seed), normal(9, m, seed=seed + 1)
    angles = principal_angles(u, v)
    expected = torch.from_numpy(subspace_angles(u.numpy(), v.numpy())).flip(0)
    assert_close(angles, expected, rtol=1e-10, atol=1e-13)
    assert_close(principal_angles(v, u), angles, rtol=1e-9, atol=1e-12)
    turn, mix = torch.linalg.qr(normal(9, 9, seed=seed + 2)).Q, normal(k, k, seed=seed + 3) + 3 * torch.eye(k)
    assert_close(principal_angles(turn @ u @ mix, turn @ v), angles, rtol=1e-8, atol=1e-10)


def test_tiny_angles_keep_their_digits(device: torch.device) -> None:
    u = normal(768, 10).to(device)
    v = u + 1e-9 * normal(768, 10, seed=1).to(device)
    angles = principal_angles(u, v)
    expected = torch.from_numpy(subspace_angles(u.cpu().numpy(), v.cpu().numpy())).flip(0).to(device)
    assert_close(angles, expected, rtol=1e-6, atol=1e-15)
    q_u, q_v = torch.linalg.qr(u).Q, torch.linalg.qr(v).Q
    by_cosine = torch.linalg.svdvals(q_u.mT @ q_v).clamp(max=1).acos()
    assert (by_cosine.sort().values - expected).abs().max() > 1e-9  # the negative control: half the digits are gone


def test_planted_angles_are_found_in_a_batch() -> None:
    theta = torch.tensor([0.0, 1e-7, 0.3, 1.2], dtype=torch.float64)
    eye = torch.eye(8, dtype=torch.float64)
    u = eye[:, :4]
    v = u * theta.cos() + eye[:, 4:] * theta.sin()
    found = principal_angles(torch.stack([u, v]), torch.stack([v, v]))
    assert_close(found[0], theta, rtol=1e-12, atol=1e-15)
    assert_close(found[1], torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-14)


def test_overlap_of_random_subspaces_is_k_over_d() -> None:
    overlaps = [
        principal_angles(normal(64, 16, seed=i), normal(64, 16, seed=i + 500)).cos().square().mean() for i in range(40)
    ]
    assert_close(torch.stack(overlaps).mean(), torch.tensor(0.25, dtype=torch.float64), rtol=0.03, atol=0)


def test_bases_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="d = 4 and 5"):
        principal_angles(torch.eye(4), torch.eye(5))
    with pytest.raises(UsageError, match="linearly dependent"):
        principal_angles(torch.ones(4, 2), torch.eye(4))
    with pytest.raises(UsageError, match="3 columns in 2 dimensions"):
        principal_angles(torch.ones(2, 3), torch.eye(2))
