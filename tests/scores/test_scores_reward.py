"""The reward of self-critical training is CIDEr-D with the document frequencies held."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose

from rankscope.errors import DataError, UsageError
from rankscope.scores import CiderReward, Frequencies, score_captions
from rankscope.scores.tokenize import tokenized

RECORDED = json.loads((Path(__file__).parent / "recorded" / "scores.json").read_text(encoding="utf-8"))
SAID, GIVEN = RECORDED["candidates"], RECORDED["references"]


@pytest.fixture(scope="module")
def reward() -> CiderReward:
    return CiderReward(GIVEN)


def test_rewards_over_a_whole_corpus_are_its_scores(reward: CiderReward) -> None:
    rewards = reward(list(SAID), list(SAID.values()))
    assert rewards.dtype == np.float64
    assert_allclose(rewards, RECORDED["scores"]["CIDEr"][1], rtol=0, atol=1e-9)


def test_a_reward_does_not_depend_on_the_batch(reward: CiderReward) -> None:
    ids, texts = list(SAID), list(SAID.values())
    alone = [float(reward([key], [text])[0]) for key, text in zip(ids, texts, strict=True)]
    assert alone == reward(ids, texts).tolist()
    assert reward(["3", "3"], [texts[3], texts[3]]).tolist() == [alone[3]] * 2
    assert reward([], []).shape == (0,)


def test_ids_may_be_numbers(reward: CiderReward) -> None:
    assert reward([3], [SAID["3"]])[0] == reward(["3"], [SAID["3"]])[0] > 9


def test_the_score_of_a_batch_alone_is_another_number(reward: CiderReward) -> None:
    """Negative control: document frequencies of the batch would not do."""
    few = {key: SAID[key] for key in list(SAID)[:5]}
    alone = score_captions(few, {key: GIVEN[key] for key in few}, metrics=["CIDEr"], per_sample=True)
    assert abs(alone.samples["CIDEr"] - reward(list(few), list(few.values()))).max() > 0.1


@pytest.fixture(scope="module")
def alone() -> CiderReward:
    return CiderReward({**GIVEN, "20": GIVEN["20"][:1]})


@given(words=st.permutations(GIVEN["20"][0].split()))
def test_no_caption_beats_a_reference_that_stands_alone(alone: CiderReward, words: list[str]) -> None:
    rewards = alone(["20", "20"], [" ".join(words), GIVEN["20"][0]])
    assert 0 <= rewards[0] <= rewards[1] + 1e-12
    assert rewards[1] == pytest.approx(10)


def test_a_larger_corpus_gives_its_frequencies(reward: CiderReward) -> None:
    table = Frequencies.of([tokenized(texts) for texts in GIVEN.values()])
    one = CiderReward({"3": GIVEN["3"]}, frequencies=table)
    assert one(["3"], ["a man playing"])[0] == pytest.approx(reward(["3"], ["a man playing"])[0])
    assert table.images == len(GIVEN)
    assert min(table.counts.values()) == 2


def test_an_end_token_makes_a_caption_that_stops_early_worse() -> None:
    with_end, without = CiderReward(GIVEN, end="<eos>"), CiderReward(GIVEN)
    whole, cut = GIVEN["3"][0], GIVEN["3"][0].rsplit(" ", 1)[0]
    loss = [float(np.subtract(*make(["3", "3"], [whole, cut]))) for make in (with_end, without)]
    assert loss[0] > loss[1] > 0


def test_what_cannot_be_rewarded_is_named(reward: CiderReward) -> None:
    with pytest.raises(UsageError, match="2 ids came with 1 captions"):
        reward(["1", "2"], ["a"])
    with pytest.raises(DataError, match="1 ids have no references among 60: 999"):
        reward(["1", "999"], ["a", "b"])
    with pytest.raises(DataError, match=r"1 image\(s\) to count document frequencies over, and needs at least 2"):
        CiderReward({"1": ["a"]})
    with pytest.raises(DataError, match=r"1 of 2 images have no list of references: \['2'\]"):
        CiderReward({"1": ["a"], "2": []})
