"""A fairseq checkpoint of OFA, through a map of keys.

Such a ``.pt`` holds ``model`` (the weights), the training state, and the arguments of the run, an
``argparse.Namespace``. It is read with ``weights_only=True``; besides tensors and plain containers only that one class,
which holds values and runs nothing, is allowed. Sizes are read off the weights.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankscope.errors import CheckpointError
from rankscope.models.ported.ofa.configuration import RESNETS, OFAConfig
from rankscope.models.ported.ofa.model import OFAModel
from rankscope.models.tensor_files import read_plain

RENAMED = (
    (r"^encoder\.(layers\.\d+)\.attn_ln\.", r"encoder.\1.self_attn_mid_layer_norm."),
    (r"^decoder\.(layers\.\d+)\.self_attn_ln\.", r"decoder.\1.self_attn_mid_layer_norm."),
    (r"^decoder\.(layers\.\d+)\.cross_attn_ln\.", r"decoder.\1.cross_attn_mid_layer_norm."),
    (r"^decoder\.(layers\.\d+)\.encoder_attn_layer_norm\.", r"decoder.\1.cross_attn_layer_norm."),
    (r"^decoder\.(layers\.\d+)\.encoder_attn\.", r"decoder.\1.cross_attn."),
    (r"\.ffn_layernorm\.", ".ffn_layer_norm."),
)
"""fairseq's names, and those of the published folders."""
DROPPED = (r"^(encoder|decoder)\.version$", r"\.embed_positions\._float_tensor$", r"^classification_heads\.")
"""What fairseq keeps and no folder holds."""


def renamed(key: str) -> str:
    """A fairseq key as the folders spell it."""
    for pattern, new in RENAMED:
        key = re.sub(pattern, new, key)
    return key


def load_fairseq(
    file: str | Path, *, dtype: torch.dtype | None = None, changes: Mapping[str, Any] | None = None
) -> OFAModel:
    """The model of a fairseq ``.pt``, in evaluation mode.

    Args:
        file: the checkpoint.
        dtype: the dtype of the weights; the file's unless given.
        changes: fields of the configuration that sizes do not show (``dropout``, ``scale_embedding``, …), by name.

    Raises:
        CheckpointError: if the file is not OFA's, or a key does not land.
        UnsafeError: if it needs code to load.
    """
    file = Path(file)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = read_plain(file)
    content = content.get("model", content) if isinstance(content, dict) else {}
    weights = {
        renamed(k): v
        for k, v in content.items()
        if isinstance(v, Tensor) and not any(re.search(pattern, k) for pattern in DROPPED)
    }
    if not weights:
        raise CheckpointError(f"{file} holds no dictionary of tensors")
    model = OFAModel(config_of(weights, file, changes or {}))
    there = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    faults = {
        "missing": sorted(there.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - there.keys()),
        "of another shape": sorted(k for k in there.keys() & weights.keys() if there[k] != tuple(weights[k].shape)),
    }
    if found := [f"{len(keys)} {kind} ({', '.join(keys[:4])})" for kind, keys in faults.items() if keys]:
        raise CheckpointError(f"{file} does not fit OFA: {'; '.join(found)}")
    model.load_state_dict(weights)
    return model.to(dtype or next(value.dtype for value in weights.values() if value.is_floating_point())).eval()


def config_of(weights: Mapping[str, Tensor], source: Path | str, changes: Mapping[str, Any]) -> OFAConfig:
    """The configuration that weights under the folders' names have.

    Args:
        weights: key to tensor; only shapes are read.
        source: named in errors.
        changes: fields that replace or complete what the weights show.

    Raises:
        CheckpointError: if they are not OFA's.
    """
    needed = ("encoder.embed_tokens.weight", "encoder.embed_images.conv1.weight", "encoder.layers.0.self_attn.c_attn")
    if absent := [key for key in needed if key not in weights]:
        raise CheckpointError(f"{source} is not OFA's: it has no {', '.join(absent)}")
    vocabulary, width = weights["encoder.embed_tokens.weight"].shape
    sides = {side: _side(weights, side) for side in ("encoder", "decoder")}
    stages = tuple(_count(weights, rf"encoder\.embed_images\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3))
    # resnet34 and resnet50 have the same bottlenecks here.
    stem = next((name for name, blocks in RESNETS.items() if blocks == stages), None)
    if stem is None:
        raise CheckpointError(f"{source} has a stem of {stages} blocks; known are {', '.join(RESNETS)}")
    fields = {
        "vocab_size": vocabulary,
        "d_model": width,
        "max_position_embeddings": weights["encoder.embed_positions.weight"].shape[0] - 2,
        "image_bucket_size": isqrt(weights["encoder.embed_image_positions.weight"].shape[0] - 1),
        "token_bucket_size": (weights["encoder.token_rel_pos_table_list.0.weight"].shape[0] + 1) // 2,
        "resnet_type": stem,
        "normformer": "encoder.layers.0.ffn_layer_norm.weight" in weights,
        "layernorm_embedding": "encoder.layernorm_embedding.weight" in weights,
        "patch_layernorm_embedding": "encoder.patch_layernorm_embedding.weight" in weights,
        "code_layernorm_embedding": "decoder.code_layernorm_embedding.weight" in weights,
        "add_type_embedding": "encoder.type_embedding.weight" in weights,
    }
    return OFAConfig(**{**fields, **sides["encoder"], **sides["decoder"], **changes})


def _side(weights: Mapping[str, Tensor], side: str) -> dict[str, Any]:
    """The sizes of the encoder or the decoder."""
    return {
        f"{side}_layers": _count(weights, rf"{side}\.layers\.(\d+)\."),
        f"{side}_attention_heads": weights[f"{side}.layers.0.self_attn.c_attn"].shape[0],
        f"{side}_ffn_dim": weights[f"{side}.layers.0.fc1.weight"].shape[0],
        f"{side}_normalize_before": f"{side}.layer_norm.weight" in weights,
    }


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers a pattern finds at the start of keys."""
    return len({found[1] for key in weights if (found := re.match(pattern, key))})
