"""How VinVL enters transformers' tables. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rankscope.models.ported.register import Family

SPECIALS = {
    "pad_token_id": "[PAD]",
    "bos_token_id": "[CLS]",
    "eos_token_id": "[SEP]",
    "mask_token_id": "[MASK]",
}
"""The words that a caption is decoded with."""


def is_published(fields: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is VinVL's or Oscar's: BERT's, with regions, and written before ``model_type`` was."""
    return "img_feature_dim" in fields and fields.get("model_type") in (None, "", "bert")


def recognise(fields: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """The fields with ``model_type``, and the special words' numbers from ``vocab.txt``; None if it is not VinVL's."""
    if not is_published(fields):
        return None
    file = folder / "vocab.txt"
    words = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    specials = {name: words.index(word) for name, word in SPECIALS.items() if word in words}
    # The authors' flag output_hidden_states fed their decoder; here hidden states come when they are asked for.
    rest = {name: value for name, value in fields.items() if name != "output_hidden_states"}
    return {**specials, **rest, "model_type": FAMILY.model_type}


FAMILY = Family(
    model_type="vinvl",
    package="rankscope.models.ported.vinvl",
    config="configuration.VinVLConfig",
    models={
        "MODEL_MAPPING": "encoder.VinVLModel",
        "MODEL_FOR_MASKED_LM_MAPPING": "captioning.VinVLForImageCaptioning",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING": "captioning.VinVLForImageCaptioning",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING": "classification.VinVLForSequenceClassification",
        "MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING": "classification.VinVLForSequenceClassification",
    },
    tokenizer="transformers.models.bert.tokenization_bert.BertTokenizer",
    recognise=recognise,
)
