"""A spectrum knows its shares, its curve, and what its dtype cannot resolve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.linalg.svd import singular_values
from rankscope.sites import Site
from rankscope.spectrum import Spectrum, rounding_floor

SITE = Site("decoder", "3")


def spectrum(values: list[float], *, rows: int | None = None, columns: int | None = None) -> Spectrum:
    r = len(values)
    s = torch.tensor(values, dtype=torch.float64)
    return Spectrum(s, rows or r, columns or r, SITE, False, torch.float32, "direct")


def test_shares_and_curves_are_those_of_the_values() -> None:
    s = spectrum([4.0, 2.0, 1.0, 1.0])
    assert s.p().tolist() == [0.5, 0.25, 0.125, 0.125]
    assert_close(s.p(power=2), torch.tensor([16, 4, 1, 1], dtype=torch.float64) / 22)
    assert s.cumulative().tolist() == [0.5, 0.75, 0.875, 1.0]
    assert s.positions.tolist() == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("values", [[], [0.0, 0.0]])
def test_nothing_has_no_shares(values: list[float]) -> None:
    s = Spectrum(torch.tensor(values, dtype=torch.float64), 2, len(values), SITE, False, torch.float32, "direct")
    assert s.p().tolist() == [0.0] * len(values)
    assert s.floor == 0
    assert s.below_floor == 0


def test_a_decomposition_gives_one_spectrum_a_matrix() -> None:
    x = torch.randn(2, 3, 20, 8) + 2
    found = singular_values(x, centre=True)
    s = Spectrum.of(found, SITE, 4)
    assert torch.equal(s.values, found.values[1, 1])
    assert (s.rows, s.columns, s.centred, s.dtype, s.route) == (20, 8, True, torch.float32, "direct")
    assert s.norm == pytest.approx(float(torch.linalg.matrix_norm(x[1, 1].double())), rel=1e-12)
    assert s.norm > float(s.values.square().sum().sqrt())  # the mean counts, though the values are centred


def test_a_wrong_number_of_values_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"4 × 3 features at decoder.3 have min\(n, d\) singular values; got shape \(4,\)"
    ):
        spectrum([1.0, 1.0, 1.0, 1.0], columns=3)


def geometric(n: int, d: int, decades: float) -> tuple[Tensor, Tensor]:
    left, right = (torch.linalg.qr(torch.randn(m, d, dtype=torch.float64)).Q for m in (n, d))
    s = torch.logspace(0, -decades, d, dtype=torch.float64)
    return (left * s) @ right.mT, s


@pytest.mark.parametrize(("dtype", "decades"), [(torch.bfloat16, 6), (torch.bfloat16, 4), (torch.float16, 6)])
def test_the_floor_brackets_what_rounding_makes(dtype: torch.dtype, decades: float) -> None:
    n, d = 2048, 256
    x, s = geometric(n, d, decades)
    found = Spectrum.of(singular_values(x.to(dtype)), SITE)
    noise = 0.4247 * torch.finfo(dtype).eps / 2 * found.norm
    low, high = noise * (d**-0.5 - n**-0.5), noise * (d**-0.5 + n**-0.5)
    assert found.floor == pytest.approx(high)
    assert 0.8 * low < found.values[-1] < 1.2 * high
    assert found.values[-1] > 3 * s[-1]  # the true value is far below: what stands there is rounding
    assert 0 < found.below_floor < d
    assert len(found.above_floor) + found.below_floor == d
    assert ((found.values - s).abs()[: len(found.above_floor) // 2] < 0.05 * s[: len(found.above_floor) // 2]).all()


def test_the_floor_is_lower_the_finer_the_dtype() -> None:
    floors = [rounding_floor(1.0, 100, 50, t) for t in (torch.bfloat16, torch.float16, torch.float32, torch.float64)]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] / floors[1] == 8
    assert rounding_floor(1.0, 0, 50, torch.float32) == 0
