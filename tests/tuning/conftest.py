"""Tiny bases, made once for all tests of tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf


def classifier() -> tuple[Any, Any]:
    """A tiny BERT with a classification head."""
    tok = tiny.tokenizer("[CLS] $A [SEP]", **tiny.BERT)
    config = tf.BertConfig(
        vocab_size=len(tok), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=128, pad_token_id=tok.pad_token_id, num_labels=3,
    )  # fmt: skip
    return tf.BertForSequenceClassification(config), tok


def save(name: str, folder: Path) -> Path:
    """A random base of a family, or of the classifier."""
    if name != "bert-classifier":
        return tiny.save_base(name, folder)
    torch.manual_seed(0)
    model, tok = classifier()
    tiny.spread(model, 0).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The base of a family, written once."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = save(name, tmp_path_factory.mktemp("base") / name)
        return made[name]

    return of
