"""What a change did to weights: shift of the spectrum, rotation of the leading subspaces, and what bfloat16 shows of it."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.weights.bf16_moved import bf16_moved, nearest_bf16
from rankscope.weights.decomposed import decompose, with_noise
from rankscope.weights.rotation import rotation
from rankscope.weights.spectral_shift import spectral_shift


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(d: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(draw(d, d, seed=seed)).Q


def plane(d: int, i: int, j: int, degrees: float) -> Tensor:
    """The rotation by an angle in the plane of two axes."""
    q, angle = torch.eye(d, dtype=torch.float64), torch.tensor(degrees).double().deg2rad()
    q[i, i] = q[j, j] = angle.cos()
    q[i, j], q[j, i] = -angle.sin(), angle.sin()
    return q


def values(w: Tensor) -> Tensor:
    return torch.linalg.svdvals(w.double())


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (7, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_shift_is_its_definition_and_at_most_the_relative_size(shape: tuple[int, int], dtype: torch.dtype) -> None:
    w0, w1 = draw(2, *shape).to(dtype), draw(2, *shape, seed=1).to(dtype)
    found = spectral_shift(decompose(w0).values, decompose(w1).values)
    s0, s1 = (
        torch.stack([torch.linalg.eigvalsh(a.double().T @ a.double()) for a in w]).clamp(min=0).sqrt() for w in (w0, w1)
    )
    assert_close(found, (s1 - s0).square().sum(-1).sqrt() / s0.square().sum(-1).sqrt(), rtol=1e-6, atol=0)
    size = torch.linalg.matrix_norm(w1.double() - w0.double()) / torch.linalg.matrix_norm(w0.double())
    assert (found <= size).all(), "Mirsky's inequality"
    u, v = orthogonal(shape[0]), orthogonal(shape[1], 1)
    turned = spectral_shift(values(w0), values(u @ w0.double() @ v))
    assert_close(turned, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    assert_close(spectral_shift(values(w0), values(1.5 * w0.double())), torch.full((2,), 0.5, dtype=torch.float64))
    assert spectral_shift(torch.zeros(3), torch.zeros(3)).isnan()


@pytest.mark.parametrize("left", [20.0, 65.0])
def test_planted_rotations_are_found_on_their_own_sides(left: float) -> None:
    """One of three leading output directions turns by an angle, one of the input directions by another."""
    s = torch.tensor([9.0, 7.0, 5.0, 2.0, 1.0]).double()
    u, v = orthogonal(8), orthogonal(5, 1)
    w0 = u[:, :5] * s @ v.T
    w1 = (u @ plane(8, 1, 6, left))[:, :5] * s @ (v @ plane(5, 0, 4, 12.0)).T
    found = rotation(decompose(w0), decompose(w1), k=3)
    assert_close(torch.stack(found[:2]), torch.tensor([left / 3, 4.0], dtype=torch.float64), rtol=1e-8, atol=0)
    assert_close(found.edge.item(), 0.6)
    q = orthogonal(8, 5)
    again = rotation(decompose(3 * q @ w0), decompose(q @ w1), k=3)
    assert_close(torch.stack(again), torch.stack(found))
    within = rotation(decompose(w0), decompose((u @ plane(8, 0, 1, 40.0))[:, :5] * s @ v.T), k=3)
    assert within.left < 1e-6, "directions that turn among themselves leave their span as it is"
    assert rotation(decompose(w0.float()), decompose(w1.float()), k=3).left == pytest.approx(left / 3, abs=1e-4)


def test_a_tie_at_the_edge_defines_no_subspace() -> None:
    u, v = orthogonal(8), orthogonal(6, 1)
    tied = torch.tensor([4.0, 3.0, 2.0, 2.0, 1.0, 0.0]).double()
    a, b = (decompose(u[:, :6] * s @ v.T) for s in (tied, tied + 0.1 * torch.arange(6, 0, -1)))
    for before, after in ((a, a), (a, b), (b, a)):
        found = rotation(before, after, k=3)
        assert found.left.isnan()
        assert found.right.isnan()
        assert found.edge == 0
        assert (rotation(before, after, k=4).left < 1e-5).all(), "a tie before the edge does no harm"
    assert rotation(a, a, k=6).right.isnan(), "the sixth value is zero"
    zero = decompose(torch.zeros(4, 3))
    assert rotation(zero, zero, k=2).edge == 0


def test_a_subspace_that_is_the_whole_space_cannot_turn() -> None:
    wide, other = draw(4, 9), draw(4, 9, seed=1)
    found = rotation(decompose(wide), decompose(other), k=10)
    assert found.left.isnan()
    assert 0 < found.right < 90
    tall = rotation(decompose(wide.T), decompose(other.T), k=10)
    assert tall.right.isnan()
    assert_close(tall.left, found.right)


def test_noise_has_the_size_of_the_change_and_turns_what_a_gap_does_not_hold() -> None:
    w0 = orthogonal(30) * torch.linspace(2, 1, 30).double()
    norm, generator = torch.tensor(1.5), torch.Generator().manual_seed(3)
    noisy = list(with_noise(w0, norm, draws=3, generator=generator))
    assert_close(torch.stack([torch.linalg.matrix_norm(w - w0) for w in noisy]), norm.double().expand(3))
    assert not torch.equal(noisy[0], noisy[1])
    held = orthogonal(30) * torch.where(torch.arange(30) < 5, 20.0, 1.0).double()
    loose, tight = (
        torch.stack([rotation(decompose(w), decompose(x), k=5).left for x in with_noise(w, norm, draws=3)]).mean()
        for w in (w0, held)
    )
    assert loose > 30 > 5 > tight


def naive_bf16(x: float) -> Fraction:
    """The nearest number with eight significant bits, ties to even, by exact fractions."""
    if x == 0:
        return Fraction(0)
    exact, step = Fraction(x), Fraction(2) ** -133
    while abs(exact) / step >= 256:
        step *= 2
    return round(exact / step) * step


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e30, 1e30, allow_nan=False))
def test_rounding_is_to_the_nearest_bfloat16(x: float) -> None:
    assert Fraction(float(nearest_bf16(torch.tensor(x, dtype=torch.float64)))) == naive_bf16(x)


def test_rounding_happens_once() -> None:
    x = torch.tensor([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 3e-39, -0.3], dtype=torch.float64)
    found = nearest_bf16(x)
    assert found.tolist() == [float(naive_bf16(v)) for v in x.tolist()]
    assert found[0] != x.bfloat16()[0].double(), "through float32 it would be rounded down to the middle first"
    floats = draw(50).float()
    assert torch.equal(nearest_bf16(floats), floats.bfloat16().double())


def test_the_share_that_bfloat16_shows_moved_is_counted() -> None:
    w0 = draw(2, 5, 8).float()
    w1 = w0.clone()
    w1[0, 1] *= 1.1
    w1[0, 3] *= 1 + 1e-6
    assert bf16_moved(w0, w1).tolist() == [
        (w0[0].bfloat16() != w1[0].bfloat16()).double().mean().item(), 0.0
    ]  # fmt: skip
    assert bf16_moved(w0, w1)[0] == pytest.approx(8 / 40)
    assert bf16_moved(w0[1], w1[1].double()) == 0
    with pytest.raises(UsageError, match=r"a change needs weights of one shape; got \(4, 4\) and \(4, 5\)"):
        bf16_moved(draw(4, 4), draw(4, 5))
