"""Tiny random VinVL checkpoints in the published layout: BERT-style keys, no ``model_type``, ``vocab.txt``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "on", "the", "mat", "is", "what", "?", "##s")
WIDTH, FEATURES, LABELS, LAYERS = 24, 10, 5, 3


def fields(*, head: str = "captioning", **changes: Any) -> dict[str, Any]:
    """The ``config.json`` of a tiny model."""
    answers = {"classifier": "mlp", "cls_hidden_scale": 3, "loss_type": "bce", "num_labels": LABELS}
    return {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": WIDTH,
        "img_feature_dim": FEATURES,
        "img_feature_type": "frcnn",
        "img_layer_norm_eps": 1e-12,
        "initializer_range": 0.2,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 96,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "output_hidden_states": True,
        "tie_weights": True,
        "type_vocab_size": 2,
        "use_img_layernorm": 1,
        "vocab_size": len(WORDS),
        **(answers if head == "vqa" else {"loss_type": "sfmx", "label_smoothing": 0.1}),
        **changes,
    }


def save_published(folder: Path, *, head: str = "captioning", seed: int = 0, **changes: Any) -> Path:
    """Write ``config.json``, ``vocab.txt`` and ``pytorch_model.bin``; returns the folder."""
    from rankscope.models.ported import vinvl

    settings = fields(head=head, **changes)
    torch.manual_seed(seed)
    names = {"captioning": vinvl.VinVLForImageCaptioning, "vqa": vinvl.VinVLForSequenceClassification}
    model = names[head](vinvl.VinVLConfig(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def checkpointed(model: Any) -> None:
    """Switch gradient checkpointing on, under the name it has in this version of transformers."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
