"""Captioners that fill in ``[MASK]`` (VinVL): words hidden anew in every batch, and the probability of a caption."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from rankscope.models.inputs.reader import Reader
from rankscope.models.ported.vinvl import mask_words


def fills_masks(reader: Reader) -> bool:
    """Whether the model says captions by filling in ``[MASK]``."""
    return reader.inputs.reads_regions and reader.inputs.generates


def seed_of(*parts: object) -> int:
    """A seed that depends on the arguments alone, so that a resumed run hides what an undisturbed one hides."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def hide_words(reader: Reader, inputs: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A batch with words of each caption hidden, and ``labels`` that ask for them.

    Args:
        reader: the model's reader.
        inputs: a batch of captions with tags and regions.
        seed: the seed from which the hidden words are drawn.
    """
    return mask_words(
        inputs,
        mask_id=reader.inputs.tokenizer.mask_token_id,
        vocabulary=reader.inputs.config.vocab_size,
        generator=torch.Generator().manual_seed(seed),
    )


def masked_log_probabilities(model: nn.Module, prompt: dict[str, Tensor], words: Tensor, mask_id: int) -> Tensor:
    """``(b, t, V)`` log-probabilities of each word of a caption after the words before it.

    There is one forward pass for each word, with ``[MASK]`` in its place. No row of the caption sees a later one, so the words
    after it do not matter.

    Args:
        model: the captioner.
        prompt: captions' slots, tags and regions, as ``generate`` takes them.
        words: ``(b, t)`` words of the caption after its start word; at most as many as there are slots.
        mask_id: the number of ``[MASK]``.
    """
    ids = prompt["input_ids"].clone()
    ids[:, 1 : 1 + words.shape[1]] = words
    rest = {name: tensor for name, tensor in prompt.items() if name != "input_ids"}
    by_word = []
    for place in range(1, 1 + words.shape[1]):
        masked = ids.clone()
        masked[:, place] = mask_id
        by_word.append(model(input_ids=masked, **rest).logits[:, place].float().log_softmax(-1))
    return torch.stack(by_word, 1)
