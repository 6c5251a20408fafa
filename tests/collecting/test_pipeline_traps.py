"""The traps that a whole comparison can fall into: the naive way is wrong by the stated size, and the pipeline is right or refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_rows import D, N, population, values
from torch import Tensor, nn

import rankscope
from rankscope.analysis.guards import mean_share
from rankscope.comparisons.cka import cka
from rankscope.errors import NotComparable
from rankscope.linalg.moments import Moments, PairMoments
from rankscope.linalg.svd import singular_values
from rankscope.measures.effective_rank import effective_rank, entropy_rank
from rankscope.measures.mean_share import mean_share as measured_mean_share
from rankscope.models.load import load_model
from rankscope.store import Run

Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run whose rows are these, one a sample, collected from a module."""

    def made(x: Tensor, name: str = "run") -> Run:
        module = nn.Sequential(nn.Embedding.from_pretrained(x))
        return rankscope.collect(module, torch.arange(len(x)), out=tmp_path / f"{name}.pt")

    return made


def rank(x: Tensor) -> float:
    return float(entropy_rank(singular_values(x, centre=True).values))


def naive_cka(x: Tensor, y: Tensor) -> float:
    pair = PairMoments.of(x, y, shift_a=x[0], shift_b=y[0], group=torch.zeros(len(x), dtype=torch.int64), groups=1)
    return float(cka(pair.sum()))


def test_trap_1_different_n_is_refused_where_naive_ranks_differ_by_7_per_cent(make: Make) -> None:
    x = population(4000, 512)
    few, many = (float(effective_rank(singular_values(part, centre=True).values)) for part in (x[:1000], x))
    assert (few, many) == (pytest.approx(376, abs=4), pytest.approx(402, abs=4))
    a, b = make(x[:1000], "few"), make(x, "many")
    with pytest.raises(NotComparable, match="one has 1000 rows, the other 4000"):
        rankscope.compare(a, b, measures=["roy-vetterli"])
    same = rankscope.compare(a, b, measures=["roy-vetterli"], common_rows=True, groups=4)
    assert values(same)["roy-vetterli"] == pytest.approx(0, abs=1e-9)


def test_trap_2_padding_is_refused_with_its_count(make: Make) -> None:
    x, y = population(), population(seed=1)
    padding = torch.randperm(N, generator=torch.Generator().manual_seed(2))[: 3 * N // 10]
    padded_x, padded_y = x.clone(), y.clone()
    padded_x[padding], padded_y[padding] = 3 * x[0], 3 * y[0]
    assert naive_cka(padded_x, padded_y) > 0.9
    assert rank(padded_x) < 0.75 * rank(x)
    a, b = make(padded_x, "a"), make(padded_y, "b")
    with pytest.raises(NotComparable, match=r"613 of the 2048 rows of a at 0.output \(29.9%\) are zero or copies"):
        rankscope.compare(a, b, measures=["cka"])
    with pytest.raises(NotComparable, match="613 of the 2048 rows of a"):
        rankscope.measure(a, ["entropy-rank"])
    without = rankscope.compare(a, b, measures=["cka", "entropy-rank"], variant="distinct", groups=4).records
    assert abs(without[0].value) < 0.02
    assert without[1].a.value == pytest.approx(rank(x), rel=0.05)
    assert without[0].variant == "distinct"
    assert "without 613 of 2048 rows, copies of others in a run" in str(without[0].notes)
    allowed = rankscope.compare(a, b, measures=["cka"], allow_duplicates=True, groups=4).records[0]
    assert allowed.value == pytest.approx(naive_cka(padded_x, padded_y), abs=1e-6)
    assert "measured all the same" in str(allowed.notes)


def test_trap_2_zero_rows_and_half_a_per_cent_are_the_line(make: Make) -> None:
    x = population(1000)
    x[:5] = 0
    with pytest.raises(NotComparable, match=r"5 of the 1000 rows"):
        rankscope.measure(make(x, "zeros"), ["entropy-rank"])
    x = population(1000)
    x[:4] = 0
    assert rankscope.measure(make(x, "fewer"), ["entropy-rank"], groups=4).records[0].value > 1


def test_trap_3_the_means_share_stands_beside_an_uncentred_rank(make: Make) -> None:
    x = population()
    direction = nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(5)), dim=0)
    moved = x + 3 * x.square().sum(1).mean().sqrt() * direction
    uncentred = rankscope.measure(make(moved), ["rankme", "roy-vetterli"], groups=4).records
    before = rankscope.measure(make(x, "before"), ["rankme", "roy-vetterli"], groups=4).records
    assert uncentred[0].value < 0.75 * before[0].value
    assert uncentred[1].value == pytest.approx(before[1].value, rel=1e-4)
    assert (before[0].mean_share, uncentred[0].mean_share) == (
        pytest.approx(0, abs=0.01),
        pytest.approx(0.9, abs=0.01),
    )
    assert "uncentred" in uncentred[0].convention


@pytest.mark.parametrize("x", [population(50, 7) + 2, population(50, 7), torch.zeros(4, 3), torch.ones(4, 3)])
def test_the_means_share_is_that_of_the_measure(x: Tensor) -> None:
    moments = Moments.of(x, shift=x[0])
    assert mean_share(x) == pytest.approx(float(measured_mean_share(moments)), rel=1e-12)


def test_trap_4_sinks_are_told_and_shown_with_and_without(make: Make) -> None:
    x, y = population(), population()
    y[::128, 7] += 3000
    assert rank(y) < 1.2
    a, b = make(x, "a"), make(y, "b")
    record = rankscope.measure(b, ["entropy-rank"], groups=4).records[0]
    assert record.value == pytest.approx(rank(y), rel=1e-6)
    assert record.without_sinks == pytest.approx(rank(x), rel=0.01)
    assert "massive (over ten medians): 16 rows and 1 features in b" in str(record.notes)
    compared = rankscope.compare(a, b, measures=["cka", "entropy-rank", "recoverability"], base=a, groups=4).records
    assert abs(compared[0].value + 1) < 0.05
    assert [r.without_sinks for r in compared] == [pytest.approx(0, abs=1e-9)] * 3
    dropped = rankscope.compare(a, b, measures=["cka"], variant="sinks-dropped", groups=4).records[0]
    assert (dropped.value, dropped.shape.n, dropped.variant) == (pytest.approx(1), N - 16, "sinks-dropped")


def test_trap_4_massive_features_are_tamed_by_standardising(make: Make) -> None:
    x = population()
    massive = x.clone()
    massive[:, [9, 99, 100]] += 1500 + 30 * torch.randn(N, 3, generator=torch.Generator().manual_seed(6))
    assert rank(massive) < 4
    run = make(massive)
    raw = rankscope.measure(run, ["entropy-rank"], groups=4).records[0]
    assert "0 rows and 3 features" in str(raw.notes)
    tamed = rankscope.measure(run, ["entropy-rank"], variant="standardised", groups=4).records[0]
    plain = rankscope.measure(make(x, "x"), ["entropy-rank"], variant="standardised", groups=4).records[0]
    assert tamed.value == pytest.approx(plain.value, rel=0.02)
    assert "divided by its deviation" in str(tamed.notes)


def test_trap_5_a_prefix_adds_no_rows(runs: dict[str, Run]) -> None:
    assert runs["prefix"].rows.keys() == runs["none"].rows.keys()
    assert set(runs["prefix"].rows.roles) == {"text"}


def test_trap_6_the_site_after_the_last_norm_is_marked(runs: dict[str, Run]) -> None:
    before, after = rankscope.profile(runs["none"], "entropy-rank", sites="decoder.1,final").records
    assert "after the final norm" in str(after.notes)
    assert "after the final norm" not in str(before.notes)


def test_trap_7_few_rows_are_marked_and_hide_a_difference(make: Make) -> None:
    """Truth 117 against 56 shows as 63 against 49 at n = 200, d = 512: the numbers say that they are n-limited."""
    slow, flat = population(200, 512), population(200, 512, alpha=0.0, seed=5)
    flat[:, 56:] = 0
    found = rankscope.compare(make(slow, "a"), make(flat, "b"), measures=["entropy-rank"], groups=4).records[0]
    assert abs(found.difference) < 0.5 * (117 - 56)
    assert "n-limited: 200 rows of 512 features, where 2048 are enough" in str(found.notes)
    enough = rankscope.measure(make(population(600, 128), "c"), ["entropy-rank"], groups=4).records[0]
    assert "n-limited" not in str(enough.notes)


def test_trap_7_each_measure_says_how_many_rows_are_enough(make: Make) -> None:
    """Correlations take ten rows a feature, spectra four, and the debiased CKA any number."""
    x, y = population(640, 128), population(640, 128, seed=1)
    asked = ["cca", "cka", "cka-biased", "overlap", "recoverability"]
    found = rankscope.compare(make(x, "a"), make(y, "b"), measures=asked, groups=4).records
    assert ["n-limited" in str(r.notes) for r in found] == [True, False, False, False, False]
    assert "640 rows of 128 features, where 1280 are enough" in str(found[0].notes)
    few = rankscope.compare(make(x[:400], "c"), make(y[:400], "d"), measures=asked, groups=4).records
    assert ["n-limited" in str(r.notes) for r in few] == [True, False, True, False, True]


def test_trap_8_runs_of_two_dtypes_say_so(make: Make) -> None:
    x = population(400, 32)
    result = rankscope.compare(make(x, "a"), make(x.bfloat16(), "b"), measures=["cka"], groups=4)
    assert any("different dtypes (bfloat16, float32)" in note for note in result.notes)


def test_trap_9_a_shift_of_rows_is_refused_where_ids_are_only_numbers(tmp_path: Path) -> None:
    """One row off: the rank is the same, and CKA falls from 1 to 0 as if the geometry were gone."""
    x = population(600, 32)
    assert rank(x.roll(1, 0)) == pytest.approx(rank(x))
    assert abs(naive_cka(x, x.roll(1, 0))) < 0.02
    module = nn.Sequential(nn.Identity())
    a, b = (rankscope.collect(module, z, out=tmp_path / f"{i}.pt") for i, z in enumerate((x, x.roll(1, 0))))
    with pytest.raises(NotComparable, match="read on different data whose samples have the same ids"):
        rankscope.compare(a, b, measures=["cka"])
    with pytest.raises(NotComparable, match="read on different data"):
        rankscope.compare_arms({"x": [a], "y": [b]}, measures=["entropy-rank"])


def test_trap_9_what_no_tuning_touches_is_identical_bit_for_bit(folder: Callable[..., Path], tmp_path: Path) -> None:
    """The embeddings' output is the control of alignment: neither LoRA nor prefix touches it, and CKA there is 1."""
    (tmp_path / "texts.txt").write_text("".join(f"{'digits of a photo'[: 4 + i % 13]} {i}\n" for i in range(40)))
    runs = {
        tuning: rankscope.collect(
            folder("llama", tuning),
            tmp_path / "texts.txt",
            rows="tokens",
            sites="embed,1",
            out=tmp_path / f"{tuning}.pt",
        )
        for tuning in ("none", "lora", "prefix")
    }
    for tuning in ("lora", "prefix"):
        assert torch.equal(runs[tuning].features("decoder.embed"), runs["none"].features("decoder.embed"))
        assert not torch.equal(runs[tuning].features("decoder.1"), runs["none"].features("decoder.1"))
        found = rankscope.compare(runs["none"], runs[tuning], measures=["cka", "drift"], sites="embed", groups=4)
        assert values(found) == {"cka": pytest.approx(1, abs=1e-12), "drift": 0}


def test_trap_10_other_texts_under_the_same_ids_are_refused_for_tokens(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    """As many tokens, at the same places, of other texts: only the fingerprint of the data tells."""
    collected: dict[str, list[Run]] = {"tokens": [], "mean": []}
    for name, letters in (("first", "QZJXKW"), ("second", "ZKQWXJ")):
        texts = ["".join(letters[(i // 6**k + k) % 6] for k in range(3 + i % 4)) for i in range(24)]
        lines = [json.dumps({"id": f"s{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        for rows, runs in collected.items():
            out = tmp_path / f"{name}-{rows}.pt"
            runs.append(rankscope.collect(folder("gpt2"), tmp_path / f"{name}.jsonl", rows=rows, sites="1", out=out))
    a, b = collected["tokens"]
    assert a.rows.keys() == b.rows.keys()
    with pytest.raises(NotComparable, match="read on different data whose samples have the same ids"):
        rankscope.compare(a, b, measures=["cka"])
    result = rankscope.compare(*collected["mean"], measures=["cka"], groups=4)
    assert "what they share is the samples, not the inputs" in result.notes[0]


def test_trap_11_tokens_of_a_prompt_are_not_samples(tokens: Make) -> None:
    """64 prompts of 32 tokens with half of the variance between prompts: token errors are three times too small."""
    generator = torch.Generator().manual_seed(7)
    root = torch.arange(1, 33) ** -0.5
    shared = torch.randn(64, 1, 32, generator=generator)
    x = (shared + torch.randn(64, 32, 32, generator=generator)) * root * 0.5**0.5
    by_prompt = rankscope.measure(tokens(x, "clustered"), ["participation-ratio-clustered"]).records[0]
    mixed = x.reshape(-1, 1, 32)[torch.randperm(64 * 32, generator=generator)]
    loose = rankscope.measure(tokens(mixed, "loose"), ["participation-ratio"], groups=64).records[0]
    assert by_prompt.shape.samples == 64
    assert (by_prompt.high - by_prompt.low) > 2 * (loose.high - loose.low)


def test_trap_14_the_convention_stands_in_every_record(make: Make) -> None:
    found = rankscope.measure(make(population(600, 120) + 1.2), ["rankme", "roy-vetterli", "entropy-rank"], groups=4)
    numbers = [r.value for r in found.records]
    assert max(numbers) > 3 * min(numbers)
    assert len({r.convention for r in found.records}) == 3
    assert ["uncentred" in r.convention for r in found.records] == [True, False, False]


def test_trap_15_a_run_is_read_against_itself_on_other_rows(make: Make) -> None:
    """Identical models, d = 256, n = 128: in-sample the base captures far more than on other rows; both runs get the latter."""
    x = population(128, 256)
    q = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:32].mT
    in_sample = float(((x - x.mean(0)) @ q).square().sum() / (x - x.mean(0)).square().sum())
    found = rankscope.compare(make(x, "a"), make(x.clone(), "b"), measures=["variance-captured"]).records[0]
    assert in_sample - found.value > 0.2
    assert found.value == pytest.approx(found.itself, rel=1e-9)


def test_trap_16_what_cka_calls_preserved_is_told_by_recoverability(make: Make) -> None:
    x = population(alpha=1.0)
    kept = x.clone()
    kept[:, 3:] = 0
    found = rankscope.compare(make(x, "a"), make(kept, "b"), groups=4)
    assert values(found)["cka"] > 0.9
    assert values(found)["recoverability"] < 0.4


def test_trap_17_independent_runs_are_unlike_at_small_n(make: Make) -> None:
    x, y = population(128, 768, alpha=0.0), population(128, 768, alpha=0.0, seed=9)
    xc, yc = x - x.mean(0), y - y.mean(0)
    biased = (xc.mT @ yc).square().sum() / ((xc.mT @ xc).norm() * (yc.mT @ yc).norm())
    assert float(biased) == pytest.approx(0.857, abs=0.01)
    found = rankscope.compare(make(x, "a"), make(y, "b"), measures=["cka"], groups=4).records[0]
    assert abs(found.value) < 0.02
    assert abs(found.noise) < 0.02


def test_trap_18_a_dimension_of_copies_is_refused(make: Make) -> None:
    x = torch.rand(400, 8, generator=torch.Generator().manual_seed(8))
    with pytest.raises(NotComparable, match="800 of the 1200 rows"):
        rankscope.measure(make(x.repeat(3, 1), "copied"), ["two-nn"])
    once = rankscope.measure(make(x, "once"), ["two-nn"], groups=4).records[0]
    assert 5 < once.value < 10


def test_trap_21_dropout_is_off(tmp_path: Path) -> None:
    x = population(40, 8)
    module = nn.Sequential(nn.Dropout(0.5)).train()
    run = rankscope.collect(module, x, out=tmp_path / "run.pt")
    assert torch.equal(run.features("0.output"), x)


def test_trap_21_without_its_adapter_a_model_is_its_base_and_none_is_merged(folder: Callable[..., Path]) -> None:
    """Merging W + BA in bfloat16 rounds it once more: 0.7 % of a feature, as much as bfloat16 itself costs."""
    ids = torch.arange(12).reshape(2, 6)

    def hidden(model: Any) -> Tensor:
        with torch.no_grad():
            return model(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states[2].float()

    tuned, base = load_model(folder("gpt2", "lora")), load_model(folder("gpt2"))
    with tuned.disable_adapter():
        assert torch.equal(hidden(tuned), hidden(base))
    whole, half = hidden(tuned), load_model(folder("gpt2", "lora"), dtype="bfloat16")
    unmerged = hidden(half)
    merged = hidden(half.merge_and_unload())
    size = [float((a - b).norm() / b.norm()) for a, b in ((merged, unmerged), (unmerged, whole))]
    assert size == pytest.approx([0.0074, 0.0081], rel=0.3)
    assert not torch.equal(whole, hidden(base))
