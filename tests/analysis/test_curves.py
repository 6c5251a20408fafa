"""Curves against the number of rows: which are flat, which have a limit, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import rankscope
from rankscope.errors import NotComparable, UsageError
from rankscope.results.runs import Curves
from rankscope.store import Run

D = 48
TRUE = torch.arange(1, D + 1, dtype=torch.float64).reciprocal()


def collected(n: int, out: Path) -> Run:
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(1)) * TRUE.float().sqrt()
    return rankscope.collect(nn.Sequential(nn.Identity()), x, out=out)


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    return rankscope.curve(collected(600, tmp_path_factory.mktemp("curve") / "run.pt"))


def test_ranks_fall_with_n_and_their_limit_is_nearer_the_truth(curves: Curves) -> None:
    p = TRUE / TRUE.sum()
    truth = {
        "participation-ratio-naive": float(1 / p.square().sum()),
        "entropy-rank": float(torch.special.entr(p).sum().exp()),
        "roy-vetterli": float(torch.special.entr(p.sqrt() / p.sqrt().sum()).sum().exp()),
    }
    for name, true in truth.items():
        records = curves.of(name)
        assert [(r.parts, r.rows) for r in records] == [(1, 600), (2, 300), (4, 150)]
        assert records[0].value > records[1].value > records[2].value
        assert abs(records[0].limit - true) < 0.7 * abs(records[2].value - true)
        assert all(r.noise > r.value for r in records)
        assert all(r.least <= r.value <= r.greatest for r in records)


def test_the_unbiased_ratio_is_flat_and_has_no_limit_to_take(curves: Curves) -> None:
    records = curves.of("participation-ratio")
    assert max(r.value for r in records) / min(r.value for r in records) < 1.1
    assert all(r.limit is None for r in records)
    assert "no law in n is known" in records[0].notes[0]


def test_too_few_rows_give_the_curve_and_no_limit(tmp_path: Path) -> None:
    records = rankscope.curve(collected(200, tmp_path / "run.pt"), ["roy-vetterli"]).records
    assert [r.rows for r in records] == [200, 100, 50]
    assert all(r.limit is None for r in records)
    assert "can be extrapolated if the smallest part has 2 rows per feature, 96; it has 50" in records[0].notes[0]


def test_what_has_no_curve_is_refused(tmp_path: Path) -> None:
    few = collected(12, tmp_path / "few.pt")
    with pytest.raises(NotComparable, match="a curve with 4 parts needs 16 samples; there are 12"):
        rankscope.curve(few)
    with pytest.raises(UsageError, match="cka relates two runs"):
        rankscope.curve(few, ["cka"])
    same = nn.Sequential(nn.Embedding.from_pretrained(torch.ones(40, 4)))
    copies = rankscope.collect(same, torch.arange(40), out=tmp_path / "copies.pt")
    with pytest.raises(NotComparable, match="39 of the 40 rows"):
        rankscope.curve(copies)
    tokens = rankscope.curve(collected(40, tmp_path / "forty.pt"), ["pt-peft"]).records
    assert (len(tokens), tokens[0].notes) == (1, ("needs several rows a sample; collect with rows=tokens",))


def test_the_figure_and_the_table(curves: Curves) -> None:
    assert len(curves.plot().axes) == 4
    assert len(curves.to_frame()) == 4 * 3
    assert curves.to_records()[0]["limit"] is None
