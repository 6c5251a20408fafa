"""Decoding: the cached steps against whole forward passes, searches, options, named errors."""

from __future__ import annotations

import pytest
import torch
from tiny_vinvl import save_published
from torch.testing import assert_close

from rankscope.errors import NonFinite, UsageError
from rankscope.models.load import load_model

MASK, CLS, SEP = 4, 2, 3


def stepwise(model, scene, length: int) -> torch.Tensor:
    """Greedy decoding by a whole forward pass a step, with no cache."""
    ids, real = scene["input_ids"].clone(), scene["attention_mask"].clone()
    ids[:, :8], real[:, :8] = 0, 0
    ids[:, 0] = CLS
    words = [ids[:, 0]]
    alive = torch.ones(len(ids), dtype=torch.bool)
    for step in range(1, length):
        ids[:, step], real[:, : step + 1] = MASK, 1
        with torch.no_grad():
            logits = model(**{**scene, "input_ids": ids, "attention_mask": real}).logits
        word = torch.where(alive, logits[:, step].argmax(-1), 0)
        if step == length - 1:
            word = torch.where(alive, SEP, word)
        ids[:, step] = word
        words.append(word)
        alive &= word != SEP
    return torch.stack(words, dim=1)


def test_cached_greedy_decoding_is_step_by_step_decoding(captioning, scene) -> None:
    model = load_model(captioning)
    expected = stepwise(model, scene, 8)
    assert len(set(expected.flatten().tolist())) > 4
    assert torch.equal(model.generate(**scene, max_length=8), expected)


@pytest.mark.parametrize("exact", [True, False])
def test_one_alone_is_decoded_as_among_many(captioning, scene, exact) -> None:
    model = load_model(captioning)
    options = {"max_length": 8, "num_beams": 3, "exact_beams": exact}
    many = model.generate(**scene, **options)
    alone = [model.generate(**{k: v[i : i + 1] for k, v in scene.items()}, **options) for i in range(2)]
    assert torch.equal(torch.cat(alone), many)


def test_a_beam_s_score_is_its_mean_log_probability(captioning, scene) -> None:
    model = load_model(captioning)
    out = model.generate(
        **scene, max_length=6, num_beams=4, num_return_sequences=4, exact_beams=True, return_dict_in_generate=True
    )
    assert out.sequences.shape == (8, 6)
    scores = out.sequences_scores.view(2, 4)
    assert (scores.diff(dim=1) <= 0).all()
    best = out.sequences.view(2, 4, 6)[:, 0]
    for image in range(2):
        length = int((best[image] == SEP).nonzero()[0]) if (best[image][1:] == SEP).any() else 6
        total = 0.0
        for step in range(1, length + 1 if length < 5 else length):
            ids, real = scene["input_ids"].clone(), scene["attention_mask"].clone()
            real[:, :8] = 0
            ids[image, :step], ids[image, step], real[image, : step + 1] = best[image, :step], MASK, 1
            with torch.no_grad():
                logits = model(**{**scene, "input_ids": ids, "attention_mask": real}).logits[image, step]
            total += float(logits.log_softmax(-1)[best[image, step]])
        if length < 5:
            assert_close(float(scores[image, 0]), total / length, rtol=0, atol=1e-4)


def test_more_beams_never_score_less_with_their_own_history(captioning, scene) -> None:
    model = load_model(captioning)
    greedy = model.generate(**scene, max_length=4, return_dict_in_generate=True).sequences_scores
    options = {"num_beams": 15, "exact_beams": True, "return_dict_in_generate": True}
    assert (model.generate(**scene, max_length=4, **options).sequences_scores >= greedy - 1e-5).all()


def test_sampling_draws_and_is_repeated_by_the_seed(captioning, scene) -> None:
    model = load_model(captioning)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model.generate(**scene, max_length=8, do_sample=True, temperature=3.0))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for p in model.parameters():
        p.data.fill_(float("nan"))
    with pytest.raises(NonFinite, match="scores of a sampled word are NaN"):
        model.generate(**scene, max_length=8, do_sample=True)


def test_images_without_tags_or_without_regions_are_decoded(captioning, scene) -> None:
    model = load_model(captioning)
    regions = model.generate(scene["input_ids"][:, :8], scene["img_feats"], max_length=8)
    tags = model.generate(scene["input_ids"], None, None, scene["segment_ids"], max_length=8)
    nothing = model.generate(scene["input_ids"][:, :8], max_length=8)
    assert regions.shape == tags.shape == nothing.shape == (2, 8)
    assert torch.equal(nothing[0], nothing[1])


def test_tags_keep_the_position_they_were_trained_at(captioning, scene) -> None:
    """A caption of fewer slots with ``tag_position`` decodes as one of more slots without."""
    model = load_model(captioning)
    columns = [0, 1, 2, 3, 4, 8, 9, 10]
    fewer = {
        "input_ids": scene["input_ids"][:, columns],
        "segment_ids": scene["segment_ids"][:, columns],
        "img_feats": scene["img_feats"],
        "attention_mask": scene["attention_mask"][:, [*columns, *range(11, 15)]],
    }
    expected = model.generate(**scene, max_length=5)
    assert torch.equal(model.generate(**fewer, max_length=5, tag_position=8), expected)


def test_the_usual_options_of_generate_are_understood(captioning, scene) -> None:
    """What a caller writes who knows transformers: new words beyond the slots, words that a tokenizer lacks, no top-k."""
    model = load_model(captioning)
    usual = {
        "max_new_tokens": 48,
        "eos_token_id": None,
        "pad_token_id": 0,
        "top_k": 0,
        "top_p": 1.0,
        "do_sample": False,
    }
    assert torch.equal(model.generate(**scene, **usual), model.generate(**scene, max_length=8))
    assert model.generate(**scene, max_new_tokens=3).shape == (2, 4)
    with pytest.raises(UsageError, match="has no top_k; leave it at 0"):
        model.generate(**scene, top_k=5)


def test_impossible_requests_are_named(captioning, scene, tmp_path) -> None:
    model = load_model(captioning)
    with pytest.raises(UsageError, match="max_length 9 does not fit the 8 slots"):
        model.generate(**scene, max_length=9)
    with pytest.raises(UsageError, match="takes no top_h; it takes do_sample"):
        model.generate(**scene, top_h=2)
    with pytest.raises(UsageError, match="3 sequences were asked of 1 beam"):
        model.generate(**scene, num_return_sequences=3)
    with pytest.raises(UsageError, match="max_length 1 and num_beams 1"):
        model.generate(**scene, max_length=1)
    with pytest.raises(UsageError, match="lets tags or regions see the caption"):
        model.generate(**{**scene, "attention_mask": torch.ones(2, 15, 15)}, max_length=8)
    model.config.bos_token_id = 101
    with pytest.raises(UsageError, match="the bos token is not among the 15 words"):
        model.generate(**scene, max_length=8)
    untied = load_model(save_published(tmp_path / "untied", tie_weights=False))
    assert untied.cls.predictions.decoder.weight is not untied.bert.embeddings.word_embeddings.weight
