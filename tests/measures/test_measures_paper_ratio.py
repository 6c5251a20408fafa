"""The ratio of the paper: pooled, per sample, averaged over lengths, and what noise gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.linalg.svd import singular_values
from rankscope.measures.pt_peft import (
    DEFINITIONS,
    Length,
    crossing_of_curve,
    curves_of_samples,
    ratio_of_curve,
    spectra_by_size,
    spectrum_ratio,
)


def ratio_of_samples(x: Tensor, sample: Tensor, *, length: Length = "relative") -> Tensor:
    return ratio_of_curve(curves_of_samples(x, sample, length=length).mean(0))


def draw(samples: int, length: int, d: int, *, alpha: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.arange(1, d + 1) ** (-alpha / 2)
    x = torch.randn(samples * length, d, generator=generator) * root
    return x, torch.arange(samples).repeat_interleave(length)


def naive_ratio(x: Tensor, sample: Tensor) -> float:
    """What is known of the paper, transcribed for samples of one length."""
    shares = []
    for c in sample.unique():
        s = torch.linalg.svdvals(x[sample == c].double())
        shares.append(s / s.sum())
    y = torch.stack(shares).mean(0).cumsum(0)
    k = next(i + 1 for i, v in enumerate(y.tolist()) if v >= 0.9)
    return 100 * k / len(y)


@pytest.mark.parametrize(("length", "d"), [(7, 20), (30, 12), (16, 16)])
def test_on_equal_lengths_it_is_the_paper(length: int, d: int, device: torch.device) -> None:
    x, sample = draw(9, length, d)
    expected = naive_ratio(x, sample)
    for way in ("relative", "pad", "truncate"):
        assert float(ratio_of_samples(x.to(device), sample, length=way)) == pytest.approx(expected)
    assert curves_of_samples(x, sample).shape == (9, min(length, d))


def test_samples_need_not_be_contiguous() -> None:
    x, sample = draw(6, 5, 9)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    (_, mine), (_, theirs) = (*spectra_by_size(x[order], sample[order]), *spectra_by_size(x, sample))
    assert_close(mine, theirs, rtol=1e-9, atol=0)


def test_spectra_of_samples_are_their_own(device: torch.device) -> None:
    x = torch.randn(20, 6, device=device)
    sample = torch.tensor([3] * 4 + [8] * 11 + [9] * 4 + [11])
    by_size = spectra_by_size(x, sample)
    found = {place: s for members, values in by_size for place, s in zip(members.tolist(), values, strict=True)}
    assert [len(found[place]) for place in range(4)] == [4, 6, 4, 1]
    assert_close(found[1], singular_values(x[4:15]).values, rtol=1e-12, atol=0)
    assert_close(found[2], singular_values(x[15:19]).values, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("way", "curve"),
    [
        ("relative", [(0.25 + 0.4) / 2, (0.5 + 0.7) / 2, (0.75 + 0.9) / 2, 1.0]),
        ("pad", [(0.5 + 0.4) / 2, (1.0 + 0.7) / 2, (1.0 + 0.9) / 2, 1.0]),
        ("truncate", [(0.5 + 0.4) / 1.7, 1.0]),
    ],
)
def test_lengths_are_averaged_as_named(way, curve: list[float]) -> None:
    unequal = torch.cat([torch.eye(4)[:2], torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))])
    found = curves_of_samples(unequal, torch.tensor([0, 0, 1, 1, 1, 1]), length=way).mean(0)
    assert_close(found / found[-1], torch.tensor(curve, dtype=torch.float64))


def test_the_mean_of_ratios_is_one_more_way() -> None:
    x = torch.cat([torch.eye(10)[:4], torch.eye(10)])
    sample = torch.tensor([0] * 4 + [1] * 10)
    assert float(ratio_of_samples(x, sample, length="ratio")) == pytest.approx((100 + 90) / 2)
    values = {way: float(ratio_of_samples(x, sample, length=way)) for way in ("relative", "pad", "truncate")}
    assert values == {"relative": 90.0, "pad": 80.0, "truncate": 100.0}  # the choice matters


@pytest.mark.parametrize("way", ["relative", "pad", "truncate"])
def test_the_crossing_lies_within_a_step_below_the_ratio(way: Length) -> None:
    x, _ = draw(12, 7, 9)
    sample = torch.tensor([0] * 9 + [1] * 30 + [2] * 4 + [3] * 12 + [4] * 29)
    curves = curves_of_samples(x, sample, length=way)
    assert len(curves) == 5
    assert 0 <= float(ratio_of_curve(curves.mean(0)) - crossing_of_curve(curves.mean(0))) < 100 / curves.shape[1]


def test_samples_that_are_zero_have_no_curve() -> None:
    x, sample = draw(4, 6, 8)
    with_zeros = torch.cat([x, torch.zeros(6, 8)])
    assert float(ratio_of_samples(with_zeros, torch.cat([sample, sample.new_full((6,), 9)]))) == naive_ratio(x, sample)
    assert float(ratio_of_samples(torch.zeros(6, 4), torch.arange(6) // 3)) == 0


def test_it_does_not_change_with_scale_or_turn() -> None:
    x, sample = draw(5, 12, 10)
    turn = torch.linalg.qr(torch.randn(10, 10)).Q
    assert float(ratio_of_samples(3 * x @ turn, sample)) == float(ratio_of_samples(x, sample))


def test_it_moves_with_the_length_of_samples_of_one_population() -> None:
    """Trap 10: α = 1, d = 768, from 0.875 at L = 8 to 0.699 at 512, in steps of 1/L."""
    table = {8: 0.875, 16: 0.875, 32: 0.875, 64: 0.844, 128: 0.812, 256: 0.773, 512: 0.699}
    for length, expected in table.items():
        x, sample = draw(4, length, 768)
        assert float(ratio_of_samples(x, sample)) == pytest.approx(100 * expected, abs=0.06), length


def test_a_collapse_of_the_data_set_is_nearly_invisible_per_sample_and_plain_when_pooled() -> None:
    """Trap 13: projecting on 64 of 512 dimensions: 0.844 to 0.750 per sample of 32, 0.807 to 0.104 pooled."""
    x, sample = draw(256, 32, 512)
    collapsed = x.clone()
    collapsed[:, 64:] = 0
    per_sample = [float(ratio_of_samples(z, sample)) for z in (x, collapsed)]
    pooled = [float(spectrum_ratio(singular_values(z).values)) for z in (x, collapsed)]
    assert per_sample == pytest.approx([84.4, 75.0], abs=0.05)
    assert pooled == pytest.approx([80.7, 10.4], abs=0.4)


def test_the_pooled_ratio_is_not_monotone_in_n() -> None:
    """α = 1, d = 512: 0.828 at n = 64, 0.615 at n = d, 0.811 at 16 384, of a population that has 0.816."""
    found = []
    for n in (64, 512, 16384):
        x = torch.randn(n, 512, generator=torch.Generator().manual_seed(n)) * torch.arange(1, 513) ** -0.5
        found.append(float(spectrum_ratio(singular_values(x).values)))
    assert found == pytest.approx([82.8, 61.5, 81.1], abs=0.4)


def test_definitions_say_that_they_need_tokens() -> None:
    assert {d.name: d.needs_tokens for d in DEFINITIONS} == {
        "pt-peft": True,
        "pt-peft-pad": True,
        "pt-peft-truncate": True,
        "pt-peft-ratio": True,
        "pt-peft-pooled": False,
    }
    assert not DEFINITIONS[-1].centred
