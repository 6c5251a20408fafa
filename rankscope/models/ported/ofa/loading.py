"""A published folder as a model: registered with transformers, and loaded strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rankscope.errors import CheckpointError
from rankscope.models.ported.ofa.family import FAMILY
from rankscope.models.ported.register import load_strict, register_family

ADDED = 8192 + 1000
"""Words that the tokenizer has besides ``vocab.json``: image codes and coordinates."""


def register() -> None:
    """Teach transformers' Auto classes this family; calling again does nothing."""
    register_family(FAMILY)


def load(folder: str | Path, *, dtype: torch.dtype | None = None) -> Any:
    """The model of a published folder, in evaluation mode, with every key landed.

    Raises:
        CheckpointError: if the folder is not OFA's, or a key or the vocabulary does not fit.
    """
    register()
    folder = Path(folder)
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has no config.json; an OFA folder has config.json, vocab.json, merges.txt and weights"
        )
    fields = json.loads(file.read_text())
    if fields.get("model_type") != "ofa":
        raise CheckpointError(f"{file} says model_type {fields.get('model_type')!r}, not 'ofa'")
    check_vocabulary(folder, fields)
    from rankscope.models.ported.ofa.model import OFAModel

    return load_strict(OFAModel, folder, dtype=dtype)


def check_vocabulary(folder: Path, fields: dict[str, Any]) -> None:
    """Refuse a ``vocab.json`` that, with the added words, does not make ``vocab_size``.

    Raises:
        CheckpointError: if it does not.
    """
    file, size = folder / "vocab.json", fields.get("vocab_size", 59457)
    if not file.is_file():
        return
    words = len(json.loads(file.read_text(encoding="utf-8")))
    if words + ADDED != size:
        raise CheckpointError(
            f"{file} names {words} words, {words + ADDED} with codes and bins, and config.json says vocab_size {size}; "
            "the vocabulary is of another checkpoint"
        )
