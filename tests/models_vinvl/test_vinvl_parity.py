"""The port against the original implementation's outputs: every tensor to 1e-4, every id exactly."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rankscope.models.load import load_model
from rankscope.models.ported.vinvl.attention import caption_visibility

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


@pytest.mark.parametrize("head", ["captioning", "vqa"])
def test_every_state_and_score_is_the_original_s(references, head) -> None:
    reference = references[head]
    model = load_model(reference.folder)
    with torch.no_grad():
        out = model(**reference.inputs, labels=reference.expected.get("labels"), output_hidden_states=True)
    states = [name for name in reference.expected if name.startswith("hidden_states.")]
    assert len(states) == len(out.hidden_states) == 3
    for name in states:
        assert_close(out.hidden_states[int(name.rpartition(".")[2])], reference.expected[name], **TOLERANCE)
    assert_close(out.logits, reference.expected["logits"], **TOLERANCE)
    if head == "vqa":
        assert_close(out.loss, reference.expected["loss"], **TOLERANCE)


@pytest.mark.parametrize(("beams", "name"), [(1, "greedy"), (3, "beam3")])
def test_captions_are_the_original_s(references, beams, name) -> None:
    reference = references["captioning"]
    expected = reference.expected
    out = load_model(reference.folder).generate(
        expected["generate_input_ids"],
        expected["img_feats"],
        expected["generate_attention_mask"],
        expected["token_type_ids"],
        num_beams=beams,
        max_length=10,
        return_dict_in_generate=True,
    )
    assert torch.equal(out.sequences, expected[f"{name}_ids"][:, 0])
    assert_close(out.sequences_scores, expected[f"{name}_logprobs"][:, 0], **TOLERANCE)


def test_beams_with_their_own_history_differ_from_the_published_ones(references) -> None:
    """The quirk that is followed by default is visible here: without it one of the three captions changes."""
    reference = references["captioning"]
    expected = reference.expected
    captions = load_model(reference.folder).generate(
        expected["generate_input_ids"],
        expected["img_feats"],
        expected["generate_attention_mask"],
        expected["token_type_ids"],
        num_beams=3,
        max_length=10,
        exact_beams=True,
    )
    assert (captions != expected["beam3_ids"][:, 0]).any(dim=1).tolist() == [False, False, True]


def test_the_two_dimensional_mask_is_the_published_one(references) -> None:
    expected = references["captioning"].expected
    published, segments = expected["attention_mask"], expected["token_type_ids"]
    real = published.diagonal(dim1=1, dim2=2)
    caption = torch.nn.functional.pad(segments == 0, (0, expected["img_feats"].shape[1]))
    assert torch.equal(caption_visibility(real, caption), published.bool())
    assert not torch.equal(caption_visibility(real, torch.zeros_like(caption)), published.bool())


def test_a_one_dimensional_mask_gives_the_same_scores(references) -> None:
    reference = references["captioning"]
    real = reference.expected["attention_mask"].diagonal(dim1=1, dim2=2)
    with torch.no_grad():
        logits = load_model(reference.folder)(**{**reference.inputs, "attention_mask": real}).logits
    assert_close(logits, reference.expected["logits"], **TOLERANCE)
