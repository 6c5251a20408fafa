"""A published folder as a model: recognised, registered with transformers, and loaded strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rankscope.errors import CheckpointError
from rankscope.models.ported.register import keys_of, load_strict, register_family
from rankscope.models.ported.vinvl.family import FAMILY, is_published

_HEADS = {"classifier.": "VinVLForSequenceClassification", "cls.predictions.": "VinVLForImageCaptioning"}


def register() -> None:
    """Teach transformers' Auto classes this family; calling again does nothing."""
    register_family(FAMILY)


def head_of(folder: str | Path) -> str:
    """The class whose head a folder's weights hold: captioning, classification, or none (``VinVLModel``).

    Raises:
        CheckpointError: if the folder holds no weights.
    """
    keys = keys_of(Path(folder))
    for prefix, name in _HEADS.items():
        if any(key.startswith(prefix) for key in keys):
            return name
    return "VinVLModel"


def load(folder: str | Path, *, dtype: torch.dtype | None = None) -> Any:
    """The model of a published folder, with the head its weights have, in evaluation mode.

    Every key must be there, of the shape the configuration says, and none besides; ``vocab.txt`` must name as many
    words as there are embeddings. ``training_args.bin`` is not opened.

    Raises:
        CheckpointError: if the folder is not VinVL's, or a key or the vocabulary does not fit.
    """
    register()
    folder = Path(folder)
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no config.json; a VinVL folder has config.json, vocab.txt and weights")
    fields = json.loads(file.read_text())
    if not is_published(fields) and fields.get("model_type") != "vinvl":
        raise CheckpointError(f"{file} is not VinVL's: it has no img_feature_dim")
    check_vocabulary(folder, fields)
    from rankscope.models.ported import vinvl

    return load_strict(getattr(vinvl, head_of(folder)), folder, dtype=dtype)


def check_vocabulary(folder: Path, fields: dict[str, Any]) -> None:
    """Refuse a ``vocab.txt`` of another length than ``vocab_size``.

    Raises:
        CheckpointError: if they differ.
    """
    file, size = folder / "vocab.txt", fields.get("vocab_size", 30522)
    if not file.is_file():
        return
    words = len(file.read_text(encoding="utf-8").splitlines())
    if words != size:
        raise CheckpointError(
            f"{file} names {words} words and config.json says vocab_size {size}; the vocabulary is of another checkpoint"
        )
