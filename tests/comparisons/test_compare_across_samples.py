"""CKA of token rows: pairs of rows of one sample left out, against the definition written out, and what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rankscope.analysis.view import View
from rankscope.comparisons.across_samples import cross_sample_cka
from rankscope.comparisons.cka import cka
from rankscope.comparisons.kernel_cka import gaussian_kernel, kernel_cka
from rankscope.errors import NotComparable
from rankscope.features import TEXT, Rows
from rankscope.linalg.moments import PairMoments
from rankscope.registry import known


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(*counts: int) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def centred_between(k: Tensor, sample: Tensor) -> Tensor:
    """The definition: the residual of a kernel between samples from its best additive fit u_i + u_j."""
    i, j = (sample[:, None] != sample).triu().nonzero(as_tuple=True)
    design = torch.zeros(len(i), len(k), dtype=torch.float64)
    design[torch.arange(len(i)), i] = 1
    design[torch.arange(len(j)), j] = 1
    values = k[i, j][:, None]
    return values - design @ torch.linalg.pinv(design) @ values


def by_definition(k: Tensor, m: Tensor, sample: Tensor) -> Tensor:
    k, m = centred_between(k, sample), centred_between(m, sample)
    return (k * m).sum() / (k.norm() * m.norm())


def score(x: Tensor, y: Tensor, sample: Tensor) -> Tensor:
    pair = PairMoments.of(x, y, shift_a=x[0], shift_b=y.mean(0)).sum()
    return cross_sample_cka(pair, x, y, sample, torch.ones(int(sample.max()) + 1, dtype=torch.bool))


SHAPES = ((1, 2, 3, 4, 5), (2, 2, 2, 2), (1, 1, 1, 9), (6, 2, 1, 3), (1, 1, 1, 1, 1), (7, 3, 3, 3))
"""Rows of each sample: unequal, equal, one with most, one with half of all, and one each."""


@pytest.mark.parametrize("counts", SHAPES, ids=str)
def test_it_is_the_alignment_of_what_no_additive_part_explains(counts: tuple[int, ...]) -> None:
    sample = samples(*counts)[torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1))]
    x, y = draw(len(sample), 4) + 3, draw(len(sample), 6, seed=1) - 2
    y[:, :4] += x
    assert_close(score(x, y, sample), by_definition(x @ x.mT, y @ y.mT, sample))
    kernels = [gaussian_kernel(side) for side in (x, y)]
    assert_close(kernel_cka(x, y, sample), by_definition(*kernels, sample))


def test_with_one_row_a_sample_it_is_cka() -> None:
    x, y = draw(12, 4), draw(12, 5, seed=1)
    assert_close(score(x, y, torch.arange(12)), cka(PairMoments.of(x, y, shift_a=x[0], shift_b=y[0]).sum()))


def test_it_is_one_for_the_same_up_to_rotation_scale_and_translation() -> None:
    x, sample = draw(20, 5), samples(3, 5, 1, 7, 4)
    q = torch.linalg.qr(draw(5, 5, seed=2)).Q
    assert_close(score(x, 7 * x @ q + draw(5, seed=3), sample), torch.tensor(1.0, dtype=torch.float64))
    assert score(x, 2 * draw(20, 5, seed=4), sample).abs() < 0.9
    assert score(torch.ones(20, 5), x, sample).isnan()


def clustered(sample: Tensor, width: int, seed: int) -> Tensor:
    """Rows that share 0.6 of their variance with their sample."""
    return 0.6**0.5 * draw(int(sample.max()) + 1, width, seed=seed)[sample] + 0.4**0.5 * draw(
        len(sample), width, seed=seed + 5000
    )


def test_unrelated_token_rows_score_nothing() -> None:
    """The form that takes rows as independent scores 0.09 here, because rows of a sample are alike in both runs."""
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    plain: list[Tensor] = []
    for seed in range(60):
        sample = samples(*torch.randint(1, 9, (30,), generator=generator).tolist())
        x, y = clustered(sample, 12, 2 * seed), clustered(sample, 12, 2 * seed + 1)
        found.append(score(x, y, sample))
        plain.append(cka(PairMoments.of(x, y, shift_a=x[0], shift_b=y[0]).sum()))
    values = torch.stack(found)
    assert values.mean().abs() < 3 * values.std() / 60**0.5
    assert values.std() < 0.06
    assert torch.stack(plain).mean() > 0.06


def test_a_view_of_token_rows_takes_it_and_leaves_out_whole_groups() -> None:
    sample = samples(*(3, 1, 4, 2, 5, 3, 2, 4, 1, 3, 2, 5))
    x = clustered(sample, 6, 0)
    y = x + clustered(sample, 6, 1)
    rows = Rows(sample, torch.zeros_like(sample), torch.full_like(sample, TEXT), tuple(map(str, range(12))))
    view = View([x, y], rows, groups=6, interval="jackknife")
    value, left_out, *_ = view.evaluate(known("cka"), 0, 1)
    assert_close(value, score(x, y, sample))
    for g in range(6):
        keep = view.division.group != g
        assert_close(left_out[g], by_definition(x[keep] @ x[keep].mT, y[keep] @ y[keep].mT, sample[keep]))


def test_fewer_than_four_samples_are_refused() -> None:
    sample = samples(3, 3, 3)
    with pytest.raises(NotComparable, match=r"CKA across samples \(counted in samples\) needs at least 4"):
        score(draw(9, 2), draw(9, 2, seed=1), sample)
    with pytest.raises(NotComparable, match=r"kernel CKA \(counted in samples\) needs at least 4"):
        kernel_cka(draw(9, 2), draw(9, 2, seed=1), sample)
