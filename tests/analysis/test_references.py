"""What stands beside a comparison: bands over all sites, shuffles, a run against itself, and what the dtype does not resolve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import rankscope
from rankscope.comparisons.subspace import overlap_between, subspace_size
from rankscope.errors import UsageError
from rankscope.features import samples_in_groups
from rankscope.linalg.moments import Moments
from rankscope.linalg.svd import singular_values
from rankscope.measures.effective_rank import effective_rank
from rankscope.measures.rankme import rankme
from rankscope.spectrum import rounding_floor
from rankscope.store import Run, import_features

Make = Callable[..., Run]


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    root = torch.arange(1, d + 1) ** -0.5
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * root


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run of one row a sample with the given features at ``decoder.0``, ``decoder.1``, …"""

    def made(name: str, *layers: Tensor) -> Run:
        if layers[0].dtype == torch.bfloat16:
            path = tmp_path / f"{name}.pt"
            torch.save({str(i): x for i, x in enumerate(layers)}, path)
        else:
            path = tmp_path / f"{name}.npz"
            np.savez(path, **{str(i): x.numpy() for i, x in enumerate(layers)})
        sites = {str(i): f"decoder.{i}" for i in range(len(layers))}
        return import_features(path, tmp_path / f"{name}.run", sites=sites)

    return made


@pytest.fixture
def make_tokens(tmp_path: Path) -> Make:
    """A run of token rows at ``decoder.0``, of which each sample has as many as ``counts`` says."""

    def made(name: str, x: Tensor, counts: Tensor) -> Run:
        rows = pa.array([part.tolist() for part in x.split(counts.tolist())])
        pq.write_table(
            pa.table({"id": [f"s{i}" for i in range(len(counts))], "feat": rows}), tmp_path / f"{name}.parquet"
        )
        return import_features(tmp_path / f"{name}.parquet", tmp_path / f"{name}.run", sites={"feat": "decoder.0"})

    return made


def test_bands_hold_all_sites_and_are_wider_than_intervals(make: Make) -> None:
    """Twelve sites where nothing differs: one by one some would be called different, together none is."""
    x = [draw(400, 16, seed) for seed in range(12)]
    y = [z + 0.3 * draw(400, 16, 100 + i) for i, z in enumerate(x)]
    y[3] = y[3] * torch.linspace(2, 0.2, 16)
    found = rankscope.compare(make("a", *x), make("b", *y), measures=["entropy-rank", "cka"]).records
    ranks = [r for r in found if r.measure == "entropy-rank"]
    assert all(r.band.low < r.low < r.value < r.high < r.band.high for r in ranks)
    assert (ranks[3].band.high < 0, ranks[3].p) == (True, pytest.approx(0, abs=0.002))
    others = [r for i, r in enumerate(ranks) if i != 3]
    assert all(r.band.low < 0 < r.band.high and r.p > 0.05 for r in others)
    relations = [r for r in found if r.measure == "cka"]
    assert all(r.p is None for r in relations), "of a relation alone 0 is no hypothesis"
    assert all(r.band.low < r.low for r in relations)


def test_one_site_has_its_own_interval_and_few_groups_have_no_band(make: Make) -> None:
    a, b = make("a", draw(200, 8)), make("b", draw(200, 8) + 0.2 * draw(200, 8, 1))
    (one,) = rankscope.compare(a, b, measures=["entropy-rank"]).records
    assert one.band.high - one.band.low == pytest.approx(one.high - one.low, rel=0.12)
    (few,) = rankscope.compare(a, b, measures=["entropy-rank"], groups=5, interval="jackknife").records
    assert few.low is not None
    assert few.band.low is None
    assert few.p is None


def test_shuffles_tell_a_relation_from_none(make: Make) -> None:
    x = draw(120, 8)
    a, b, c = make("a", x), make("b", x + draw(120, 8, 1)), make("c", draw(120, 8, 2))
    asked = ["cka", "procrustes-angle", "overlap", "cumulative-distance", "entropy-rank"]
    related = {r.measure: r for r in rankscope.compare(a, b, measures=asked, permutations=39).records}
    assert related["cka"].p_unrelated == related["procrustes-angle"].p_unrelated == 1 / 40
    assert related["cumulative-distance"].p_unrelated is None
    assert related["entropy-rank"].p_unrelated is None
    alone = {
        r.measure: r for r in rankscope.compare(a, c, measures=["cka", "procrustes-angle"], permutations=39).records
    }
    assert all(r.p_unrelated > 0.05 for r in alone.values())
    plain = rankscope.compare(a, b, measures=["cka"]).records[0]
    assert plain.p_unrelated is None
    with pytest.raises(UsageError, match="permutations is a number of shuffles, 0 or more; got -3"):
        rankscope.compare(a, b, measures=["cka"], permutations=-3)


def test_what_relates_no_rows_is_read_against_itself_on_two_halves(make: Make) -> None:
    """The same model does not reach an overlap of 1 on other rows: that is its ceiling, and on the very same rows it is none."""
    x = torch.randn(240, 16, generator=torch.Generator().manual_seed(4))
    a, b = make("a", x), make("b", x + 0.1 * draw(240, 16, 1))
    found = {
        r.measure: r for r in rankscope.compare(a, b, measures=["overlap", "bures", "cka", "roy-vetterli"]).records
    }
    half = samples_in_groups(a.rows_at(a.sites[0]), 20) % 2 == 0
    sums = [Moments.of(x[part], shift=x[0]).sum() for part in (half, ~half)]
    assert found["overlap"].itself == pytest.approx(float(overlap_between(*sums, k=subspace_size(16))))
    assert found["overlap"].itself < 0.95
    assert found["bures"].itself > 0
    assert found["cka"].itself == pytest.approx(1)
    ranks = [float(effective_rank(singular_values(x[part], centre=True).values)) for part in (half, ~half)]
    assert found["roy-vetterli"].itself == pytest.approx(ranks[1] - ranks[0], abs=1e-5)


def test_the_reference_read_again_is_what_it_scores_against_itself(make: Make) -> None:
    """Read once more in bfloat16: what the dtype alone changes stands beside what tuning changed."""
    x = draw(200, 16)
    base, again = make("base", x), make("again", x.bfloat16())
    a, b = make("a", x + 0.1 * draw(200, 16, 1)), make("b", x + 0.2 * draw(200, 16, 2))
    result = rankscope.compare(a, b, base=base, again=again, measures=["drift", "entropy-rank"])
    drift, rank = result.records
    expected = (x.bfloat16().double() - x.double()).square().sum(1).mean() / torch.cov(x.mT.double()).trace()
    assert drift.itself == pytest.approx(float(expected), rel=1e-3)
    assert 0 < drift.itself < 1e-4 < drift.a.value < drift.b.value
    assert 0 < abs(rank.itself) < 0.01
    assert result.names == ("a", "b", "base")
    (alone,) = rankscope.compare(base, a, again=again, measures=["drift"]).records
    assert alone.itself == pytest.approx(drift.itself)


def test_values_below_the_floor_of_the_dtype_are_told_and_left_out(make: Make) -> None:
    """bfloat16 puts a floor under a tail of six decades: slopes and entropies leave out what is below it, RankMe keeps it."""
    left = torch.linalg.qr(torch.randn(600, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    exact = (left - left.mean(0)) * torch.logspace(2, -4, 32, dtype=torch.float64) @ right.mT
    stored = exact.bfloat16()
    asked = ["roy-vetterli", "alpha-req", "rankme", "below-dtype-floor", "numerical-rank", "stable-rank"]
    found = {r.measure: r for r in rankscope.measure(make("half", stored), asked, groups=4).records}
    s = singular_values(stored, centre=True).values
    floor = rounding_floor(float(stored.double().norm()), 600, 32, torch.bfloat16)
    below = int((s < floor).sum())
    assert 5 < below < 27
    assert found["roy-vetterli"].below_floor == below == found["below-dtype-floor"].value
    assert found["roy-vetterli"].value == pytest.approx(float(effective_rank(s[s >= floor])))
    assert "what bfloat16 resolves (below_floor of them) are left out" in found["roy-vetterli"].notes[0]
    assert "are counted, as the measure is defined" in found["rankme"].notes[0]
    assert found["rankme"].value == pytest.approx(float(rankme(singular_values(stored).values)))
    assert found["numerical-rank"].value <= 32 - below + 2
    exact_alpha, full = (
        rankscope.measure(make(name, x), ["alpha-req"], groups=4).records[0]
        for name, x in (("exact", exact), ("full", exact.float()))
    )
    assert exact_alpha.below_floor == full.below_floor == 0
    naive = rankscope.measures.power_law.fit_power_law(s, first=4, weighting="rank").exponent
    assert abs(found["alpha-req"].value - exact_alpha.value) < abs(float(naive) - exact_alpha.value)


def test_a_rank_that_is_zero_without_one_sample_has_no_interval(make: Make) -> None:
    x = torch.zeros(12, 4)
    x[3] = 1.0
    (found,) = rankscope.measure(make("one", x), ["roy-vetterli"], groups=12, allow_duplicates=True).records
    assert found.value == pytest.approx(1)
    assert (found.low, found.high) == (None, None)
    assert any(
        note.startswith("a few samples decide it: an interval would leave nearly all of 1…4") for note in found.notes
    )


def test_noise_has_the_dtype_of_the_features(make: Make) -> None:
    """Noise in another dtype would have another floor."""
    run = make("half", draw(200, 16).bfloat16())
    found = rankscope.measure(run, ["below-dtype-floor"], groups=4).records[0]
    assert found.noise == 0
    assert_close(found.value, 0.0)


def ragged(make: Make, counts: Tensor, seed: int, mixed: float = 0.0) -> tuple[Run, Run]:
    """Two runs of token rows that share with their own sample; ``mixed`` is how much the second takes from the first."""
    sample = torch.arange(len(counts)).repeat_interleave(counts)
    x, y = (0.8 * draw(len(counts), 8, seed + i)[sample] + 0.6 * draw(len(sample), 8, seed + 50 + i) for i in (0, 1))
    return make(f"a{seed}", x, counts=counts), make(f"b{seed}", y + mixed * x, counts=counts)


def test_p_of_unequal_samples_holds_its_level_and_noise_is_that_of_unrelated_runs(make_tokens: Make) -> None:
    """Ten pairs of unrelated runs, of which end-to-end shuffles call seven or more related."""
    p, values, noise = [], [], []
    for seed in range(10):
        counts = torch.randint(1, 9, (30,), generator=torch.Generator().manual_seed(seed))
        (found,) = rankscope.compare(
            *ragged(make_tokens, counts, 100 * seed), measures=["cka-biased"], permutations=19, groups=4
        ).records
        p.append(found.p_unrelated)
        values.append(found.value)
        noise.append(found.noise)
    assert sum(x <= 0.05 for x in p) <= 2
    assert float(np.mean(values)) == pytest.approx(float(np.mean(noise)), abs=0.05)
    (related,) = rankscope.compare(
        *ragged(make_tokens, counts, 3000, 3.0), measures=["cka-biased"], permutations=19, groups=4
    ).records
    assert related.p_unrelated == 1 / 20
    assert related.noise < 0.5 < related.value


def test_samples_that_cannot_be_exchanged_leave_the_value_and_say_why(make_tokens: Make) -> None:
    a, b = ragged(make_tokens, torch.arange(1, 13), 7)
    found = {
        r.measure: r
        for r in rankscope.compare(a, b, measures=["cka-biased", "overlap"], groups=4, permutations=3).records
    }
    assert found["cka-biased"].value is not None
    assert (found["cka-biased"].noise, found["cka-biased"].p_unrelated) == (None, None)
    assert "no two of the 12 have" in found["cka-biased"].notes[-1]
    assert found["overlap"].noise is not None, "what pairs no rows needs no exchange"
    a, b = ragged(make_tokens, torch.tensor([2, 2, *range(3, 15)]), 8)
    (found,) = rankscope.compare(a, b, measures=["cka-biased"], groups=4).records
    assert "noise is taken from 2 of 14 samples" in found.notes[-1]
