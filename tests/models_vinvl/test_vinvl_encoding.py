"""Texts, tags and regions as inputs, in the published layout."""

from __future__ import annotations

import pytest
import torch
import transformers

import rankscope
from rankscope.errors import DataError, UsageError
from rankscope.models.load import load_model
from rankscope.models.ported import vinvl
from rankscope.models.ported.vinvl.encoding import Lengths

SHORT = Lengths(text=12, caption=8, regions=3)


@pytest.fixture
def tokenizer(captioning):
    rankscope.register()
    return transformers.AutoTokenizer.from_pretrained(captioning)


def test_a_caption_has_its_slots_and_tags_after_them(tokenizer) -> None:
    features = [torch.ones(2, 10), torch.ones(5, 10)]
    out = vinvl.encode_caption_inputs(
        tokenizer, features, captions=["a cat on the mat", "dogs"], tags=[["cat", "mat"], ["dog"]], lengths=SHORT
    )
    assert out["input_ids"].tolist() == [[2, 5, 6, 8, 9, 10, 3, 0, 6, 10, 3], [2, 7, 14, 3, 0, 0, 0, 0, 7, 3, 0]]
    assert out["segment_ids"].tolist() == [[0] * 8 + [1] * 3, [0] * 8 + [1, 1, 0]]
    assert out["attention_mask"].tolist() == [
        [1] * 7 + [0] + [1] * 3 + [1, 1, 0],
        [1] * 4 + [0] * 4 + [1, 1, 0] + [1, 1, 1],
    ]
    assert out["img_feats"].shape == (2, 3, 10)
    assert out["img_feats"][0, 2].abs().sum() == 0


def test_without_captions_the_slots_wait_to_be_filled(tokenizer, captioning) -> None:
    out = vinvl.encode_caption_inputs(tokenizer, [torch.ones(2, 10)], tags=[["cat"]], lengths=SHORT)
    assert out["input_ids"].tolist() == [[2, 4, 4, 4, 4, 4, 4, 3, 6, 3]]
    assert load_model(captioning).generate(**out, max_length=8).shape == (1, 8)


def test_long_captions_and_tags_are_cut_at_the_published_lengths(tokenizer) -> None:
    out = vinvl.encode_caption_inputs(tokenizer, [torch.ones(60, 10)], captions=["cat " * 60], tags=[["dog"] * 60])
    assert out["input_ids"].shape == (1, 70)
    assert out["input_ids"][0, 39].item() == out["input_ids"][0, 69].item() == tokenizer.sep_token_id
    assert out["img_feats"].shape == (1, 50, 10)


def test_a_question_stands_before_its_tags_without_slots(tokenizer) -> None:
    features = [torch.ones(1, 10), torch.ones(2, 10)]
    out = vinvl.encode_vqa_inputs(tokenizer, features, ["what is on the mat ?", "cats"], tags=[["cat"], []])
    assert out["input_ids"].tolist() == [[2, 12, 11, 8, 9, 10, 13, 3, 6, 3], [2, 6, 14, 3] + [0] * 6]
    assert out["segment_ids"].tolist() == [[0] * 8 + [1, 1], [0] * 10]
    assert out["attention_mask"].tolist() == [[1] * 10 + [1, 0], [1] * 4 + [0] * 6 + [1, 1]]


def test_the_longer_of_question_and_tags_is_cut(tokenizer) -> None:
    out = vinvl.encode_vqa_inputs(tokenizer, [torch.ones(1, 10)], ["a cat"], tags=[["dog"] * 9], lengths=SHORT)
    assert out["input_ids"].tolist() == [[2, 5, 6, 3, *[7] * 7, 3]]


def test_what_does_not_fit_together_is_named(tokenizer) -> None:
    features = [torch.ones(1, 10)]
    with pytest.raises(DataError, match="1 images' features and 2 captions"):
        vinvl.encode_caption_inputs(tokenizer, features, captions=["a", "b"])
    with pytest.raises(DataError, match="1 images' features and 0 questions"):
        vinvl.encode_vqa_inputs(tokenizer, features, [])
    with pytest.raises(DataError, match="of one width"):
        vinvl.encode_vqa_inputs(tokenizer, [*features, torch.ones(1, 9)], ["a", "a"])
    with pytest.raises(UsageError, match="at least one image"):
        vinvl.encode_vqa_inputs(tokenizer, [], [])
