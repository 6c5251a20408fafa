"""Training a captioner: some words of each caption are hidden, and asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from rankscope.errors import UsageError


def mask_words(
    inputs: dict[str, Tensor],
    *,
    mask_id: int,
    vocabulary: int,
    generator: torch.Generator | None = None,
    probability: float = 0.15,
    most: int = 3,
) -> dict[str, Tensor]:
    """Captioning inputs with words hidden, and ``labels`` that ask for them.

    Of a caption's ``n`` positions, ``[SEP]`` among them and ``[CLS]`` not, ``round(n · probability)`` are drawn, at
    least 1 and at most ``most``. Four in five of them become ``[MASK]``, one in ten any word, one in ten stay. The words
    after a hidden one do not reveal it, because no word sees a later one.

    Args:
        inputs: made by ``encode_caption_inputs`` with captions.
        mask_id: the number of ``[MASK]``.
        vocabulary: how many words there are.
        generator: torch's own unless given; on the CPU.
        probability, most: the published values unless given.

    Returns:
        The same with other ``input_ids`` and with ``labels`` ``(b, t)``, −100 where nothing is predicted.

    Raises:
        UsageError: if a caption has no position to hide.

    Devlin et al., "BERT", NAACL 2019, §3.1; the counts are Oscar's.
    """
    ids, labels = inputs["input_ids"].clone(), torch.full_like(inputs["input_ids"], -100)
    words = ids.shape[1]
    caption = (inputs["segment_ids"] != 0).cumsum(1) == 0
    real = caption & inputs["attention_mask"][:, :words].bool()
    for row, positions in enumerate(mask.nonzero()[:, 0] for mask in real.cpu()):
        if len(positions) < 2:
            raise UsageError(f"the caption of entry {row} has no word to hide; encode the inputs with captions")
        count = min(max(round(probability * len(positions)), 1), most, len(positions) - 1)
        drawn = positions[1 + torch.randperm(len(positions) - 1, generator=generator)[:count]]
        labels[row, drawn] = ids[row, drawn]
        # Of the words drawn, 80 % become [MASK], 10 % a random word, and 10 % stay (BERT, §3.1).
        fate = torch.rand(count, generator=generator)
        other = torch.randint(vocabulary, (count,), generator=generator)
        hidden = torch.where(fate < 0.8, torch.full_like(other, mask_id), other).to(ids.device)
        ids[row, drawn] = torch.where(fate.to(ids.device) < 0.9, hidden, ids[row, drawn])
    return {**inputs, "input_ids": ids, "labels": labels}
