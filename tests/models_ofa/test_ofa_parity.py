"""The port against the original implementation's outputs: every tensor to 1e-4, every id exactly."""

from __future__ import annotations

import torch
from torch.testing import assert_close

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


def test_every_state_and_score_is_the_original_s(reference) -> None:
    out, expected = reference(), reference.expected
    swept = 0
    for side in ("encoder", "decoder"):
        names = [name for name in expected if name.startswith(f"{side}_hidden_states.")]
        states = getattr(out, f"{side}_hidden_states")
        assert len(names) == len(states) == 3
        for name in names:
            assert_close(states[int(name.rpartition(".")[2])], expected[name], **TOLERANCE)
            swept += 1
    assert_close(out.encoder_last_hidden_state, expected["encoder_last_hidden_state"], **TOLERANCE)
    assert_close(out.logits, expected["logits"], **TOLERANCE)
    assert swept == 6


def test_scores_without_an_image_are_the_original_s(reference) -> None:
    out = reference(images=False)
    assert_close(out.logits, reference.expected["logits_text_only"], **TOLERANCE)
    assert (out.logits - reference.expected["logits"]).abs().max() > 1e-2


def test_greedy_words_are_the_original_s_with_and_without_a_cache(reference) -> None:
    expected = reference.expected
    for cached in (True, False):
        words = reference.model.generate(
            expected["input_ids"],
            patch_images=reference.images,
            max_new_tokens=8,
            forced_eos_token_id=None,
            do_sample=False,
            use_cache=cached,
        )
        assert torch.equal(words, expected["greedy_ids"])
