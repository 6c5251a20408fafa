"""Similarity analysis and mutual neighbours, on rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, rankdata, spearmanr
from torch import Tensor
from torch.testing import assert_close

from rankscope.comparisons.cka import cka
from rankscope.comparisons.neighbours import mutual_neighbours
from rankscope.comparisons.rsa import dissimilarities, ranks, rsa
from rankscope.errors import NotComparable, UsageError
from rankscope.linalg.rows import sample_means


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def each(rows: int) -> Tensor:
    return torch.arange(rows)


@pytest.mark.parametrize("distance", ["euclidean", "correlation"])
def test_rsa_equals_scipy(distance: str) -> None:
    x, y = draw(30, 8), draw(30, 8) @ draw(8, 5, 1)
    u, v = (pdist(z.numpy(), "sqeuclidean" if distance == "euclidean" else "correlation") for z in (x, y))
    assert_close(rsa(x, y, each(30), distance=distance).item(), spearmanr(u, v).statistic, rtol=0, atol=1e-12)
    assert_close(
        rsa(x, y, each(30), distance=distance, rank=False).item(), pearsonr(u, v).statistic, rtol=0, atol=1e-12
    )


def test_rsa_equals_rsatoolbox() -> None:
    import rsatoolbox

    x, y = draw(20, 8), draw(20, 8) @ draw(8, 5, 1)
    rdms = [rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(z.numpy()), method="euclidean") for z in (x, y)]
    for method, rank in (("spearman", True), ("corr", False)):
        expected = float(np.squeeze(rsatoolbox.rdm.compare(*rdms, method=method)))
        assert_close(rsa(x, y, each(20), rank=rank).item(), expected, rtol=0, atol=1e-12)


def test_ranks_share_ties() -> None:
    values = torch.tensor([[3.0, 1, 3, 2, 3], [1, 1, 1, 1, 1]])
    assert_close(ranks(values), torch.tensor(rankdata(values.numpy(), axis=1)))


def test_rsa_averages_the_rows_of_a_sample() -> None:
    x, y = draw(60, 6), draw(60, 6, 1)
    sample = torch.arange(60) % 20
    means = [torch.stack([z[sample == s].mean(0) for s in range(20)]) for z in (x, y)]
    assert_close(sample_means(x, sample), means[0])
    assert_close(rsa(x, y, sample), rsa(*means, each(20)))


def test_rsa_invariances_and_controls() -> None:
    x = draw(40, 6)
    q = torch.linalg.qr(draw(6, 6, 1)).Q
    assert_close(rsa(x, 5 * x @ q + 2, each(40)).item(), 1.0)
    assert abs(rsa(x, draw(40, 6, 2), each(40))) < 0.15
    assert rsa(x, torch.ones(40, 6), each(40)).isnan()
    batch = rsa(torch.stack([x, x]), torch.stack([x, draw(40, 6, 2)]), each(40))
    assert_close(batch[1], rsa(x, draw(40, 6, 2), each(40)))


def test_rsa_refuses() -> None:
    x = draw(9, 3)
    with pytest.raises(UsageError, match="the distance 'cosine' is not known"):
        dissimilarities(x, distance="cosine")
    with pytest.raises(NotComparable, match=r"\(one row per sample\) needs at least 4 rows; there are 3"):
        rsa(x, x, torch.arange(9) // 3)
    with pytest.raises(NotComparable, match="compares row by row; there are 9 rows in one run, 8 in the other"):
        rsa(x, x[:8], each(9))


def naive_neighbours(x: Tensor, y: Tensor, sample: Tensor, k: int) -> float:
    shared = 0
    for i in range(len(x)):
        sets = []
        for z in (x, y):
            cosine = [
                (float(torch.dot(z[i], z[j]) / (z[i].norm() * z[j].norm())), -j)
                for j in range(len(z))
                if sample[j] != sample[i]
            ]
            sets.append({-j for _, j in sorted(cosine, reverse=True)[:k]})
        shared += len(sets[0] & sets[1])
    return shared / (len(x) * k)


@pytest.mark.parametrize("tokens", [1, 3])
def test_neighbours_equal_the_definition(tokens: int) -> None:
    x = draw(30, 6)
    y = x + 0.5 * draw(30, 6, 1)
    sample = torch.arange(30) // tokens
    assert_close(mutual_neighbours(x, y, sample, k=4).item(), naive_neighbours(x, y, sample, 4))


def test_neighbours_of_independent_runs_are_chance() -> None:
    assert_close(mutual_neighbours(draw(600, 20), draw(600, 20, 1), each(600)).item(), 10 / 599, rtol=0.25, atol=0)


def test_tokens_of_one_sample_do_not_count() -> None:
    """Unrelated models whose tokens cluster by sample: counting them, four fifths of the neighbours agree."""
    sample = torch.arange(200).repeat_interleave(5)
    x = draw(200, 16)[sample] + 0.1 * draw(1000, 16, 1)
    y = draw(200, 16, 2)[sample] + 0.1 * draw(1000, 16, 3)
    assert mutual_neighbours(x, y, each(1000), k=5) > 0.75
    assert mutual_neighbours(x, y, sample, k=5) < 0.03


def test_ties_go_to_the_first_rows() -> None:
    """Half precision makes equal similarities; the choice among them does not depend on the machine."""
    x = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 1]])
    y = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 1]])
    assert_close(mutual_neighbours(x, y, each(5), k=1).item(), naive_neighbours(x, y, each(5), 1))


def test_neighbours_are_local_where_cka_is_global(moments_of) -> None:
    """An aligned noisy copy: CKA .96, neighbours far less."""
    variances = torch.arange(1, 65, dtype=torch.float64).pow(-1)
    x = draw(800, 64) * variances.sqrt()
    y = x + 0.2 * draw(800, 64, 1) * variances.sqrt()
    assert cka(moments_of(x, y)) > 0.93
    assert mutual_neighbours(x, y, each(800)) < 0.75


def test_clipping_takes_massive_features_out() -> None:
    x, y = draw(200, 20), draw(200, 20, 1)
    x[:, 3] += 50
    y[:, 3] += 50
    z = x + 0.1 * draw(200, 20, 2)
    assert mutual_neighbours(x, z, each(200), clip=0.95) > mutual_neighbours(x, y, each(200), clip=0.95) + 0.3


@pytest.mark.parametrize("still", [0, 1])
def test_rows_in_one_direction_have_no_neighbours(still: int) -> None:
    pair = [draw(40, 6), draw(40, 6, 1)]
    pair[still] = torch.arange(1, 41, dtype=torch.float64)[:, None] * torch.ones(6, dtype=torch.float64)
    assert mutual_neighbours(*pair, each(40)).isnan()
    pair[still][3, 0] = 0.0
    assert not mutual_neighbours(*pair, each(40)).isnan()


def test_neighbours_keep_under_rotation_and_refuse_too_few() -> None:
    x = draw(50, 5)
    q = torch.linalg.qr(draw(5, 5, 1)).Q
    assert mutual_neighbours(x, 3 * x @ q, each(50)) == 1
    batch = mutual_neighbours(torch.stack([x, x]), torch.stack([x, draw(50, 5, 3)]), each(50))
    assert batch[0] == 1
    assert_close(batch[1], mutual_neighbours(x, draw(50, 5, 3), each(50)))
    with pytest.raises(NotComparable, match="k = 10 need that many rows of other samples; a row has only 9"):
        mutual_neighbours(x[:10], x[:10], each(10))
    with pytest.raises(UsageError, match="a row needs at least one neighbour; k = 0"):
        mutual_neighbours(x, x, each(50), k=0)
