"""Rows that equal others: told where the data explain them, left out where a sample was read before, and else refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_rows import population, values
from torch import Tensor, nn

import rankscope
from rankscope.analysis.guards import copies, row_classes
from rankscope.errors import NotComparable
from rankscope.sites import Site
from rankscope.store import Run, import_features

Make = Callable[..., Run]


def test_copies_that_the_data_explain_are_told_and_measured(tokens: Make) -> None:
    """In a causal model texts that begin alike have equal rows until they part; that is no padding."""
    x = population(60 * 8, 16, seed=3).reshape(60, 8, 16)
    x[:, 0] = x[0, 0]
    x[:30, 1] = x[0, 1]
    record = rankscope.measure(tokens(x, "causal"), ["entropy-rank"], groups=4).records[0]
    assert record.value > 1
    assert "88 of 480 rows equal another: texts that begin alike" in str(record.notes)
    x[:, -2:] = x[0, 0]
    with pytest.raises(NotComparable, match=r"of the 480 rows of padded at decoder\.1"):
        rankscope.measure(tokens(x, "padded"), ["entropy-rank"])
    embedded = rankscope.measure(tokens(x, "embedded", "decoder.embed"), ["entropy-rank"], groups=4).records[0]
    assert "equal tokens" in str(embedded.notes)


def test_a_repeated_text_is_not_a_new_sample(tokens: Make) -> None:
    x = population(40 * 4, 16, seed=4).reshape(40, 4, 16)
    once, x[20:] = tokens(x[:20].clone(), "once"), x[:20]
    twice = tokens(x, "twice")
    measured = rankscope.measure(twice, ["entropy-rank"], groups=4)
    assert values(measured) == values(rankscope.measure(once, ["entropy-rank"], groups=4))
    assert measured.notes == (
        "20 of the 40 samples are left out, because their rows equal those of an earlier sample: '20' is '0'; '21' is '1'; "
        "'22' is '2'; …",
    )
    assert rankscope.spectra(twice)[twice.sites[0]].rows == 80
    as_they_are = rankscope.measure(twice, ["entropy-rank"], groups=4, allow_duplicates=True)
    assert (as_they_are.records[0].shape.n, as_they_are.notes) == (160, ())
    other = tokens(population(40 * 4, 16, seed=5).reshape(40, 4, 16), "other")
    compared = rankscope.compare(twice, twice, measures=["cka"], groups=4)
    assert (compared.records[0].shape.n, compared.notes[-1:]) == (80, measured.notes)
    # In another run the samples differ, so that they are not the same inputs: the copies of one run are refused.
    with pytest.raises(NotComparable, match=r"80 of the 160 rows of twice at decoder.1 \(50.0%\)"):
        rankscope.compare(twice, other, measures=["cka"])
    several = [twice, tokens(2 * x, "two"), tokens(3 * x, "three")]
    arms = rankscope.compare_arms({"a": several}, base=twice, measures=["entropy-rank"], groups=4)
    assert (arms.records[0].shape.n, arms.notes[1:2]) == (80, measured.notes)
    assert rankscope.curve(twice, ["roy-vetterli"], parts=(1, 2)).notes == measured.notes
    x[:] = x[0]
    with pytest.raises(NotComparable, match="all 40 samples of same have the same rows, so only one is left"):
        rankscope.measure(tokens(x, "same"), ["entropy-rank"])


def test_one_pooled_row_tells_no_sample_and_several_sites_do(tmp_path: Path) -> None:
    def run(sites: int, x: Tensor) -> Run:
        path = tmp_path / f"{sites}.npz"
        np.savez(path, **{f"decoder.{i}": (x * (i + 1)).numpy() for i in range(sites)})
        return import_features(path, tmp_path / f"{sites}.pt", overwrite=True)

    x = population(40, 8, seed=6)
    x[30:] = x[:10]
    with pytest.raises(NotComparable, match=r"10 of the 40 rows of 1 at decoder\.0"):
        rankscope.measure(run(1, x), ["entropy-rank"], groups=4)
    found = rankscope.measure(run(2, x), ["entropy-rank"], groups=4)
    assert {r.shape.n for r in found.records} == {30}
    assert {r.shape.n for r in rankscope.measure(run(2, x), ["entropy-rank"], sites="decoder.0").records} == {30}
    zeros = population(40, 8, seed=6)
    zeros[:4] = 0  # these are no input that was read several times
    with pytest.raises(NotComparable, match=r"4 of the 40 rows of 2 at decoder\.0"):
        rankscope.measure(run(2, zeros), ["entropy-rank"], groups=4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_one_class_exactly_if_they_are_equal(dtype: torch.dtype) -> None:
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)).round(decimals=1).to(dtype)
    x[7], x[9] = 0.0, -0.0
    classes = row_classes(x)
    equal = (x[:, None] == x[None]).all(-1)
    assert torch.equal(classes[:, None] == classes[None], equal)
    near = x.clone()
    near[0, 0] += torch.finfo(dtype).eps * near[0, 0].abs() * 2
    assert (row_classes(torch.cat([x[:1], near[:1]])) == 0).sum() == 1
    rows = rankscope.Rows(torch.arange(300), torch.full((300,), -1), torch.full((300,), 5), tuple(map(str, range(300))))
    copied, unexplained = copies(x, rows, Site("decoder", "1"))
    assert int(copied.sum()) == 300 - len(torch.unique(classes))
    assert torch.equal(copied | (x == 0).all(1), unexplained)


def test_one_site_of_copies_does_not_keep_the_others_from_being_measured(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.other = nn.Linear(8, 8), nn.Identity()
            nn.init.zeros_(self.same.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.same(x) + self.other(x)

    run = rankscope.collect(Two(), population(40, 8), sites="same.output,other.output", out=tmp_path / "run.pt")
    refused, measured = rankscope.measure(run, ["entropy-rank"], groups=4).records
    assert (refused.refused, refused.value is None, measured.refused) == (True, True, False)
    assert "39 of the 40 rows of run at same.output" in str(refused.notes)
