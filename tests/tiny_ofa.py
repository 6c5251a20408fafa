"""Tiny random OFA checkpoints in the published layout: ``config.json``, ``vocab.json``, ``merges.txt``, weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MERGES = ("Ġ t", "h e", "Ġt he", "Ġ w", "w h", "a t", "Ġw h", "Ġwh at", "i m", "a g", "im ag", "imag e", "Ġ image")
"""The space of a word's start is ``Ġ`` in byte-level BPE."""
WIDTH, LAYERS, HEADS, PIXELS = 16, 2, 4, 48


def vocabulary() -> dict[str, int]:
    """Special words, all bytes, what the merges make, and the mask."""
    from tokenizers.pre_tokenizers import ByteLevel

    words = [*SPECIALS, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES), "<mask>"]
    return {word: number for number, word in enumerate(dict.fromkeys(words))}


def fields(**changes: Any) -> dict[str, Any]:
    """The ``config.json`` of a tiny model."""
    return {
        "architectures": ["OFAModel"],
        "model_type": "ofa",
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "decoder_start_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "d_model": WIDTH,
        "decoder_attention_heads": HEADS,
        "decoder_ffn_dim": 24,
        "decoder_layers": LAYERS,
        "dropout": 0.1,
        "encoder_attention_heads": HEADS,
        "encoder_ffn_dim": 24,
        "encoder_layers": LAYERS,
        "forced_eos_token_id": 2,
        "image_bucket_size": 4,
        "max_position_embeddings": 64,
        "num_hidden_layers": LAYERS,
        "resnet_type": "resnet18",
        "token_bucket_size": 8,
        "torch_dtype": "float32",
        "vocab_size": len(vocabulary()) + 8192 + 1000,
        **changes,
    }


def spread(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Redraw the weights outside the stem so that blocks, positions and scales matter, and the stem's norms a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "embed_images" not in name:
                parameter.copy_(parameter + 0.3 * noise)
            elif parameter.dim() == 1:
                parameter.add_(0.1 * noise)
    return model


def build(*, seed: int = 0, **changes: Any) -> Any:
    """A tiny model in evaluation mode."""
    from rankscope.models.ported import ofa

    torch.manual_seed(seed)
    return spread(ofa.OFAModel(ofa.OFAConfig(**fields(**changes))), seed).eval()


def save_published(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a folder as published; returns it."""
    model = build(seed=seed, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(fields(**changes)))
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    return folder
