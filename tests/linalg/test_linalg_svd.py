"""Singular values by every route, against a float64 decomposition and the bounds that the module promises."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import NonFinite, RankscopeError, UsageError
from rankscope.linalg import sums, svd
from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import leading_axes_of, singular_values, singular_values_of


def geometric(n: int, d: int, decades: float, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """A float64 matrix with singular values from 1 down to 10^-decades, and these values."""
    generator = torch.Generator().manual_seed(n + d)
    r = min(n, d)
    left, right = (torch.linalg.qr(torch.randn(m, r, generator=generator, dtype=torch.float64)).Q for m in (n, d))
    s = torch.logspace(0, -decades, r, dtype=torch.float64)
    return ((left * s) @ right.mT).to(device), s.to(device)


def reference(x: Tensor, *, centre: bool) -> Tensor:
    z = x.cpu().double().numpy()
    return torch.from_numpy(np.linalg.svd(z - z.mean(0) if centre else z, compute_uv=False)).to(x.device)


SHAPES = [(400, 100), (100, 400), (300, 300), (20, 30), (500, 7)]


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("decades", [1, 2, 4, 6])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_float64_agrees_to_1e_10_and_float32_to_its_bound(
    n: int, d: int, decades: int, centre: bool, device: torch.device
) -> None:
    x, _ = geometric(n, d, decades, device=device)
    exact = reference(x, centre=centre)
    known = min(n, d) - (1 if centre and n <= d else 0)
    found = singular_values(x, centre=centre)
    assert_close(found.values[:known], exact[:known], rtol=1e-10, atol=0)
    assert (found.values[known:] == 0).all()

    narrow = singular_values(x.float(), centre=centre)
    exact = reference(x.float(), centre=centre)[:known]
    bound = 4 * svd.UNIT * (exact[0] / exact).square() * max(n, d) ** 0.5
    assert ((narrow.values[:known] / exact - 1).abs() <= bound).all()
    assert narrow.dtype == torch.float32


def test_routes_are_chosen_and_recorded() -> None:
    assert singular_values(geometric(20, 30, 1)[0]).routes == ("direct",)
    assert singular_values(geometric(400, 100, 1)[0]).routes == ("gram",)
    assert singular_values(geometric(100, 400, 1)[0]).routes == ("kernel",)
    assert singular_values(geometric(400, 100, 5)[0]).routes == ("direct",)  # a float64 tail
    assert singular_values(geometric(400, 100, 5)[0].float()).routes == ("gram",)  # gone in float32 anyway
    mixed = torch.stack([geometric(400, 100, 1)[0], geometric(400, 100, 5)[0]])
    assert singular_values(mixed).routes == ("gram", "direct")


def test_the_sheets_accuracy_table_holds_for_float32(device: torch.device) -> None:
    """Last value at n = 1024, d = 256; a float32 Gram matrix is the negative control."""
    for decades, allowed in ((2, 1e-6), (4, 2e-5), (6, 2e-3)):
        x, s = geometric(1024, 256, decades, device=device)
        last = singular_values(x.float()).values[-1]
        assert abs(last / s[-1] - 1) < allowed
    x = x.float()
    squares = torch.linalg.eigvalsh(x.mT @ x)
    assert (squares <= 0).sum() > 10


def test_a_float32_tail_below_the_gram_is_solved_directly(device: torch.device) -> None:
    ones = torch.ones(300, 200, device=device)
    found = singular_values(ones)
    assert found.routes == ("direct",)
    assert found.values[1] < 1e-11 * found.values[0]
    gram = torch.linalg.eigvalsh(ones.double().mT @ ones.double())
    assert gram[:-1].abs().max().sqrt() > 1e-9 * found.values[0]  # what the Gram matrix would have said


def test_a_float32_tail_that_the_gram_blurs_is_solved_directly(device: torch.device) -> None:
    x = geometric(400, 100, 7, device=device)[0].float()
    exact = reference(x, centre=False)
    found = singular_values(x)
    assert found.routes == ("direct",)
    assert_close(found.values, exact, rtol=1e-6, atol=0)
    blurred = torch.linalg.eigvalsh(x.double().mT @ x.double()).clamp(min=0).sqrt().flip(0)
    assert ((blurred / exact - 1).abs() > 1e-3).any()  # what the Gram matrix would have said


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_lifted_once(dtype: torch.dtype, device: torch.device) -> None:
    x = geometric(400, 100, 1, device=device)[0].to(dtype)
    found = singular_values(x)
    assert_close(found.values, reference(x, centre=False), rtol=1e-10, atol=0)
    assert found.dtype == dtype


def test_a_batch_is_its_matrices(device: torch.device) -> None:
    x = torch.stack([geometric(300, 100, k, device=device)[0] for k in (1, 2, 3, 4, 5, 6)]).reshape(2, 3, 300, 100)
    found = singular_values(x, centre=True)
    assert found.values.shape == (2, 3, 100)
    assert found.norm.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert_close(found.values[i, j], singular_values(x[i, j], centre=True).values, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("decay", [0, 2, 4, 7])
@pytest.mark.parametrize(("m", "r"), [(64, 16), (200, 40), (40, 40), (30, 1), (7, 0)])
def test_turned_columns_are_as_long_as_the_singular_values(decay: int, m: int, r: int, device: torch.device) -> None:
    """What an accelerator does with many matrices: no value is wrong by more than rounding moves it."""
    scale = 10.0 ** -torch.linspace(0, decay, r, dtype=torch.float64)
    x = (torch.randn(50, m, r, dtype=torch.float64) * scale) @ torch.linalg.qr(torch.randn(50, r, r).double()).Q
    found, expected = svd._rotated(x.to(device)).cpu(), torch.linalg.svdvals(x)
    assert_close(found, expected, rtol=1e-14 * 10**decay * (1 + r), atol=0)


def test_turned_columns_of_dependent_matrices_too(device: torch.device) -> None:
    x = torch.zeros(4, 9, 4, dtype=torch.float64)
    x[1, :, :2], x[2] = torch.randn(9, 2), 1.0
    x[3] = x[1] @ torch.randn(4, 4).double()
    found = svd._rotated(x.to(device)).cpu()
    assert_close(found, torch.linalg.svdvals(x), rtol=1e-12, atol=1e-14)


def test_what_cannot_be_made_a_triangle_is_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(20, 12, 5, dtype=torch.float64) * 10.0 ** -torch.arange(0, 10, 2)
    expected = torch.linalg.svdvals(x)
    factor = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda a: (factor(a).L * torch.nan, torch.ones(len(a))))
    assert_close(svd._rotated(x), expected, rtol=1e-6, atol=0)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = geometric(1000, 100, 1)[0].float() + 3
    whole = singular_values(x, centre=True)
    monkeypatch.setattr(sums, "BLOCK", 100 * 64)
    parts = singular_values(x, centre=True)
    assert_close(parts.values, whole.values, rtol=1e-12, atol=0)
    assert_close(parts.norm, whole.norm, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("shape", "values"), [((0, 5, 3), (0, 3)), ((2, 0, 3), (2, 0)), ((3, 5, 0), (3, 0)), ((0, 3), (0,)), ((1, 4), (1,))]
)
def test_empty_batches_and_matrices_have_empty_spectra(shape: tuple[int, ...], values: tuple[int, ...]) -> None:
    assert singular_values(torch.zeros(shape)).values.shape == values
    assert (singular_values(torch.zeros(shape), centre=True).values == 0).all()


@pytest.mark.parametrize("n", [5, 300])
def test_a_zero_matrix_has_zero_values_by_every_route(n: int) -> None:
    assert (singular_values(torch.zeros(n, 200)).values == 0).all()


def test_trace_and_norm_are_those_of_the_matrix(device: torch.device) -> None:
    x = geometric(400, 100, 2, device=device)[0].float()
    found = singular_values(x)
    assert_close(found.values.square().sum(), x.double().square().sum(), rtol=1e-12, atol=0)
    assert_close(found.norm.square(), x.double().square().sum(), rtol=1e-12, atol=0)
    assert_close(found.values.pow(4).sum(), (x.double().mT @ x.double()).square().sum(), rtol=1e-12, atol=0)


def test_a_solver_that_is_wrong_is_found_and_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x = geometric(300, 100, 1)[0]
    solve, calls = torch.linalg.eigvalsh, []

    def wrong_once(a: Tensor) -> Tensor:
        calls.append(a.shape)
        return solve(a) * (1.001 if len(calls) == 1 else 1)

    monkeypatch.setattr(torch.linalg, "eigvalsh", wrong_once)
    assert_close(singular_values(x).values, reference(x, centre=False), rtol=1e-10, atol=0)
    assert len(calls) == 2
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda a: solve(a) * 1.001)
    with pytest.raises(RankscopeError, match="do not add up to its trace"):
        singular_values(x)


def test_reduced_precision_products_are_never_used(device: torch.device) -> None:
    x = geometric(400, 100, 2, device=device)[0].float()
    exact = singular_values(x).values
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(singular_values(x).values, exact)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_spoilt_features_are_refused(bad: float) -> None:
    x = torch.ones(3, 20, 10)
    x[1, 4, 2] = bad
    with pytest.raises(NonFinite, match="matrix 1 of the batch"):
        singular_values(x)


def test_what_is_no_matrix_of_numbers_is_refused() -> None:
    with pytest.raises(UsageError, match="floating"):
        singular_values(torch.ones(3, 4, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"shape \(3,\)"):
        singular_values(torch.ones(3))


def test_moments_have_the_values_of_their_rows(device: torch.device) -> None:
    x = torch.randn(40, 9, dtype=torch.float64, device=device) + 4
    group = torch.arange(40) % 4
    groups = Moments.of(x, shift=x[0], group=group, groups=4)
    without = groups.sum(0) - groups
    for centre in (True, False):
        found = singular_values_of(without, centre=centre)
        assert found.values.shape == (4, 9)
        assert found.routes == ("moments",) * 4
        for g in range(4):
            kept = x[(group != g).to(device)]
            assert_close(found.values[g], reference(kept, centre=centre), rtol=1e-9, atol=1e-12)
            assert_close(found.norm[g], torch.linalg.matrix_norm(kept), rtol=1e-12, atol=0)


def test_moments_of_few_rows_have_no_values_that_rows_cannot_have() -> None:
    x = torch.randn(5, 9, dtype=torch.float64)
    found = singular_values_of(Moments.of(x, shift=x[0]))
    assert found.values.shape == (1, 5)
    assert found.values[0, 4] == 0
    assert_close(found.values[0, :4], reference(x, centre=True)[:4], rtol=1e-9, atol=0)
    assert singular_values_of(Moments.of(x, shift=x[0]), centre=False).values[0, 4] > 0.1


def test_moments_whose_precision_is_spent_warn() -> None:
    x = torch.randn(50, 4, dtype=torch.float64) * torch.tensor([1e8, 1, 1, 1], dtype=torch.float64)
    all_rows, most = Moments.of(x * 1e4, shift=torch.zeros(4)), Moments.of(x[1:] * 1e4, shift=torch.zeros(4))
    spoilt = all_rows - most
    spoilt.second[:, 1, 1] -= 1e30
    with pytest.warns(RuntimeWarning, match="precision of the moments is spent"):
        singular_values_of(spoilt, centre=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        singular_values_of(all_rows)


def test_axes_are_right_singular_vectors(device: torch.device) -> None:
    x = geometric(60, 20, 2, device=device)[0] + 1
    vectors = leading_axes_of(Moments.of(x, shift=x[0]), 4)[0]
    exact = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    eye = torch.eye(4, dtype=x.dtype, device=device)
    assert_close((vectors.mT @ exact.Vh[:4].mT).abs(), eye, rtol=0, atol=1e-7)
    assert_close(vectors.mT @ vectors, eye, rtol=0, atol=1e-12)
    assert (vectors.gather(0, vectors.abs().argmax(0, keepdim=True)) > 0).all()


def test_more_axes_than_there_are_is_refused() -> None:
    sums = Moments.of(torch.ones(3, 9), shift=torch.zeros(9))
    with pytest.raises(UsageError, match="there are 9 directions; asked for the leading 10"):
        leading_axes_of(sums, 10)
    with pytest.raises(UsageError, match="asked for the leading 0"):
        leading_axes_of(sums, 0)
