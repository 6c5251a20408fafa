from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rankscope
from rankscope.errors import NonFinite, NotComparable, UnknownName, UsageError
from rankscope.measures.effective_rank import effective_rank
from rankscope.results.record import Shape
from rankscope.results.runs import Contrast

Runs = dict[str, rankscope.Run]


@pytest.fixture(scope="module")
def contrast(runs: Runs) -> Contrast:
    return rankscope.compare(runs["lora"], runs["prefix"], base=runs["none"])


def nearly_white(run: rankscope.Run, site: str) -> Tensor:
    x = run.features(site).double()
    return x - x.mean(0)


def test_the_spectrum_of_a_site_is_that_of_a_plain_decomposition(runs: Runs) -> None:
    found = rankscope.spectra(runs["lora"])
    assert tuple(found) == runs["lora"].sites
    for site, spectrum in found.items():
        torch.testing.assert_close(spectrum.values, torch.linalg.svdvals(nearly_white(runs["lora"], str(site))))
        assert (spectrum.rows, spectrum.columns) == (runs["lora"].n(site), 32)


def test_features_that_are_not_finite_are_refused_by_run_site_and_row(tmp_path: Path) -> None:
    x = torch.randn(40, 5)
    x[7, 2] = torch.inf
    bad = rankscope.collect(nn.Sequential(nn.Identity()), x, out=tmp_path / "bad.pt", nonfinite="keep")
    good = rankscope.collect(nn.Sequential(nn.Hardtanh()), x, out=tmp_path / "good.pt")
    words = r"1 of the 40 rows of bad at 0\.output are NaN or infinite, first sample '7', token 0; choose other sites"
    for asked in (rankscope.measure, rankscope.spectra, rankscope.curve, partial(rankscope.compare, good)):
        with pytest.raises(NonFinite, match=words):
            asked(bad)


def test_a_profile_has_the_measure_its_interval_and_its_convention(runs: Runs) -> None:
    records = rankscope.profile(runs["lora"], "roy-vetterli").records
    assert [r.site for r in records] == [str(s) for s in runs["lora"].sites]
    for r in records:
        expected = effective_rank(torch.linalg.svdvals(nearly_white(runs["lora"], r.site)))
        assert r.value == pytest.approx(float(expected), rel=1e-6)
        assert r.low < r.value < r.high
        assert r.shape == Shape(runs["lora"].n(r.site), 48, 32, "float32")
        assert "centred; rows=tokens" in r.convention


def test_layers_and_names_of_the_field_are_understood(runs: Runs) -> None:
    mine = rankscope.measure(runs["lora"], ["erank"], layers="decoder (0-1)")  # type: ignore[call-arg]
    assert [r.site for r in mine.records] == ["decoder.0", "decoder.1"]
    assert mine.records == rankscope.measure(runs["lora"], ["roy-vetterli"], sites="0-1").records
    assert mine.of("Effective_Rank") == mine.of("roy-vetterli") == mine.records


def test_a_function_on_singular_values_is_a_measure_like_any_other(runs: Runs) -> None:
    def twice_the_rank(s: Tensor) -> Tensor:
        """Two times the effective rank."""
        return 2 * effective_rank(s)

    mine = rankscope.measure(runs["lora"], [twice_the_rank, "roy-vetterli"], sites="decoder.1").records
    assert mine[0].value == pytest.approx(2 * mine[1].value)
    assert mine[0].measure == "twice-the-rank"
    compared = rankscope.compare(runs["lora"], runs["prefix"], measures=[twice_the_rank], sites="decoder.1").records
    assert compared[0].a.value == pytest.approx(mine[0].value)


def test_intervals_leave_out_samples_never_tokens(runs: Runs) -> None:
    few = rankscope.measure(runs["lora"], ["participation-ratio-clustered"], sites="decoder.1", groups=5)
    assert few.records[0].shape.samples == 48
    assert few.records[0].shape.n > 4 * 48
    assert few.records[0].high - few.records[0].low > 0


def test_the_interval_of_a_rank_is_made_on_its_logarithm_and_that_of_a_change_on_itself(runs: Runs) -> None:
    rank, mean_share = rankscope.measure(runs["lora"], ["participation-ratio", "mean-share"], sites="decoder.1").records
    assert rank.low * rank.high == pytest.approx(rank.value**2)
    logits = [math.log(x / (1 - x)) for x in (mean_share.low, mean_share.high, mean_share.value)]
    assert logits[0] + logits[1] == pytest.approx(2 * logits[2]), "a share between 0 and 1 has it on the logit"
    plain = rankscope.compare(runs["none"], runs["lora"], measures=["participation-ratio"], sites="decoder.1").records[
        0
    ]
    assert (plain.b.low, plain.b.high) == pytest.approx((rank.low, rank.high))
    assert plain.low + plain.high == pytest.approx(2 * plain.value)


def test_a_change_is_signed_against_the_base_and_paired(contrast: Contrast, runs: Runs) -> None:
    for record in contrast.of("roy-vetterli"):
        values = {
            name: float(effective_rank(torch.linalg.svdvals(nearly_white(run, record.site))))
            for name, run in runs.items()
        }
        assert record.base == pytest.approx(values["none"], rel=1e-6)
        assert record.a.value == pytest.approx(values["lora"] - values["none"], abs=1e-5)
        assert record.b.value == pytest.approx(values["prefix"] - values["none"], abs=1e-5)
        assert record.difference == pytest.approx(record.b.value - record.a.value, abs=1e-9)
        assert record.low <= record.value <= record.high


def test_what_lora_leaves_alone_is_found_unchanged(contrast: Contrast) -> None:
    at_embed = {r.measure: r for r in contrast.records if r.site == "decoder.embed"}
    assert (at_embed["cka"].a.value, at_embed["overlap"].a.value) == (pytest.approx(1), pytest.approx(1))
    assert at_embed["drift"].a.value == at_embed["roy-vetterli"].a.value == 0
    assert at_embed["recoverability"].a.value == pytest.approx(at_embed["recoverability"].itself)


def test_what_is_changed_is_told_from_noise_and_from_itself(contrast: Contrast) -> None:
    for record in (r for r in contrast.records if r.site == "decoder.2"):
        if record.measure in ("cka", "overlap", "variance-captured", "recoverability"):
            assert record.noise < record.a.value < 1
            assert record.noise < record.itself <= 1 + 1e-9


def test_without_a_base_a_relation_has_one_value(runs: Runs) -> None:
    result = rankscope.compare(runs["none"], runs["lora"], measures=["cka", "roy-vetterli"], sites="final")
    relation, definition = result.records
    assert (relation.a.value, relation.difference) == (None, None)
    assert relation.low < relation.value < relation.high
    assert definition.value == pytest.approx(definition.b.value - definition.a.value)


def test_a_run_is_the_same_as_itself(runs: Runs) -> None:
    result = rankscope.compare(runs["lora"], runs["lora"], sites="decoder.2")
    values = {r.measure: r.value for r in result.records}
    for name in ("cka", "overlap"):
        assert values[name] == pytest.approx(1)
    for name in ("drift", "cumulative-distance", "roy-vetterli", "participation-ratio"):
        assert values[name] == pytest.approx(0, abs=1e-9)
    assert result.names == ("lora#1", "lora#2")


def test_few_rows_beside_many_features_give_the_same_numbers(tmp_path: Path) -> None:
    """Where n < d the runs are turned into the span of their rows; nothing that is measured may notice."""
    torch.manual_seed(3)
    wide = nn.Linear(6, 40)
    x = torch.randn(16, 6)
    a = rankscope.collect(nn.Sequential(wide), x, out=tmp_path / "a.pt")
    b = rankscope.collect(nn.Sequential(wide, nn.Tanh()), x, sites="1.output", out=tmp_path / "b.pt")
    spectrum = rankscope.spectra(a)[a.sites[0]]
    profile = rankscope.profile(a, "roy-vetterli").records[0]
    assert profile.value == pytest.approx(float(effective_rank(spectrum.values)), rel=1e-6)
    assert b.width("1.output") == 40


def test_the_table_the_records_and_the_page_agree(contrast: Contrast) -> None:
    frame = contrast.to_frame()
    assert len(frame) == len(contrast.records) == len(contrast.measures) * 5
    assert frame[frame["measure"] == "pt-peft"]["n"].notna().all()
    assert "<table" in contrast._repr_html_()


def test_the_map_has_every_site_against_every_site(contrast: Contrast) -> None:
    assert contrast.similarity is not None
    assert contrast.similarity.shape == (5, 5)
    assert contrast.similarity.max() <= 1 + 1e-9


def test_runs_of_different_rows_are_refused_with_the_first_difference(
    folder: Callable[..., Path], texts: Path, runs: Runs, tmp_path: Path
) -> None:
    fewer = rankscope.collect(folder("gpt2"), texts, rows="tokens", n=40, out=tmp_path / "fewer.pt")
    with pytest.raises(
        NotComparable, match=r"rows of lora and fewer differ at decoder.embed: one has \d+ rows, the other"
    ):
        rankscope.compare(runs["lora"], fewer)
    result = rankscope.compare(runs["lora"], fewer, common_rows=True, measures=["cka"])
    assert result.records[0].shape.samples == 40
    rows = [run.n("decoder.0") for run in (fewer, runs["lora"], fewer)]
    assert f"decoder: the {rows[0]} rows common to all runs, of {rows[1]}, {rows[2]}" in result.notes
    last = rankscope.collect(folder("gpt2"), texts, rows="last", out=tmp_path / "last.pt")
    with pytest.raises(
        NotComparable, match=r"row 0 is sample 's0', token 0.*their rows are tokens and last; collect one"
    ):
        rankscope.compare(runs["lora"], last)


def test_runs_of_different_width_compare_where_that_has_a_meaning(tmp_path: Path) -> None:
    x = torch.randn(64, 6)
    narrow = rankscope.collect(nn.Sequential(nn.Linear(6, 4)), x, out=tmp_path / "a.pt")
    wide = rankscope.collect(nn.Sequential(nn.Linear(6, 9)), x, out=tmp_path / "b.pt")
    records = {r.measure: r for r in rankscope.compare(narrow, wide).records}
    assert records["cka"].value is not None
    assert records["overlap"].value is None
    assert records["overlap"].notes == ("needs a shared basis; the widths are 4 and 9",)
    assert records["cumulative-distance"].notes == ("needs spectra of equal length; the widths are 4 and 9",)
    with pytest.raises(
        NotComparable, match="none of the requested measures can compare these runs: needs a shared basis"
    ):
        rankscope.compare(narrow, wide, measures=["overlap"])


def test_too_few_rows_and_no_shared_site_are_refused(tmp_path: Path) -> None:
    x = torch.randn(3, 6)
    few = rankscope.collect(nn.Sequential(nn.Linear(6, 4)), x, out=tmp_path / "a.pt")
    with pytest.raises(NotComparable, match="at least 4 rows of 2 samples; there are 3 rows"):
        rankscope.measure(few)
    named = nn.Sequential()
    named.add_module("other", nn.Linear(6, 4))
    elsewhere = rankscope.collect(named, x, out=tmp_path / "c.pt")
    with pytest.raises(NotComparable, match=r"the runs share no site: a has 0 .output.; c has other .output."):
        rankscope.compare(few, elsewhere)


def test_where_none_can_be_left_out_a_number_has_no_interval(tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    runs = [rankscope.collect(nn.Sequential(nn.Linear(6, 4)), x, out=tmp_path / f"{i}.pt") for i in range(2)]
    found = {r.measure: r for r in rankscope.measure(runs[0], ["participation-ratio", "curvature"]).records}
    ratio = found["participation-ratio"]
    assert ratio.value is not None
    assert ratio.low is None
    assert "too few rows or groups of samples to leave any out, so there is no interval" in ratio.notes
    assert found["curvature"].notes == ("needs several rows a sample; collect with rows=tokens",)
    compared = {r.measure: r for r in rankscope.compare(*runs).records}
    assert compared["participation-ratio"].low is None
    assert compared["participation-ratio"].value is not None
    assert compared["cka"].value is not None
    assert "recoverability needs at least 4 rows" in compared["recoverability"].notes[0]
    with pytest.raises(NotComparable, match="needs several rows a sample"):
        rankscope.measure(runs[0], ["curvature"])


def test_a_number_that_is_not_defined_says_so(tmp_path: Path) -> None:
    """Three features have no ranks 4 to 100 to fit a line through, and constant ones no alignment."""
    x = torch.randn(40, 3)
    moving = rankscope.collect(nn.Sequential(nn.Identity()), x, out=tmp_path / "a.pt")
    record = rankscope.measure(moving, ["alpha-req", "stable-rank"], groups=4).records[0]
    assert record.value is None
    assert record.notes == ("not defined on these features",)
    constant = nn.Linear(3, 3)
    nn.init.zeros_(constant.weight)
    still = rankscope.collect(nn.Sequential(constant), x, out=tmp_path / "b.pt")
    with pytest.raises(NotComparable, match=r"none of the requested measures .*: not defined on these features"):
        rankscope.compare(moving, still, measures=["cka"], allow_duplicates=True)


def test_a_function_that_is_no_measure_is_named(runs: Runs) -> None:
    def fails(s: Tensor) -> Tensor:
        return s / (1 // 0)

    def keeps(s: Tensor) -> Tensor:
        return s

    with pytest.raises(UsageError, match=r"the measure fails fails on singular values \(32,\): integer division"):
        rankscope.measure(runs["lora"], [fails])
    with pytest.raises(UsageError, match=r"keeps returned \(32,\) for \(32,\)"):
        rankscope.compare(runs["lora"], runs["none"], measures=[keeps])


def test_unknown_names_are_refused_with_those_there_are(runs: Runs) -> None:
    with pytest.raises(UnknownName, match=r"no measure 'frobnicity' \(nearest: .*\); 'rankscope definitions' lists"):
        rankscope.measure(runs["lora"], ["frobnicity"])
    with pytest.raises(UsageError, match="cka relates two runs"):
        rankscope.measure(runs["lora"], ["cka"])
    with pytest.raises(UnknownName, match=r"has no site|there are decoder"):
        rankscope.measure(runs["lora"], sites="encoder.1")
    with pytest.raises(UnknownName, match="was not measured; there are roy-vetterli"):
        rankscope.profile(runs["lora"], "roy-vetterli").of("cka")


def test_a_checkpoint_is_collected_as_the_run_beside_it_and_found_the_next_time(
    folder: Callable[..., Path], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how: dict[str, Any] = {"sites": "decoder.1,final", "rows": "tokens", "padding_side": "left", "tokens_per_batch": 64}
    run = rankscope.collect(folder("gpt2"), texts, n=12, out="run.pt", keep_special=True, **how)
    first = rankscope.compare(run, folder("gpt2", "lora"), measures=["cka"], groups=4)
    (made,) = (p for p in tmp_path.iterdir() if p.name != "run.pt")
    other, written = rankscope.load(made), made.stat().st_mtime_ns
    assert (other.sites, other.manifest.rows, other.manifest.probe) == (
        run.sites,
        run.manifest.rows,
        run.manifest.probe,
    )
    assert other.manifest.reading == run.manifest.reading
    again = rankscope.compare("run.pt", folder("gpt2", "lora"), measures=["cka"], groups=4, base="run.pt")
    assert made.stat().st_mtime_ns == written
    assert asdict(again.records[0].b) == pytest.approx(asdict(first.records[0].estimate), rel=1e-12)
    arms = {"lora": [folder("gpt2", "lora")], "base": ["run.pt"]}
    found = rankscope.compare_arms(arms, base=run, measures=["entropy-rank"], groups=4)
    assert found.records[0].shape.n == run.n(run.sites[0])


def test_a_checkpoint_is_not_read_on_other_data_than_the_run_beside_it(
    folder: Callable[..., Path], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "d.jsonl"
    data.write_text(texts.read_text())
    lora = folder("gpt2", "lora")
    read = rankscope.collect(folder("gpt2"), data, n=6, out="read.pt")
    memory = rankscope.collect(folder("gpt2"), ["five", "nine", "one", "two"], out="memory.pt")
    fed = rankscope.collect(nn.Sequential(nn.Identity()), torch.randn(6, 4), out="fed.pt")
    np.save("array.npy", np.random.default_rng(0).standard_normal((6, 4)))
    imported = rankscope.store.import_features("array.npy", "imported.pt")
    for run, why in (
        (memory, "4 in memory, which cannot be opened again"),
        (fed, "tensors in memory"),
        (imported, "was imported"),
    ):
        with pytest.raises(NotComparable, match=rf"{why}.*; collect .* on the same data yourself, with --data"):
            rankscope.compare(run, lora)
    data.write_text(texts.read_text().replace("three", "seven"))
    with pytest.raises(NotComparable, match=r"is not what it was when read was read on it"):
        rankscope.compare(read, lora)
    data.unlink()
    with pytest.raises(NotComparable, match=r"cannot be opened again .*no such file"):
        rankscope.compare(lora, read)
    for call in (rankscope.measure, rankscope.spectra, rankscope.curve, lambda path: rankscope.compare(path, path)):
        with pytest.raises(
            UsageError, match=r"no data were given for .*gpt2-lora, and the embedded scenes suit .* collect it first"
        ):
            call(lora)
    assert sorted(p.name for p in tmp_path.iterdir() if "gpt2" in p.name) == []
