"""Words, tags and regions as the model's inputs, laid out as the authors' data code lays them out.

A caption's text is ``[CLS] words [SEP]`` padded to a fixed number of slots, then ``tags [SEP]``; a question's is
``[CLS] question [SEP] tags [SEP]`` without slots. Padding to the batch's longest is on the right; regions follow.
Segments are called ``segment_ids`` here, because wrappers for prompt learning drop ``token_type_ids``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rankscope.errors import DataError, UsageError


@dataclass(frozen=True)
class Lengths:
    """The published lengths."""

    text: int = 70
    """Words, tags and special words together (128 for questions)."""
    caption: int = 40
    """Slots of the caption; tags start after them."""
    regions: int = 50


VQA_LENGTHS = Lengths(text=128)


def encode_caption_inputs(
    tokenizer: Any,
    features: Sequence[Tensor],
    *,
    tags: Sequence[Sequence[str]] | None = None,
    captions: Sequence[str] | None = None,
    lengths: Lengths | None = None,
) -> dict[str, Tensor]:
    """Inputs for captioning.

    Args:
        tokenizer: BERT's, of the checkpoint.
        features: ``(regions, 2054)`` each, best region first.
        tags: the names of the objects of each image.
        captions: the texts to read; without them the slots hold ``[MASK]``, to be filled by ``generate``.
        lengths: the published ones unless given.

    Returns:
        ``input_ids`` and ``segment_ids`` ``(b, t)``, ``img_feats`` ``(b, r, 2054)``, ``attention_mask`` ``(b, t + r)``
        with 1 at real positions; the model makes the two-dimensional mask from it.

    Raises:
        DataError: if features and texts differ in number, or features in width.
    """
    lengths = lengths or Lengths()
    rows = []
    for index in range(len(features)):
        words = (
            _words(tokenizer, _at(captions, index, len(features), "captions"))[: lengths.caption - 2]
            if captions is not None
            else [tokenizer.mask_token_id] * (lengths.caption - 2)
        )
        caption = [tokenizer.cls_token_id, *words, tokenizer.sep_token_id]
        named = _tags(tokenizer, tags, index, len(features))[: lengths.text - lengths.caption - 1]
        named = [*named, tokenizer.sep_token_id] if named else []
        gap = lengths.caption - len(caption)
        rows.append(
            _Row(
                [*caption, *[tokenizer.pad_token_id] * gap, *named],
                [0] * lengths.caption + [1] * len(named),
                [1] * len(caption) + [0] * gap + [1] * len(named),
            )
        )
    return _batched(rows, features, pad=tokenizer.pad_token_id, regions=lengths.regions)


def encode_vqa_inputs(
    tokenizer: Any,
    features: Sequence[Tensor],
    questions: Sequence[str],
    *,
    tags: Sequence[Sequence[str]] | None = None,
    lengths: Lengths = VQA_LENGTHS,
) -> dict[str, Tensor]:
    """Inputs for questions; arguments and results as for :func:`encode_caption_inputs`.

    Where question and tags are too long together, the longer of them gives up its last word, again and again.

    Raises:
        DataError: if features and texts differ in number, or features in width.
    """
    rows = []
    for index in range(len(features)):
        question = _words(tokenizer, _at(questions, index, len(features), "questions"))
        named = _tags(tokenizer, tags, index, len(features))
        while len(question) + len(named) > lengths.text - (3 if named else 2):
            (question if len(question) >= len(named) else named).pop()
        first = [tokenizer.cls_token_id, *question, tokenizer.sep_token_id]
        second = [*named, tokenizer.sep_token_id] if named else []
        both = [*first, *second]
        rows.append(_Row(both, [0] * len(first) + [1] * len(second), [1] * len(both)))
    return _batched(rows, features, pad=tokenizer.pad_token_id, regions=lengths.regions)


@dataclass(frozen=True)
class _Row:
    """The text of one entry, ``(t,)`` each."""

    ids: list[int]
    segments: list[int]
    real: list[int]


def _words(tokenizer: Any, text: str) -> list[int]:
    """A text's words, without special ones."""
    return list(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)))


def _tags(tokenizer: Any, tags: Sequence[Sequence[str]] | None, index: int, count: int) -> list[int]:
    """The words of an image's tags, joined by spaces."""
    return [] if tags is None else _words(tokenizer, " ".join(_at(tags, index, count, "tags")))


def _at(values: Sequence[Any], index: int, count: int, name: str) -> Any:
    """One of ``count`` values.

    Raises:
        DataError: if there are more or fewer.
    """
    if len(values) != count:
        raise DataError(f"{count} images' features and {len(values)} {name}; give one for each")
    return values[index]


def _batched(rows: Sequence[_Row], features: Sequence[Tensor], *, pad: int, regions: int) -> dict[str, Tensor]:
    """Rows padded to the longest, and features to the image with most regions, cut at ``regions``."""
    if not rows:
        raise UsageError("a batch needs at least one image's features")
    widths = {int(feature.shape[-1]) for feature in features}
    if len(widths) != 1 or any(feature.dim() != 2 for feature in features):
        raise DataError(f"features must be (regions, width) of one width; got {[tuple(f.shape) for f in features][:4]}")
    features = [feature[:regions].float() for feature in features]
    text, most = max(len(row.ids) for row in rows), max(len(feature) for feature in features)

    def filled(values: list[int], value: int) -> list[int]:
        return values + [value] * (text - len(values))

    seen = [
        filled(row.real, 0) + [1] * len(feature) + [0] * (most - len(feature))
        for row, feature in zip(rows, features, strict=True)
    ]
    padded = [torch.nn.functional.pad(feature, (0, 0, 0, most - len(feature))) for feature in features]
    return {
        "input_ids": torch.tensor([filled(row.ids, pad) for row in rows]),
        "segment_ids": torch.tensor([filled(row.segments, 0) for row in rows]),
        "img_feats": torch.stack(padded),
        "attention_mask": torch.tensor(seen),
    }
