"""One example as tensors, and the names of what models take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rankscope.data.probes import ASSISTANT, Example

ABSENT = 255
"""The role of a column that the model computes and that never counts."""
TOKENS = frozenset({"input_ids", "decoder_input_ids", "qformer_input_ids"})
"""Inputs that are padded with the padding token."""
MASKS = frozenset({"attention_mask", "decoder_attention_mask", "qformer_attention_mask"})
SEGMENTS = frozenset({"token_type_ids", "mm_token_type_ids", "segment_ids"})
SEEN = frozenset({"image_embeds_position_mask", "cross_attention_mask"})
"""Inputs that say for each token which image it is, or sees."""
ALONG_TOKENS = TOKENS | MASKS | SEGMENTS | SEEN | {"img_feats"}
"""Inputs with a row for each token of a sample; all but the tokens themselves are padded with 0."""
Spans = tuple[tuple[int, int], ...]
"""Where answers begin and end among a text's tokens, counted backwards from its last token that is not special: placeholders and
special tokens that a processor puts in stand before them or after all of them."""


@dataclass(frozen=True)
class Encoding:
    """One example as tensors, without padding."""

    id: str
    """The example's id."""
    inputs: Mapping[str, Tensor]
    """What the model takes: ``(t, *)`` along the tokens, and ``(k, *)`` of its image, which may have several tiles or patches."""
    roles: Mapping[str, Tensor]
    """For each stack ``(t,)`` uint8, the role of each of its columns; without the rows that a prompt adds."""
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """For a stack or an input whose columns are several sequences, each padded separately: their lengths."""

    @property
    def length(self) -> int:
        """The number of columns of its longest stack."""
        return max((len(role) for role in self.roles.values()), default=1)


def arrays(produced: Any) -> dict[str, Tensor]:
    """The tensors of one sample; segment numbers are left out if there is only one segment."""
    tensors = {
        name: value[0] if name in ALONG_TOKENS else value
        for name, value in produced.items()
        if isinstance(value, Tensor)
    }
    if "token_type_ids" in tensors and not tensors["token_type_ids"].any():
        del tensors["token_type_ids"]
    for name in ("input_ids", "attention_mask"):
        if name in tensors:
            tensors[name] = tensors[name].long()
    return tensors


def said(example: Example, prompt: str) -> list[tuple[int, int]]:
    """Where in a prompt the assistant's earlier turns are; one that the chat template leaves out is nowhere."""
    found, start = [], 0
    for turn in example.turns:
        words = turn.text.strip()
        place = prompt.find(words, start) if words else -1
        if place < 0:
            continue
        start = place + len(words)
        if turn.role == ASSISTANT:
            found.append((place, start))
    return found
