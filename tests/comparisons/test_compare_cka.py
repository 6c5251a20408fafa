"""Centred kernel alignment: the streaming form against n × n sums, other people's code, and what it is blind to."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor
from torch.testing import assert_close

from rankscope.comparisons.cka import centred_norms, cka, cka_biased, hsic
from rankscope.comparisons.cka_map import cka_map
from rankscope.comparisons.kernel_cka import gaussian_kernel, kernel_cka, kernel_hsic
from rankscope.errors import NotComparable, UsageError
from rankscope.linalg.moments import PairMoments


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frozen_data() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(20)
    z = rng.standard_normal((60, 12))
    x = z @ rng.standard_normal((12, 8)) + 0.1
    y = z @ rng.standard_normal((12, 8)) * 0.7 + rng.standard_normal((60, 8)) + 3
    return torch.tensor(x), torch.tensor(y)


def song(k: Tensor, m: Tensor) -> float:
    """HSIC₁ written out: sums over pairs, triples and quadruples of different rows."""
    n = len(k)
    i, j, q, r = np.ogrid[:n, :n, :n, :n]
    differ = (i != j) & (i != q) & (i != r) & (j != q) & (j != r) & (q != r)
    kn, mn = k.numpy(), m.numpy()
    a = kn[:, :, None, None] * (mn[:, :, None, None] + mn[None, None, :, :] - 2 * mn[:, None, :, None])
    return float((a * differ).sum() / (n * (n - 1) * (n - 2) * (n - 3)))


def test_streaming_equals_the_sum_over_quadruples_of_rows(moments_of) -> None:
    x, y = draw(9, 4) + 5, draw(9, 3, 1) - 2
    assert_close(hsic(moments_of(x, y)).item(), song(x @ x.T, y @ y.T), rtol=1e-11, atol=0)


def test_streaming_equals_kernels_of_n_by_n(moments_of) -> None:
    x, y = frozen_data()
    k, m = x @ x.T, y @ y.T
    expected = kernel_hsic(k, m) / (kernel_hsic(k, k) * kernel_hsic(m, m)).sqrt()
    assert_close(cka(moments_of(x, y)), expected, rtol=1e-12, atol=0)


def test_equals_ckatorch(moments_of) -> None:
    """ckatorch 1.0.3, cka_base on float64, linear, biased and unbiased; it is not installed here."""
    pair = moments_of(*frozen_data())
    assert_close(cka_biased(pair).item(), 0.37133172802044645, rtol=0, atol=5e-15)
    assert_close(cka(pair).item(), 0.313525476822896, rtol=0, atol=2e-12)


def test_merging_groups_and_leaving_one_out_are_exact(moments_of) -> None:
    x, y = frozen_data()
    group = torch.arange(60) % 13
    parts = moments_of(x, y, group, 13)
    assert_close(cka(parts.sum()), cka(moments_of(x, y)), rtol=1e-12, atol=0)
    left_out = cka(parts.sum()[None] - parts)
    assert left_out.shape == (13,)
    for g in (0, 7, 12):
        assert_close(left_out[g], cka(moments_of(x[group != g], y[group != g])), rtol=1e-11, atol=0)


def test_centred_norms_are_those_of_centred_rows(moments_of) -> None:
    x, y = frozen_data()
    direct = ((x - x.mean(0)).square().sum(1) * (y - y.mean(0)).square().sum(1)).sum()
    assert_close(centred_norms(moments_of(x, y)), direct, rtol=1e-12, atol=0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), move=st.floats(-10, 10))
def test_rotation_scale_and_translation_of_a_side_change_nothing(seed: int, scale: float, move: float) -> None:
    x, y = draw(30, 5, seed), draw(30, 5, seed) @ draw(5, 4, seed + 1)
    q = torch.linalg.qr(draw(4, 4, seed + 2)).Q
    turned = scale * y @ q + move
    pairs = [PairMoments.of(x, z, shift_a=x[0], shift_b=z[0]).sum() for z in (y, turned)]
    assert_close(cka(pairs[0]), cka(pairs[1]), rtol=1e-8, atol=1e-10)
    assert_close(cka_biased(pairs[0]), cka_biased(pairs[1]), rtol=1e-8, atol=1e-10)
    own = x @ torch.linalg.qr(draw(5, 5, seed)).Q * scale
    assert_close(cka(PairMoments.of(x, own, shift_a=x[0], shift_b=own[0]).sum()).item(), 1.0, rtol=1e-9, atol=0)


def test_an_invertible_map_does_change_it(moments_of) -> None:
    x = draw(200, 6)
    stretched = x * torch.tensor([10.0, 1, 1, 1, 1, 1])
    assert cka(moments_of(x, stretched)) < 0.6


@pytest.mark.parametrize(("rows", "width", "biased"), [(128, 768, 0.8571), (512, 512, 0.5), (2000, 64, 0.031)])
def test_independent_features_score_their_bias_and_debiased_none(
    moments_of, rows: int, width: int, biased: float
) -> None:
    """Trap 17: 0.86 for independent 128 × 768; the biased value is d/(n + d)."""
    pair = moments_of(draw(rows, width), draw(rows, width, 1))
    assert_close(cka_biased(pair).item(), biased, rtol=0.02, atol=0)
    assert_close(biased, width / (rows + width), rtol=2e-2, atol=0)
    assert abs(cka(pair)) < 0.02


def test_unequal_widths_score_the_root_of_both_biases(moments_of) -> None:
    pair = moments_of(draw(300, 200), draw(300, 50, 1))
    assert_close(cka_biased(pair).item(), sqrt(200 * 50 / (500 * 350)), rtol=0.02, atol=0)


def test_debiased_cka_is_centred_on_zero_for_independent_features(moments_of) -> None:
    values = torch.stack([cka(moments_of(draw(12, 6, 2 * i), draw(12, 6, 2 * i + 1))) for i in range(300)])
    assert abs(values.mean()) < 3 * values.std() / sqrt(300)
    assert (values < 0).any(), "it is not clipped"


def test_top_components_alone_score_high(moments_of) -> None:
    """Trap 16: a copy with only the top 3 components keeps CKA at √(Σ_{≤3} λ² / Σ λ²)."""
    variances = torch.arange(1, 257, dtype=torch.float64).pow(-1)
    x = draw(2048, 256) * variances.sqrt()
    closed = (variances[:3].square().sum() / variances.square().sum()).sqrt()
    assert_close(closed.item(), 0.912, rtol=0, atol=2e-3)
    kept = x * (torch.arange(256) < 3)
    assert_close(cka(moments_of(x, kept)), closed, rtol=0, atol=0.015)


def test_one_shared_outlier_makes_biased_cka_near_one(moments_of) -> None:
    x, y = draw(400, 64), draw(400, 64, 1)
    x[7] += 40 * draw(64, 1, 2)[:, 0]
    y[7] += 40 * draw(64, 1, 3)[:, 0]
    pair = moments_of(x, y)
    assert cka_biased(pair) > 0.97
    assert abs(cka(pair)) < 0.05


def test_shared_padding_fools_even_the_debiased(moments_of) -> None:
    """Trap 2: 30 % padding rows give debiased CKA .98 between independent models; on the real rows it is 0."""
    x, y = draw(1000, 64), draw(1000, 64, 1)
    real = torch.arange(1000) < 700
    x[~real], y[~real] = 5 * draw(1, 64, 2), 5 * draw(1, 64, 3)
    assert_close(cka(moments_of(x, y)).item(), 0.98, rtol=0, atol=0.02)
    assert abs(cka(moments_of(x[real], y[real]))) < 0.01


def test_rows_off_by_one_destroy_it(moments_of) -> None:
    """Trap 9: a one-row shift leaves the spectrum and takes CKA to 0."""
    variances = torch.arange(1, 65, dtype=torch.float64).pow(-1)
    x = draw(1000, 64) * variances.sqrt()
    y = x + 0.2 * draw(1000, 64, 1) * variances.sqrt()
    assert cka(moments_of(x, y)) > 0.95
    assert abs(cka(moments_of(x, y.roll(1, 0)))) < 0.02


def test_a_minibatch_average_in_prompt_order_is_wrong_and_streaming_is_not(moments_of) -> None:
    """Rows ordered by prompt: the mean over batches of HSIC₁ is another number; the sums do not know the order."""
    prompts = torch.arange(50).repeat_interleave(16)
    centre_x, centre_y = 2 * draw(50, 16)[prompts], 2 * draw(50, 16, 1)[prompts]
    noise = draw(800, 16, 2)
    x, y = centre_x + noise, centre_y + noise + 0.3 * draw(800, 16, 3)

    def minibatch(order: Tensor) -> Tensor:
        batches = [moments_of(x[i], y[i]) for i in order.split(16)]
        sums = [
            sum(hsic(b) for b in batches),
            *(sum(hsic(PairMoments.itself(getattr(b, s))) for b in batches) for s in "ab"),
        ]
        return sums[0] / (sums[1] * sums[2]).sqrt()

    whole = cka(moments_of(x, y))
    in_order = minibatch(torch.arange(800))
    shuffled = minibatch(torch.randperm(800, generator=torch.Generator().manual_seed(4)))
    assert in_order - whole > 0.3
    assert abs(shuffled - whole) < 0.03


def test_large_means_do_not_cancel(moments_of) -> None:
    x, y = frozen_data()
    far = PairMoments.of(x + 1e5, y - 1e5, shift_a=x[0] + 1e5, shift_b=y[0] - 1e5).sum()
    assert_close(cka(far), cka(moments_of(x, y)), rtol=1e-9, atol=0)


def test_constant_features_have_no_value(moments_of) -> None:
    x = draw(20, 3)
    pair = moments_of(x, torch.full((20, 3), 1 / 3, dtype=torch.float64))
    assert cka(pair).isnan()
    assert cka_biased(pair).isnan()


def test_a_map_holds_every_pair_whatever_the_widths(moments_of) -> None:
    a, b = (draw(20, 3), 1e4 + draw(20, 5, 1)), (draw(20, 4, 2), draw(20, 3) + draw(20, 3, 3))
    assert_close(cka_map(a, b), torch.stack([torch.stack([cka(moments_of(x, y)) for y in b]) for x in a]))


def test_a_map_has_no_value_where_rows_differ_by_rounding_alone() -> None:
    token = draw(1, 4)
    alike = torch.cat([token.expand(times, 4).sum(0, keepdim=True) / times for times in range(1, 13)])
    assert not torch.equal(alike, token.expand(12, 4))
    found = cka_map((alike, draw(12, 3, 1)), (alike, draw(12, 3, 1)))
    assert found.isnan().tolist() == [[True, True], [True, False]]
    assert_close(found[1, 1], torch.tensor(1.0, dtype=torch.float64))


def test_half_precision_is_lifted(moments_of) -> None:
    x, y = frozen_data()
    half = moments_of(x.bfloat16(), y.bfloat16())
    assert cka(half).dtype == torch.float64
    assert_close(cka(half), cka(moments_of(x, y)), rtol=0, atol=0.02)


def test_three_rows_are_refused(moments_of) -> None:
    x = draw(3, 2)
    with pytest.raises(NotComparable, match="debiased CKA needs at least 4 rows; there are 3"):
        cka(moments_of(x, x))
    with pytest.raises(NotComparable, match="biased CKA needs at least 2 rows; there are 1"):
        cka_biased(moments_of(x[:1], x[:1]))


def test_an_empty_batch_is_empty(moments_of) -> None:
    pair = moments_of(draw(8, 2), draw(8, 2, 1), torch.zeros(8, dtype=torch.int64), 1)[:0]
    assert cka(pair).shape == (0,)


def test_kernel_cka_equals_scikit_learn_kernels() -> None:
    x, y = frozen_data()
    kernels = []
    for z in (x, y):
        median = torch.pdist(z).square().sort().values[(60 * 59 // 2 - 1) // 2]
        kernels.append(torch.tensor(rbf_kernel(z.numpy(), gamma=float(1 / (2 * median)))))
    k, m = kernels
    expected = song(k[:20, :20], m[:20, :20])
    assert_close(kernel_hsic(k[:20, :20], m[:20, :20]).item(), expected, rtol=1e-9, atol=0)
    whole = kernel_hsic(k, m) / (kernel_hsic(k, k) * kernel_hsic(m, m)).sqrt()
    assert_close(kernel_cka(x, y, torch.arange(60)), whole, rtol=1e-9, atol=0)


def test_kernel_cka_sees_through_rotation_and_not_through_independence() -> None:
    x = draw(150, 6)
    q = torch.linalg.qr(draw(6, 6, 1)).Q
    rows = torch.arange(150)
    assert_close(kernel_cka(x, 3 * x @ q + 1, rows).item(), 1.0, rtol=1e-9, atol=0)
    assert abs(kernel_cka(x, draw(150, 6, 2), rows)) < 0.05
    batched = kernel_cka(torch.stack([x, x]), torch.stack([x, draw(150, 6, 2)]), rows)
    assert_close(batched[1], kernel_cka(x, draw(150, 6, 2), rows))


def test_kernel_cka_refuses_what_it_cannot_compare() -> None:
    x = draw(10, 2)
    with pytest.raises(NotComparable, match="compares row by row; there are 10 rows in one run, 9 in the other"):
        kernel_cka(x, x[:9], torch.arange(10))
    with pytest.raises(NotComparable, match="kernel CKA needs at least 4 rows; there are 3"):
        kernel_cka(x[:3], x[:3], torch.arange(3))
    with pytest.raises(UsageError, match="bandwidth is a positive multiple"):
        kernel_cka(x, x, torch.arange(10), bandwidth=0)
    assert kernel_cka(x, torch.ones(10, 2), torch.arange(10)).isnan()
    assert (gaussian_kernel(torch.ones(5, 2)) == 1).all()
