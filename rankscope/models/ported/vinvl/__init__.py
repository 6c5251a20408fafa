"""VinVL / Oscar+: a BERT encoder that reads words, object tags and detected regions as one sequence.

Origin. Written afresh from the papers — Li et al., "Oscar: Object-Semantics Aligned Pre-training for Vision-Language
Tasks", ECCV 2020; Zhang et al., "VinVL: Revisiting Visual Representations in Vision-Language Models", CVPR 2021; Devlin
et al., "BERT", NAACL 2019; Zhou et al., "Unified Vision-Language Pre-Training" (the sequence-to-sequence mask), AAAI
2020 — and from the layout of the published weights: the keys and shapes of ``pytorch_model.bin`` and the fields of
``config.json``. No line is taken from the authors' repository. The constants that decide agreement with it (the
additive −10000 of the mask, the bookkeeping of its beam search) are named where they stand, and ``tests/models_vinvl``
holds the port to the original's outputs.

Layout of a folder: ``config.json`` (without ``model_type``; recognised by ``img_feature_dim``), ``vocab.txt``,
``pytorch_model.bin``. A ``training_args.bin`` beside them is a pickle of code and is never opened.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "VinVLConfig": "configuration",
    "VinVLModel": "encoder",
    "VinVLForImageCaptioning": "captioning",
    "VinVLForSequenceClassification": "classification",
    "encode_caption_inputs": "encoding",
    "encode_vqa_inputs": "encoding",
    "caption_visibility": "attention",
    "mask_words": "masking",
    "load": "loading",
    "register": "loading",
}

__all__ = [
    "VinVLConfig",
    "VinVLForImageCaptioning",
    "VinVLForSequenceClassification",
    "VinVLModel",
    "caption_visibility",
    "encode_caption_inputs",
    "encode_vqa_inputs",
    "load",
    "mask_words",
    "register",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
