"""OFA's tokenizer: BART's byte-level BPE, and words for image codes and coordinates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.models.bart.tokenization_bart import BartTokenizer

from rankscope.errors import CheckpointError

CODES, BINS = 8192, 1000
"""How many image codes and coordinates the published vocabulary has."""


class OFATokenizer(BartTokenizer):
    """``<s> text </s>``; ``<code_0>`` … ``<code_8191>`` and ``<bin_0>`` … ``<bin_999>`` are words of their own.

    A folder's ``vocab.json`` holds BART's words only; the others follow them, as the authors' tokenizer adds them.
    """

    def __init__(self, vocab: Any = None, merges: Any = None, **options: Any) -> None:
        super().__init__(vocab=vocab, merges=merges, **options)
        self.add_tokens([f"<code_{i}>" for i in range(CODES)] + [f"<bin_{i}>" for i in range(BINS)])


def check_vocabulary(folder: Path, fields: Mapping[str, Any]) -> None:
    """Refuse a ``vocab.json`` that, with the added words, does not make ``vocab_size``.

    Raises:
        CheckpointError: if it does not.
    """
    file, size = folder / "vocab.json", fields["vocab_size"]
    if not file.is_file():
        return
    words = len(json.loads(file.read_text(encoding="utf-8")))
    if words + CODES + BINS != size:
        raise CheckpointError(
            f"{file} names {words} words, {words + CODES + BINS} with codes and bins, and config.json says vocab_size {size}; "
            "the vocabulary is of another checkpoint"
        )
