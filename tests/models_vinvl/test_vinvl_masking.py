"""Hiding words of captions for training."""

from __future__ import annotations

import pytest
import torch

from rankscope.errors import UsageError
from rankscope.models.load import load_model
from rankscope.models.ported import vinvl

MASK, WORDS = 4, 15


def hide(scene, seed: int, **options):
    return vinvl.mask_words(
        scene, mask_id=MASK, vocabulary=WORDS, generator=torch.Generator().manual_seed(seed), **options
    )


def test_only_words_of_the_caption_are_hidden_and_labels_name_them(scene) -> None:
    seen = torch.zeros_like(scene["input_ids"], dtype=torch.bool)
    for seed in range(60):
        out = hide(scene, seed)
        asked = out["labels"] != -100
        assert asked.sum(1).tolist() == [1, 1]
        assert torch.equal(out["labels"][asked], scene["input_ids"][asked])
        assert torch.equal(out["input_ids"][~asked], scene["input_ids"][~asked])
        seen |= asked
    assert seen.tolist() == [[False] + [True] * 6 + [False] * 4, [False] + [True] * 3 + [False] * 7]


def test_as_many_as_published_and_four_in_five_become_the_mask() -> None:
    many = {
        "input_ids": torch.full((400, 30), 6),
        "segment_ids": torch.zeros(400, 30, dtype=torch.long),
        "attention_mask": torch.ones(400, 34, dtype=torch.long),
    }
    out = hide(many, 1)
    asked = out["labels"] != -100
    assert set(asked.sum(1).tolist()) == {3}
    words = out["input_ids"][asked]
    assert (words == MASK).float().mean().item() == pytest.approx(0.8 + 0.1 / WORDS, abs=0.04)
    assert (words == 6).float().mean().item() == pytest.approx(0.1 + 0.1 / WORDS, abs=0.03)
    assert set(hide(many, 1, most=9)["labels"].ne(-100).sum(1).tolist()) == {4}


def test_hidden_words_train_the_model(captioning, scene) -> None:
    model = load_model(captioning).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for seed in range(40):
        loss = model(**hide(scene, seed % 4)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def test_a_caption_without_words_is_named(scene) -> None:
    scene["attention_mask"][1, 1:8] = 0
    with pytest.raises(UsageError, match="caption of entry 1 has no word to hide"):
        hide(scene, 0)
