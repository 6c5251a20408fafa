"""Caption scores equal the official evaluation code's, and their edges are owned."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose

from rankscope.errors import DataError, MissingTool, NotComparable, UnknownName, UsageError
from rankscope.scores import METRICS, Java, score_captions
from rankscope.scores.bleu import bleu
from rankscope.scores.cider import cider
from rankscope.scores.meteor import meteor_from
from rankscope.scores.rouge import common_subsequence, rouge_l
from rankscope.scores.tokenize import tokenized

RECORDED = json.loads((Path(__file__).parent / "recorded" / "scores.json").read_text(encoding="utf-8"))
SAID, GIVEN, OFFICIAL = RECORDED["candidates"], RECORDED["references"], RECORDED["scores"]
PYTHON_ONLY = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
WORDS = ["a", "man", "the", "dog", "cat", "on", "in", "street", "red", "bus"]
caption = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
corpus = st.lists(st.tuples(caption, st.lists(caption, min_size=1, max_size=4)), min_size=2, max_size=8)


@pytest.fixture(scope="module")
def meteor_scores() -> object:
    try:
        return score_captions(SAID, GIVEN, metrics=["METEOR"], per_sample=True, java=Java(timeout=120), resamples=100)
    except MissingTool as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", PYTHON_ONLY)
def test_scores_equal_those_recorded_of_the_official_code(name: str) -> None:
    scores = score_captions(SAID, GIVEN, metrics=[name], per_sample=True)
    total, each = OFFICIAL[name]
    assert_allclose(scores[name], total, rtol=0, atol=1e-9)
    assert_allclose(scores.samples[name], each, rtol=0, atol=1e-9)
    assert scores.ids == tuple(GIVEN)


def test_meteor_equals_what_was_recorded_of_the_official_code(meteor_scores: object) -> None:
    total, each = OFFICIAL["METEOR"]
    assert_allclose(meteor_scores["METEOR"], total, rtol=0, atol=1e-9)
    assert_allclose(meteor_scores.samples["METEOR"], each, rtol=0, atol=1e-9)
    assert meteor_scores.intervals["METEOR"].low < total < meteor_scores.intervals["METEOR"].high


@settings(deadline=None, max_examples=40)
@given(corpus.filter(lambda pairs: any(text for _, texts in pairs for text in texts)))
def test_scores_equal_the_official_code_on_any_captions(pairs: list[tuple[str, list[str]]]) -> None:
    pytest.importorskip("pycocoevalcap.bleu.bleu", reason="pycocoevalcap is not installed")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    said, given = [said for said, _ in pairs], [given for _, given in pairs]
    res, gts = {i: [text] for i, text in enumerate(said)}, dict(enumerate(given))
    totals, each = Bleu(4).compute_score(gts, res, verbose=0)
    for tally, total, one in zip(bleu(said, given), totals, each, strict=True):
        assert_allclose(tally.value, total, rtol=1e-9, atol=1e-12)
        assert_allclose(tally.each, one, rtol=1e-9, atol=1e-12)
    for tally, scorer in ((rouge_l(said, given), Rouge()), (cider(said, given), Cider())):
        total, one = scorer.compute_score(gts, res)
        assert_allclose(tally.value, total, rtol=1e-9, atol=1e-9)
        assert_allclose(tally.each, one, rtol=1e-9, atol=1e-9)


def naive_cider(said: list[str], given: list[list[str]], *, plain: bool) -> list[float]:
    """Vedantam et al., equations 1 to 5, with lengths in bigrams."""

    def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    seen = {n: [set().union(*(grams(ref, n) for ref in refs)) for refs in given] for n in (1, 2, 3, 4)}

    def weigh(text: str, n: int) -> dict[tuple[str, ...], float]:
        holders = {gram: max(1, sum(gram in bag for bag in seen[n])) for gram in grams(text, n)}
        return {gram: count * math.log(len(given) / holders[gram]) for gram, count in grams(text, n).items()}

    def similar(text: str, other: str, n: int) -> float:
        a, b = weigh(text, n), weigh(other, n)
        dot = sum((a[gram] if plain else min(a[gram], b[gram])) * b[gram] for gram in a.keys() & b.keys())
        norm = math.hypot(*a.values()) * math.hypot(*b.values())
        gap = grams(text, 2).total() - grams(other, 2).total()
        return (dot / norm if norm else 0.0) * (1 if plain else math.exp(-(gap**2) / 72))

    pairs = zip(said, given, strict=True)
    return [10 * sum(similar(a, b, n) for b in refs for n in (1, 2, 3, 4)) / len(refs) / 4 for a, refs in pairs]


@pytest.mark.parametrize("plain", [False, True])
def test_cider_equals_its_definition(plain: bool) -> None:
    said, given = tokenized(list(SAID.values())), [tokenized(texts) for texts in GIVEN.values()]
    assert_allclose(cider(said, given, plain=plain).each, naive_cider(said, given, plain=plain), rtol=1e-9, atol=1e-9)


def test_the_plain_form_of_cider_is_another_number() -> None:
    scores = score_captions(SAID, GIVEN, metrics=["CIDEr", "CIDEr-D", "CIDEr-plain"], resamples=0)
    assert scores["CIDEr"] == scores["CIDEr-D"]
    assert abs(scores["CIDEr-plain"] - scores["CIDEr"]) > 0.01


@settings(deadline=None, max_examples=40)
@given(corpus, st.randoms())
def test_scores_do_not_depend_on_the_order_of_images_or_references(
    pairs: list[tuple[str, list[str]]], random: Callable[..., object]
) -> None:
    order = list(enumerate(pairs))
    random.shuffle(order)
    options = {"metrics": PYTHON_ONLY, "resamples": 0}
    one = score_captions({i: a for i, (a, _) in enumerate(pairs)}, {i: b for i, (_, b) in enumerate(pairs)}, **options)
    two = score_captions({i: a for i, (a, _) in order}, {i: b[::-1] for i, (_, b) in order}, **options)
    for name in PYTHON_ONLY:
        assert_allclose(one[name], two[name], rtol=1e-9, atol=1e-12)
        assert 0 <= one[name] <= (10 if name == "CIDEr" else 1) + 1e-9


def test_captions_meet_their_own_references_in_any_order() -> None:
    turned = dict(reversed(SAID.items()))
    one, two = (score_captions(said, GIVEN, metrics=PYTHON_ONLY, resamples=0) for said in (SAID, turned))
    assert one.values == two.values
    assert one.ids == two.ids == tuple(GIVEN)


def test_a_caption_equal_to_its_only_reference_scores_full_marks() -> None:
    texts = {1: "a man rides a red bus", 2: "two dogs sleep on the street"}
    scores = score_captions(texts, {key: [text] for key, text in texts.items()}, metrics=PYTHON_ONLY, resamples=0)
    assert_allclose([scores[name] for name in PYTHON_ONLY], [1, 1, 1, 1, 1, 10], rtol=1e-6)


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_the_common_subsequence_equals_its_recursion(a: list[str], b: list[str]) -> None:
    def naive(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return 1 + naive(i + 1, j + 1) if a[i] == b[j] else max(naive(i + 1, j), naive(i, j + 1))

    assert common_subsequence(a, b) == common_subsequence(b, a) == naive(0, 0)


def test_an_empty_caption_is_scored_as_the_official_code_scores_it() -> None:
    scores = score_captions(
        {1: "", 2: "a dog"}, {1: ["a cat"], 2: ["a dog"]}, metrics=["bleu", "CIDEr"], per_sample=True
    )
    assert scores.samples["BLEU-4"][0] < 1e-3
    assert scores.samples["CIDEr"][0] == 0


def test_over_one_image_cider_has_no_value() -> None:
    scores = score_captions({1: "a dog"}, {1: ["a dog"]}, metrics=["CIDEr", "CIDEr-D", "BLEU-1"])
    assert scores["CIDEr"] is scores["CIDEr-D"] is None
    assert "at least 2 images" in scores.reasons["CIDEr"]
    assert scores["BLEU-1"] == pytest.approx(1)
    assert scores.intervals == {"CIDEr": None, "CIDEr-D": None, "BLEU-1": None}


@pytest.mark.parametrize(
    ("said", "given", "match"),
    [
        ({}, {}, "nothing to score: no references"),
        ({1: "a"}, {}, "nothing to score"),
        ({1: "a"}, {1: ["a"], 2: ["b"]}, r"1 of 2 ids have no prediction \(2\)"),
        ({1: "a", 3: "b"}, {1: ["a"]}, r"1 of 2 predictions have no references \(3\)"),
        ({1: "a", "1": "b"}, {1: ["a"]}, "both as a number and as text: 1"),
        ({1: ["a", "b"]}, {1: ["a"]}, r"something other than one caption \(1\), such as \['a', 'b'\]"),
        ({1: None}, {1: ["a"]}, "something other than one caption"),
        ({1: "a"}, {1: []}, r"1 of 1 ids have no list of references: 1; give at least one each"),
        ({1: "a"}, {1: "a"}, "no list of references"),
    ],
)
def test_what_does_not_match_is_named_with_counts(said: dict, given: dict, match: str) -> None:
    with pytest.raises(DataError, match=match):
        score_captions(said, given)


def test_ids_match_as_text() -> None:
    scores = score_captions({391895: "a dog", "2": "a cat"}, {"391895": ["a dog"], 2: ["a cat"]}, metrics=["rouge"])
    assert scores["ROUGE-L"] == 1
    assert scores.ids == ("391895", "2")


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(UnknownName, match=r"no metric 'bleurt'; the metrics are BLEU-1.*SPICE.*CIDEr-plain"):
        score_captions(SAID, GIVEN, metrics=["bleurt"])
    with pytest.raises(UnknownName, match="the metrics are"):
        score_captions(SAID, GIVEN, metrics=[])
    with pytest.raises(UnknownName, match="no tokenizer 'nltk'; the tokenizers are builtin, ptb"):
        score_captions(SAID, GIVEN, metrics=["CIDEr"], tokenizer="nltk")
    with pytest.raises(UnknownName, match="no score 'CIDEr' here; there are ROUGE-L"):
        score_captions(SAID, GIVEN, metrics=["ROUGE_L"])["CIDEr"]


def test_without_java_its_scores_are_missing_with_a_reason_and_the_others_there() -> None:
    scores = score_captions(SAID, GIVEN, java=Java(program="no-such-java"))
    assert tuple(scores.values) == METRICS
    assert scores["METEOR"] is scores["SPICE"] is None
    assert "no 'no-such-java' on the search path" in scores.reasons["METEOR"]
    assert all(scores[name] is not None for name in PYTHON_ONLY)
    with pytest.raises(MissingTool, match="install a Java runtime"):
        score_captions(SAID, GIVEN, metrics=["METEOR"], java=Java(program="no-such-java"))


def test_intervals_hold_the_score_and_narrow_with_more_images() -> None:
    scores = score_captions(SAID, GIVEN, metrics=PYTHON_ONLY)
    few = dict(list(SAID.items())[:10])
    less = score_captions(few, {key: GIVEN[key] for key in few}, metrics=["ROUGE-L"])
    for name in PYTHON_ONLY:
        low, high = scores.intervals[name]
        assert low < scores[name] < high
    widths = [run.intervals["ROUGE-L"].high - run.intervals["ROUGE-L"].low for run in (scores, less)]
    assert widths[0] < widths[1]
    assert scores.intervals == score_captions(SAID, GIVEN, metrics=PYTHON_ONLY).intervals


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    scores = score_captions(SAID, GIVEN, metrics=["ROUGE-L"], per_sample=True, resamples=4000)
    each = scores.samples["ROUGE-L"]
    half = 1.96 * each.std() / math.sqrt(len(each))
    assert_allclose(scores.intervals["ROUGE-L"], [each.mean() - half, each.mean() + half], atol=0.1 * half)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    worse = {key: text.rsplit(" ", 1)[0] for key, text in SAID.items()}
    a, b = (score_captions(texts, GIVEN, metrics=PYTHON_ONLY) for texts in (SAID, worse))
    gap = a.minus(b)
    for name in ("BLEU-4", "CIDEr"):
        assert gap[name] == pytest.approx(a[name] - b[name])
        low, high = gap.intervals[name]
        assert low < gap[name] < high
        assert high - low < a.intervals[name].high - a.intervals[name].low
    same = a.minus(a)
    assert all(value == 0 for value in same.values.values())
    assert all(interval == (0, 0) for interval in same.intervals.values())


def test_runs_on_other_samples_are_not_compared() -> None:
    a = score_captions(SAID, GIVEN, metrics=["rouge"], resamples=0)
    few = {key: SAID[key] for key in list(SAID)[:5]}
    b = score_captions(few, {key: GIVEN[key] for key in few}, metrics=["rouge"], resamples=0)
    with pytest.raises(NotComparable, match=r"60 and 5, 5 in common"):
        a.minus(b)


def test_results_become_tables_and_plain_data() -> None:
    scores = score_captions(SAID, GIVEN, per_sample=True, java=Java(program="no-such-java"), resamples=50)
    frame = scores.to_frame()
    assert list(frame.index) == list(METRICS)
    assert frame.loc["CIDEr", "value"] == scores["CIDEr"]
    assert np.isnan(frame.loc["METEOR", "value"])
    assert set(frame["tokenizer"]) == {"builtin"}
    assert set(frame["images"]) == {60}
    samples = scores.samples_frame()
    assert samples.loc["7", "ROUGE-L"] == OFFICIAL["ROUGE-L"][1][7]
    plain = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert plain["scores"]["METEOR"] is None
    assert plain["samples"]["CIDEr"]["0"] == scores.samples["CIDEr"][0]
    with pytest.raises(UsageError, match="per_sample=True"):
        score_captions(SAID, GIVEN, metrics=["rouge"]).samples_frame()


def test_meteor_of_counts_without_a_match_is_zero() -> None:
    counts = np.zeros((2, 23))
    counts[1, :4] = [5, 6, 2, 2]
    assert_allclose(meteor_from(counts), [0, 0])
