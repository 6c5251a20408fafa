"""Captioners that fill in ``[MASK]`` (VinVL): words hidden anew in every batch, and the probability of a caption."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from rankscope.models.inputs.reader import Reader
from rankscope.models.ported.vinvl import mask_words


def fills_masks(reading: Reader) -> bool:
    """Whether the model says captions by filling in ``[MASK]``."""
    return reading.inputs.reads_regions and reading.inputs.generates


def seed_of(*parts: object) -> int:
    """A seed that is a function of what is given alone, so that a resumed run hides what an undisturbed one hides."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def hide_words(reading: Reader, inputs: dict[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Inputs with words of each caption hidden, and ``labels`` that ask for them.

    Args:
        reading: the model's reader.
        inputs: a batch of captions with tags and regions.
        seed: of what is hidden.
    """
    return mask_words(
        inputs,
        mask_id=reading.inputs.tokenizer.mask_token_id,
        vocabulary=reading.inputs.config.vocab_size,
        generator=torch.Generator().manual_seed(seed),
    )


def masked_log_probabilities(model: nn.Module, prompt: dict[str, Tensor], words: Tensor, mask_id: int) -> Tensor:
    """``(b, t, V)`` log-probabilities of each word of a caption after the words before it.

    One forward pass a word, each with ``[MASK]`` where the word is asked for: no row of the caption sees a later one, so
    that the words after it do not matter.

    Args:
        model: the captioner.
        prompt: captions' slots, tags and regions, as ``generate`` takes them.
        words: ``(b, t)`` the caption after its start word; at most as many as there are slots.
        mask_id: the number of ``[MASK]``.
    """
    ids = prompt["input_ids"].clone()
    ids[:, 1 : 1 + words.shape[1]] = words
    rest = {name: tensor for name, tensor in prompt.items() if name != "input_ids"}
    found = []
    for place in range(1, 1 + words.shape[1]):
        asked = ids.clone()
        asked[:, place] = mask_id
        found.append(model(input_ids=asked, **rest).logits[:, place].float().log_softmax(-1))
    return torch.stack(found, 1)
