"""Influences are what leaving out does, to first order: against derivatives by weights, and against solving again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.inference.influence import Directions, gradient, left_out
from rankscope.linalg.clusters import ClusterMoments
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.principal import principal, turned
from rankscope.linalg.svd import singular_values_of
from rankscope.measures.effective_rank import effective_rank
from rankscope.measures.participation_ratio import clustered_participation_ratio, unbiased_participation_ratio


def draw(n: int, d: int, seed: int = 0, device: torch.device | str = "cpu") -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=g, dtype=torch.float64) * torch.arange(1, d + 1).rsqrt()).to(device)


def contracted(slopes: dict[str, Tensor], x: Tensor) -> Tensor:
    """``(n,)`` ⟨∇f, T_i⟩ of single rows about their mean, written out."""
    z = x - x.mean(0)
    squares = z.square().sum(1)
    fields = {"rows": torch.ones_like(squares), "first": z, "third": z * squares[:, None], "fourth": 2 * squares**2}
    found = torch.zeros_like(squares)
    for name, slope in slopes.items():
        if name == "principal.values":  # of the scatter, whose eigenvalues move by (v·z)²
            found += (z @ Moments.of(x, shift=x.mean(0)).sum().principal.vectors).square() @ slope
        elif name == "second":
            found += torch.einsum("ni,ij,nj->n", z, slope, z)
        else:
            found += fields[name] @ slope if fields[name].ndim > 1 else fields[name] * slope
    return found


def test_of_a_mean_it_is_exact() -> None:
    x = draw(40, 3)
    found = gradient(lambda m: (m.shift + m.first / m.rows)[0], [Moments.of(x, shift=x.mean(0)).sum()])
    without = left_out(found.value, contracted(found.slopes[0], x), torch.full((40,), 1 / 40, dtype=torch.float64))
    assert_close(without, torch.stack([x[torch.arange(40) != i, 0].mean() for i in range(40)]))


def test_of_a_u_statistic_it_is_what_leaving_the_row_out_changes() -> None:
    """tr Σ² by the U-statistic is linear in the weight of every row, so its derivative is no approximation."""
    x = draw(30, 4)

    def products(x: Tensor) -> Tensor:
        """Σ (zᵢ·zⱼ)² over pairs of different rows about a fixed centre."""
        gram = x @ x.mT
        return gram.square().sum() - gram.diagonal().square().sum()

    z = x - x.mean(0)
    found = gradient(lambda m: m.second.square().sum() - m.fourth, [Moments.of(x, shift=x.mean(0)).sum()])
    lost = torch.stack([products(z) - products(z[torch.arange(30) != i]) for i in range(30)])
    assert_close(contracted(found.slopes[0], x), lost)


@pytest.mark.parametrize("function", [unbiased_participation_ratio, lambda m: effective_rank(spectrum(m))])
def test_of_a_rank_it_is_the_jackknife_of_single_rows_to_first_order(
    function: Callable[[Moments], Tensor], device: torch.device
) -> None:
    x = draw(400, 6, device=device)
    total = Moments.of(x, shift=x.mean(0)).sum()
    found = gradient(function, [total])
    share = torch.full((400,), 1 / 400, dtype=torch.float64, device=device)
    without = left_out(found.value, contracted(found.slopes[0], x), share)
    solved = torch.stack([function(total - Moments.of(x[i : i + 1], shift=x.mean(0)).sum()) for i in range(400)])
    assert (without - solved).abs().max() < 0.05 * (solved - solved.mean()).abs().max()
    assert float(without.std() / solved.std()) == pytest.approx(1, abs=0.03)


def spectrum(moments: Moments) -> Tensor:
    values, _ = moments.principal
    return values.clamp(min=0).sqrt()


def test_it_keeps_its_error_where_rows_cluster() -> None:
    """The standard error of a clustered rank over many draws is what the influences of one draw say."""

    def once(seed: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed)
        common = torch.randn(60, 1, 5, generator=g, dtype=torch.float64)
        x = (common + torch.randn(60, 4, 5, generator=g, dtype=torch.float64)).flatten(0, 1) * torch.arange(
            1, 6
        ).rsqrt()
        sample, mean = torch.arange(60).repeat_interleave(4), x.mean(0)
        sums, traces, norms = ClusterMoments.about_mean(Moments.of(x, shift=mean).sum(), x, sample)
        found = gradient(clustered_participation_ratio, [sums])
        of_rows = contracted({k[8:]: v for k, v in found.slopes[0].items() if k.startswith("moments.")}, x)
        influence = of_rows.view(60, 4).sum(1)
        for name, each in (("traces_squared", traces), ("norms_squared", norms)):
            influence += 2 * each * found.slopes[0][name]
        assert_close(found.value, clustered_participation_ratio(ClusterMoments.of(x, sample, shift=mean).sum()))
        return found.value, influence

    values, influences = zip(*(once(seed) for seed in range(150)), strict=True)
    told = math.sqrt(torch.stack(influences).square().sum(1).mean())
    assert told == pytest.approx(float(torch.stack(values).std()), rel=0.15)


def test_of_two_runs_it_needs_both_sides_and_their_products(device: torch.device) -> None:
    x, y = draw(200, 4, device=device), (draw(200, 4) + draw(200, 4, 1) / 3).to(device)
    pair = PairMoments.of(x, y, shift_a=x.mean(0), shift_b=y.mean(0)).sum()

    def distance(p: PairMoments) -> Tensor:
        return (p.a.second + p.b.second - 2 * p.cross).diagonal().sum() / p.a.second.diagonal().sum()

    found = gradient(distance, [pair])
    assert set(found.slopes[0]) == {"a.second", "b.second", "cross"}
    za, zb = x - x.mean(0), y - y.mean(0)
    base = za.square().sum()
    influence = sum(
        torch.einsum("ni,ij,nj->n", u, found.slopes[0][name], v)
        for name, u, v in (("a.second", za, za), ("b.second", zb, zb), ("cross", za, zb))
    )
    assert_close(influence, ((za - zb).square().sum(1) - found.value * za.square().sum(1)) / base)


def test_what_moves_in_steps_or_is_not_computed_by_torch_has_none() -> None:
    s = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    assert gradient(lambda s: (s > 0.7).sum().double(), [s]) is None
    assert gradient(lambda s: torch.tensor(float(s.max())), [s]) is None
    assert gradient(lambda s: torch.from_numpy(s.numpy()).max(), [s]) is None
    assert gradient(lambda s: (s - s).sqrt().sum(), [s]) is None  # its derivative is infinite
    assert gradient(lambda s: s.sum(), [s]) is not None


LEAVING: dict[str, Callable[[Tensor], Any]] = {
    "float": float,
    "item": Tensor.item,
    "tolist": Tensor.tolist,
    "math": math.sqrt,
    "tensor": torch.tensor,
    "data": lambda x: x.data,
    "linspace": lambda x: torch.linspace(0, x, 2)[-1],
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "a list": lambda x: torch.tensor([x, x])[0],
}


@pytest.mark.filterwarnings("ignore:To copy construct", "ignore:Converting a tensor")
@pytest.mark.parametrize("name", LEAVING)
def test_a_part_that_leaves_the_graph_leaves_the_number_without_a_derivative(name: str) -> None:
    s = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    for _ in range(2):  # torch warns of some of them, once
        assert gradient(lambda s: s.sum() / LEAVING[name](s.max()), [s]) is None
    constant = gradient(lambda s: s.sum() / LEAVING[name](s.max().detach()), [s])
    assert constant is not None
    assert_close(constant.slopes[0][""], torch.full_like(s, float(constant.value) / 4.5))


def test_what_has_the_shape_alone_of_what_is_differentiated_does_not_leave_the_graph() -> None:
    s = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    found = gradient(lambda s: (s * torch.ones_like(s) + s.new_zeros(3) + torch.zeros(3, dtype=s.dtype)).sum(), [s])
    assert found is not None
    assert_close(found.slopes[0][""], torch.ones(3, dtype=torch.float64))


def test_matrices_that_differ_by_scale_and_identity_are_one_direction() -> None:
    a, b = draw(5, 5), draw(5, 5, 1)
    directions = Directions()
    places = [
        directions.place(m) for m in (a, 3 * a + 2 * torch.eye(5), b, 4 * torch.eye(5), torch.zeros(5, 5).double())
    ]
    assert len(directions.matrices) == 2
    for matrix, (trace, place, share) in zip((a, 3 * a + 2 * torch.eye(5), b), places, strict=False):
        rebuilt = trace * torch.eye(5, dtype=torch.float64) + share * directions.matrices[place]
        assert_close(rebuilt, matrix.double())
    assert [place for _, place, _ in places] == [0, 0, 1, None, None]
    assert Directions().place(draw(3, 5))[0] == 0  # what is not square has no trace


def test_an_eigendecomposition_is_differentiated_and_not_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = Moments.of(x := draw(50, 5), shift=x.mean(0)).sum()
    assert_close(singular_values_of(moments).values.square(), moments.principal.values)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    found = gradient(lambda m: m.principal.values[0] / m.principal.values.sum(), [moments])
    values, _ = moments.principal
    first = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
    assert_close(found.slopes[0]["principal.values"], first / values.sum() - values[0] / values.sum() ** 2)
    assert set(found.slopes[0]) == {"principal.values"}


def test_the_derivative_of_a_subspace_ignores_ties_inside_it(device: torch.device) -> None:
    matrix = torch.diag(torch.tensor([2.0, 2.0, 1.0, 1.0], dtype=torch.float64, device=device))
    other = (draw(4, 4) @ draw(4, 4).mT).to(device)

    def inside(vectors: Tensor) -> Tensor:
        u = vectors[:, :2]
        return (u @ u.mT * other).sum()

    solved = principal(matrix)
    vectors = solved.vectors.clone().requires_grad_()
    a, b = turned(solved, torch.autograd.grad(inside(vectors), vectors)[0])
    assert a.shape == b.shape == (4, 2)  # the vectors that were asked for
    step = 1e-6 * (draw(4, 4, 1) + draw(4, 4, 1).mT).to(device)
    change = inside(principal(matrix + step).vectors) - inside(principal(matrix - step).vectors)
    assert_close((a @ b.mT * 2 * step).sum(), change, rtol=1e-5, atol=1e-12)
