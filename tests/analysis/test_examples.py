"""What moved, and where to: planted rows come first with their texts, and a planted direction says its word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

import rankscope
from rankscope.analysis.examples import examples
from rankscope.errors import NotComparable, UnknownName, UsageError
from rankscope.models.load import load_model
from rankscope.results.examples import WIDTH, ExampleRecord, Examples
from rankscope.store import Run, import_features

SITE = "decoder.1"
MOVED = {"s7": 5.0, "s3": 4.0, "s21": 3.0, "s30": 2.9, "s40": 2.8, "s11": 2.7}
"""By how much the rows of some samples are moved at the site, all in one direction."""
STIRRED = 3e-3
"""The deviation by which all rows there are moved besides, in every direction."""
Call = Callable[..., Any]


class Shifted(Run):
    """A run of which some samples are moved along one direction at one site."""

    direction: Tensor
    by = MOVED

    def _gather(self, name: str, stored: Tensor) -> Tensor:
        found = super()._gather(name, stored)
        if name != SITE:
            return found
        rows, order = self._ordered("decoder")
        stirred = torch.randn(len(rows), found.shape[1], generator=torch.Generator().manual_seed(0)) * STIRRED
        moved = torch.empty_like(stirred)
        moved[order] = torch.tensor([self.by.get(i, 0.0) for i in rows.sample_ids])[:, None] * self.direction + stirred
        return found + moved[stored]


def shifted(run: Run, direction: Tensor, by: dict[str, float] = MOVED) -> Shifted:
    made = Shifted(run.path, run._container)
    made.direction, made.by = direction, by
    return made


@pytest.fixture(scope="module")
def column(folder: Call) -> Tensor:
    """What the head of the tiny GPT-2 makes the word ``" digits"`` from, of length one."""
    model: Any = load_model(folder("gpt2"))
    (token,) = AutoTokenizer.from_pretrained(folder("gpt2"))(" digits")["input_ids"]
    return torch.nn.functional.normalize(model.lm_head.weight[token].detach(), dim=0)


@pytest.fixture(scope="module")
def planted(runs: dict[str, Run], column: Tensor) -> Examples:
    return examples(runs["none"], shifted(runs["none"], column), n=3)


def test_the_site_samples_and_tokens_that_were_moved_come_first(planted: Examples, texts: Path) -> None:
    said = {line["id"]: line["text"] for line in map(json.loads, texts.read_text().splitlines())}
    assert planted.site == SITE
    assert [(r.sample, r.text) for r in planted.only("sample")] == [(i, said[i]) for i in list(MOVED)[:3]]
    tokens = planted.only("token")
    assert {r.sample for r in tokens} == {"s7"}
    for r in tokens:
        assert r.context is not None
        assert f"[{r.token}]" in r.context
        assert r.context.replace("[", "").replace("]", "") in said["s7"]
        assert r.role == "text"


def test_a_planted_direction_says_its_word(planted: Examples) -> None:
    mean, first = planted.only("mean", "direction")[:2]
    for r in (mean, first):
        assert r.promotes[0] == " digits"
        assert r.outlying > 1.3 * r.outlying_of_noise
    assert first.value > 0.99
    assert not any("senses" in note for note in first.notes), "it points where the mean does"
    assert planted.only("direction")[1].value < 0.01


def test_the_other_sense_suppresses_it(runs: dict[str, Run], column: Tensor) -> None:
    found = examples(runs["none"], shifted(runs["none"], -column), n=1, directions=1)
    assert [r.suppresses[0] for r in found.only("mean", "direction")] == [" digits"] * 2


def test_a_direction_in_which_rows_go_both_ways_has_no_sense(runs: dict[str, Run], column: Tensor) -> None:
    by = {name: (-1.0) ** i for i, name in enumerate(f"s{k}" for k in range(48))}
    first = examples(runs["none"], shifted(runs["none"], column, by), n=1).only("direction")[0]
    assert any("does not tell which of its two senses" in note for note in first.notes)
    assert " digits" in (first.promotes[0], first.suppresses[0])


def test_numbers_are_those_of_compare_and_of_their_formulas(
    planted: Examples, runs: dict[str, Run], column: Tensor
) -> None:
    other = shifted(runs["none"], column)
    names = ["drift", "drift-rank", "drift-mean-share", "drift-share-1", "drift-share-2", "drift-share-3"]
    compared = rankscope.compare(runs["none"], other, measures=names, sites=SITE)
    numbers = planted.only("site", "mean", "direction")
    assert [(r.measure, r.estimate, r.unit) for r in numbers] == [
        (r.measure, r.estimate, r.unit) for r in compared.records
    ]
    x, y = (run.features(SITE).double() for run in (runs["none"], other))
    rows = (y - x).square().sum(1) / torch.cov(x.T).trace()
    token, sample = planted.only("token")[0], planted.only("sample")[0]
    assert token.value == pytest.approx(float(rows.max()), rel=1e-9)
    own = torch.tensor([i == "s7" for i in runs["none"].rows_at(SITE).sample_ids])
    assert (sample.value, sample.rows) == (pytest.approx(float(rows[own].mean()), rel=1e-9), int(own.sum()))
    assert numbers[0].value == pytest.approx(float(rows.mean()), rel=1e-9)


def test_shares_are_held_against_noise_of_the_shape_or_another_seed(
    planted: Examples, runs: dict[str, Run], column: Tensor
) -> None:
    (n, d), first = runs["none"].features(SITE).shape, planted.only("direction")[0]
    assert first.noise == pytest.approx((1 + (d / n) ** 0.5) ** 2 / d, rel=0.1)
    assert planted.only("site")[1].noise == pytest.approx(d / (1 + d / n), rel=0.05)
    tuned, seed = shifted(runs["none"], column), shifted(runs["none"], column, {"s5": 1.0, "s7": 4.0})
    found = examples(runs["none"], tuned, seed=seed, directions=1).only("direction")[0]
    apart = rankscope.compare(tuned, seed, measures=["drift-share-1"], sites=SITE).records[0]
    assert found.noise == pytest.approx(apart.value, rel=1e-9)
    assert found.estimate == first.estimate


def test_what_is_not_at_hand_is_left_out_and_said(
    folder: Call, texts: Path, column: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, data = tmp_path / "gone", tmp_path / "texts.jsonl"
    shutil.copytree(folder("gpt2"), checkpoint)
    shutil.copy(texts, data)
    run = rankscope.collect(checkpoint, data, rows="tokens", sites=SITE, out=tmp_path / "run.pt")

    def found() -> Examples:
        return examples(run, shifted(run, column), n=1)

    data.write_text(data.read_text().replace("digits", "DIGITS"))
    changed = found()
    assert "is not what it was when run was read on it" in changed.notes[0]
    given = examples(run, shifted(run, column), n=1, data=texts)  # lies elsewhere now
    assert given.only("sample")[0].text is not None
    assert given.only("mean")[0].promotes
    wrong = examples(run, shifted(run, column), n=1, data=data)
    assert (wrong.only("sample")[0].text, wrong.notes[0]) == (None, changed.notes[0])
    assert "without the data it cannot be seen what the model's head reads" in changed.notes[1]
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 0.1}))
    assert "gone is not what it was when run was read from it; tokens and the words" in found().notes[1]
    shutil.rmtree(checkpoint)
    left = found()
    assert "there is no folder" in left.notes[1]
    assert left.only("sample")[0].sample == "s7"
    assert {(r.text, r.token, r.promotes) for r in left.records} == {(None, None, ())}
    assert left.only("direction")[0].estimate == changed.only("direction")[0].estimate


def test_an_imported_run_has_ids_alone_and_few_rows_are_enough(tmp_path: Path) -> None:
    """With fewer rows than features the directions are those of the rows themselves."""
    draw = np.random.default_rng(0)
    x, along = draw.normal(size=(12, 40)), np.eye(40)[3]
    runs = []
    for name, z in (("a", x), ("b", x + np.outer(np.arange(12), along) + 1e-3 * draw.normal(size=(12, 40)))):
        np.save(tmp_path / f"{name}.npy", z)
        runs.append(import_features(tmp_path / f"{name}.npy", tmp_path / f"{name}.pt", sites={name: SITE}))
    found = examples(*runs, n=2)
    assert [r.sample for r in found.only("sample")] == ["11", "10"]
    assert found.only("direction")[0].value > 0.99
    assert found.only("token") == ()
    assert "b was imported" in found.notes[-2]
    assert "b was not read from a checkpoint folder" in found.notes[-1]


def test_what_makes_no_sense_is_refused_by_name(
    runs: dict[str, Run], folder: Call, texts: Path, tmp_path: Path
) -> None:
    base, tuned = runs["none"], runs["lora"]
    with pytest.raises(NotComparable, match="no row of none moved away from none"):
        examples(base, base)
    with pytest.raises(UnknownName, match=r"there is no site 'decoder\.9'"):
        examples(base, tuned, sites="decoder.9")
    for name in ("n", "words"):
        with pytest.raises(UsageError, match=f"{name} is a whole number from 1; got 0"):
            examples(base, tuned, **{name: 0})
    sums = rankscope.collect(folder("gpt2"), texts, keep="moments", sites=SITE, out=tmp_path / "sums")
    with pytest.raises(NotComparable, match="sums holds sums over rows, and no sample's own rows"):
        examples(sums, sums)


def test_it_opens_into_records_frames_and_html(planted: Examples) -> None:
    rows = planted.to_records()
    assert json.loads(json.dumps(rows, allow_nan=False))[2]["promotes"] == list(planted.records[2].promotes)
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert list(planted.to_frame()["what"]) == [r.what for r in planted.records]
    assert repr(planted) == f"<Examples: 3 samples and 3 tokens that moved most at {SITE}; to_frame()>"
    assert "digits" in planted._repr_html_()
    assert "<script" not in examples_of_a_script()._repr_html_()


def examples_of_a_script() -> Examples:
    """A sample that is called as no sample should be."""
    from rankscope.results.record import Estimate

    def made(what: Any, **more: Any) -> ExampleRecord:
        return ExampleRecord(what, SITE, "drift", Estimate(1.0), "", **more)

    return Examples((made("site"), made("site"), made("sample", sample="<script>")), site=SITE, names=("a", "b"))


def test_the_command_prints_them_below_the_verdict_in_eighty_columns(
    runs: dict[str, Run], rankscope_: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankscope.cli.show.columns_there", lambda: WIDTH)
    paths = [runs[name].path for name in ("none", "lora", "prefix")]
    done = rankscope_("compare", *paths[:2], "--examples", 2, "--layers", SITE, "-m", "drift")
    assert done.code == 0, done.err
    shown = done.out.partition("What moved most: decoder.1 of lora against none")
    assert "drift" in shown[0]
    lines = shown[2].splitlines()[1:]
    assert max(map(len, lines)) <= WIDTH < 2 * max(map(len, lines))
    assert [line.split()[:3] for line in lines if "drift" in line] == [
        ["drift", "sample", "text"],
        ["drift", "sample", "place"],
    ]
    assert "as if no block stood between decoder.1 and decoder.final" in done.err
    told = json.loads(
        rankscope_(
            "compare", *paths[1:], "--base", paths[0], "--examples", 2, "--layers", SITE, "-m", "drift", "--json"
        ).out
    )
    expected = [
        r for name in ("lora", "prefix") for r in examples(runs["none"], runs[name], n=2, sites=SITE).to_records()
    ]
    assert told["examples"] == json.loads(json.dumps(expected))
