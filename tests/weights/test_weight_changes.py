"""Changes of weights: exact spectra, intruders against their noise null, and what a prefix spans."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.weights.intruders import intruder_null, intruders
from rankscope.weights.updates import full_update, low_rank_update


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pretrained(width: int, seed: int = 0) -> Tensor:
    """Entries of variance 1/d: singular values fill (0, 2)."""
    return draw(width, width, seed=seed) / width**0.5


def low_rank(width: int, size: float, rank: int = 4, seed: int = 1) -> Tensor:
    u, v = (torch.linalg.qr(draw(width, rank, seed=seed + i)).Q for i in (0, 1))
    return size * u @ v.T


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25)])
@pytest.mark.parametrize("scale", [2.0, -0.5])
def test_factors_give_the_spectrum_of_their_product(shape: tuple[int, int], scale: float) -> None:
    b, a = draw(shape[0], 4), draw(4, shape[1], seed=1)
    found = low_rank_update(b, a, scale=scale)
    product = scale * b @ a
    assert_close(found.values, torch.linalg.svdvals(product)[:4], rtol=1e-12, atol=0)
    assert_close(found.left * found.values @ found.right.T, product, rtol=1e-10, atol=1e-12)
    full = full_update(torch.zeros(shape), product)
    assert_close(full.values[:4], found.values)
    assert (full.values[4:] < 1e-12).all()


def test_factors_come_in_batches_and_in_half_precision() -> None:
    b, a = draw(3, 16, 2).bfloat16(), draw(3, 2, 12, seed=1).bfloat16()
    found = low_rank_update(b, a)
    assert found.values.shape == (3, 2)
    assert found.values.dtype == torch.float64
    assert_close(found.values, torch.linalg.svdvals(b.double() @ a.double())[:, :2])
    assert (low_rank_update(torch.zeros(6, 2), a[0]).values == 0).all()


def test_more_factors_than_dimensions_are_exact_too() -> None:
    b, a = draw(5, 8), draw(8, 6, seed=1)
    assert_close(low_rank_update(b, a).values, torch.linalg.svdvals(b @ a), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("size", "expected"), [(0.5, {0}), (1.0, {1, 2, 3}), (2.0, {4}), (4.0, {4})])
def test_intruders_appear_above_the_bulk(size: float, expected: set[int]) -> None:
    """A rank-4 update of a random square matrix: none at s = .5, some at the edge s = 1, four at s ≥ 2, at σ = (1 + s²)/s."""
    w = pretrained(300)
    found = intruders(w, w + low_rank(300, size))
    assert int(found.count) in expected
    if size > 1:
        assert_close(found.values[:4].mean().item(), (1 + size**2) / size, rtol=0.05, atol=0)
        assert (found.cosine[:4] < 0.5).all()


def test_full_rank_noise_makes_false_ones() -> None:
    """The bulk is nearly degenerate: any change of that size turns its leading vectors."""
    w = pretrained(300)
    noise = 0.3 * pretrained(300, seed=7)
    assert intruders(w, w + noise).count > 0
    generator = torch.Generator().manual_seed(55)
    null = intruder_null(w, torch.linalg.matrix_norm(noise), draws=5, generator=generator)
    assert null.shape == (5,)
    assert null.double().mean() > 1, "so a count by itself is no evidence"
    assert (intruders(w, w + noise).gap < 0.1).all()
    update = low_rank(300, 2.0)
    equal = intruder_null(w, torch.linalg.matrix_norm(update), draws=5, generator=generator)
    assert (intruders(w, w + update).count > equal).all()


def test_equal_weights_have_none_and_scale_does_not_matter() -> None:
    """A prefix changes no weight: 0 intruders by construction, which is no evidence."""
    w = pretrained(60)
    same = intruders(w, w)
    assert same.count == 0
    assert_close(same.cosine, torch.ones(10, dtype=torch.float64))
    tuned = w + low_rank(60, 3.0)
    q = torch.linalg.qr(draw(60, 60, seed=4)).Q
    assert_close(intruders(5 * q @ w, 5 * q @ tuned).cosine, intruders(w, tuned).cosine)


def test_intruders_equal_the_definition_in_a_batch() -> None:
    w, tuned = torch.stack([pretrained(40), pretrained(40, 1)]), torch.stack([pretrained(40, 2), pretrained(40, 1)])
    found = intruders(w.float(), tuned.float(), k=5, threshold=0.4)
    u, v = (torch.linalg.svd(z.float().double()[0]).U for z in (w, tuned))
    best = [max(abs(float(v[:, j] @ u[:, i])) for i in range(40)) for j in range(5)]
    assert_close(found.cosine[0], torch.tensor(best, dtype=torch.float64))
    assert found.count.tolist() == [sum(c < 0.4 for c in best), 0]
    assert intruders(w[0, :, :3], tuned[0, :, :3]).cosine.shape == (3,), "a narrow matrix has fewer than k"


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"the factors do not fit: B is \(4, 2\) and A is \(3, 5\)"):
        low_rank_update(draw(4, 2), draw(3, 5))
    with pytest.raises(UsageError, match=r"a change needs weights of one shape; got \(4, 4\) and \(4, 5\)"):
        full_update(draw(4, 4), draw(4, 5))
    with pytest.raises(UsageError, match=r"need weights of one shape; got \(4, 4\) and \(4, 5\)"):
        intruders(draw(4, 4), draw(4, 5))
    with pytest.raises(UsageError, match=r"k of at least 1 and a threshold in \(0, 1\]; got 10 and 0"):
        intruders(draw(4, 4), draw(4, 4), threshold=0)
