"""What the product knows of VinVL, and the classes that it registers with transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import BertTokenizer

from rankscope.errors import CheckpointError
from rankscope.models.family import Family, encoder
from rankscope.models.ported.port import Port
from rankscope.models.ported.vinvl.captioning import VinVLForImageCaptioning
from rankscope.models.ported.vinvl.classification import VinVLForSequenceClassification
from rankscope.models.ported.vinvl.configuration import VinVLConfig
from rankscope.models.ported.vinvl.encoder import VinVLModel
from rankscope.models.ported.vinvl.inputs import VinVLInputs

SPECIALS = {
    "pad_token_id": "[PAD]",
    "bos_token_id": "[CLS]",
    "eos_token_id": "[SEP]",
    "mask_token_id": "[MASK]",
}
"""The words that a caption is decoded with."""


def recognise(fields: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """The fields with ``model_type``, and the special words' numbers from ``vocab.txt``; None if it is not VinVL's.

    A ``config.json`` of VinVL or Oscar is BERT's, with regions, from before there was a ``model_type``.
    """
    if "img_feature_dim" not in fields or fields.get("model_type") not in (None, "", "bert"):
        return None
    file = folder / "vocab.txt"
    words = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    specials = {name: words.index(word) for name, word in SPECIALS.items() if word in words}
    # The authors' flag output_hidden_states fed their decoder; here hidden states come when they are asked for.
    rest = {name: value for name, value in fields.items() if name != "output_hidden_states"}
    return {**specials, **rest, "model_type": VinVLConfig.model_type}


def check_vocabulary(folder: Path, fields: Mapping[str, Any]) -> None:
    """Refuse a ``vocab.txt`` of another length than ``vocab_size``.

    Raises:
        CheckpointError: if they differ.
    """
    file, size = folder / "vocab.txt", fields["vocab_size"]
    if not file.is_file():
        return
    words = len(file.read_text(encoding="utf-8").splitlines())
    if words != size:
        raise CheckpointError(
            f"{file} names {words} words and config.json says vocab_size {size}; the vocabulary is of another checkpoint"
        )


FAMILY = Family(
    encoder("encoder.layer"),
    inputs=VinVLInputs,
    reads_regions=True,
    check_vocabulary=check_vocabulary,
    port=Port(
        config=VinVLConfig,
        models={
            "AutoModel": VinVLModel,
            "AutoModelForMaskedLM": VinVLForImageCaptioning,
            "AutoModelForImageTextToText": VinVLForImageCaptioning,
            "AutoModelForSequenceClassification": VinVLForSequenceClassification,
            "AutoModelForVisualQuestionAnswering": VinVLForSequenceClassification,
        },
        tokenizer=BertTokenizer,
        recognise=recognise,
    ),
)
