"""What a change of weights does to inputs: singular values of ΔW·Σ^½ by brute force, shares, and changes of random orientation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.weights.decomposed import decompose
from rankscope.weights.on_data import ChangedLayer, InputSums
from rankscope.weights.updates import full_update, low_rank_update


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(n: int, rows: int = 50) -> Tensor:
    """Inputs with a mean and with directions of unequal size."""
    return draw(rows, n, seed=5) * torch.arange(1, n + 1) ** -0.7 + 0.4


def summed(of: ChangedLayer, x: Tensor, groups: int = 3) -> InputSums:
    sums = of.zeros(groups)
    for part, group in zip(x.split(17), (torch.arange(len(x)) % groups).split(17), strict=True):
        of.add(sums, part, group)
    return sums


def root(x: Tensor) -> Tensor:
    """Σ^½ of rows, naively."""
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (10, 10)])
@pytest.mark.parametrize("draws", [0, 3])
def test_singular_values_and_shares_are_those_of_the_definition(
    shape: tuple[int, int], draws: int, device: torch.device
) -> None:
    w0, x = draw(*shape, seed=9).to(device), inputs(shape[1]).to(device)
    b, a = draw(shape[0], 2).to(device), draw(2, shape[1], seed=1).to(device)
    for change, delta in (
        (low_rank_update(b, a), b @ a),
        (full_update(w0, w0 + draw(*shape, seed=2).to(device)), draw(*shape, seed=2).to(device)),
    ):
        of = ChangedLayer.of(change, w0, draws=draws, generator=torch.Generator().manual_seed(0))
        assert of.through_maps == (of.rank * (1 + draws) < shape[1])
        sums = summed(of, x)
        assert sums.second.shape == (3, of.kept, of.kept)
        total = sums.sum()
        expected = torch.linalg.svdvals(delta @ root(x))[: of.rank]
        assert_close(of.values(total).flip(0), expected, rtol=1e-8, atol=1e-10)
        assert_close(of.share(total), (x @ delta.T).square().sum() / (x @ w0.T).square().sum())
        assert sums.rows.tolist() == [17, 17, 16]
        for which in range(1, draws + 1):
            turned = of.maps[which]
            s = change.values[: of.rank]
            assert_close(turned @ turned.T, torch.diag(s**2), rtol=1e-9, atol=1e-9)
            assert_close(of.values(total, which).flip(0), torch.linalg.svdvals(turned @ root(x)), rtol=1e-6, atol=1e-8)
            assert not torch.equal(of.values(total, which), of.values(total))


def test_the_share_of_a_random_orientation_is_the_mean_over_many() -> None:
    w0, x = draw(8, 12, seed=9), inputs(12)
    b, a = draw(8, 2), draw(2, 12, seed=1)
    of = ChangedLayer.of(low_rank_update(b, a), w0, draws=600, generator=torch.Generator().manual_seed(1))
    total = summed(of, x).sum()
    outputs = total.outputs / total.rows
    shares = torch.stack([of.covariance(total, which).trace() / outputs for which in range(1, 601)])
    assert abs(shares.mean() - of.random_share(total)) < 3 * shares.std() / 600**0.5
    assert abs(of.share(total) / of.random_share(total) - 1) > 0.05, "the change itself is no random one"


def test_directions_that_do_not_occur_count_for_nothing() -> None:
    w0, x = draw(6, 10, seed=9), inputs(10)
    x[:, 4:] = 0
    unseen, seen = torch.zeros(2, 10).double(), torch.zeros(2, 10).double()
    unseen[0, 5] = unseen[1, 7] = seen[0, 1] = seen[1, 6] = 1
    change = low_rank_update(draw(6, 2), unseen)
    of = ChangedLayer.of(change, w0, draws=1, generator=torch.Generator().manual_seed(0))
    total = summed(of, x).sum()
    assert of.values(total).tolist() == [0.0]
    assert of.share(total) == 0 < of.random_share(total)
    half = ChangedLayer.of(low_rank_update(draw(6, 2), seen), w0, draws=0)
    assert len(half.values(summed(half, x).sum())) == 1, "of two directions one occurs"


def test_a_rotation_of_inputs_and_weights_changes_nothing() -> None:
    w0, x, delta, q = draw(6, 10, seed=9), inputs(10), draw(6, 10, seed=3), torch.linalg.qr(draw(10, 10, seed=4)).Q
    one, other = (
        ChangedLayer.of(decompose(delta), w0, draws=0),
        ChangedLayer.of(decompose(2 * delta @ q.T), w0 @ q.T, draws=0),
    )
    a, b = summed(one, x).sum(), summed(other, x @ q.T).sum()
    assert_close(other.values(b), 2 * one.values(a))
    assert_close(other.share(b), 4 * one.share(a))
    assert_close(other.random_share(b), 4 * one.random_share(a))
    zero = ChangedLayer.of(decompose(torch.zeros(6, 10)), w0, draws=1)
    assert zero.rank == 0
