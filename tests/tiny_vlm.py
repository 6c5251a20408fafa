"""Tiny random checkpoints of the vision–language models that people use now, saved by plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers as tf
from torch import nn


@dataclass(frozen=True)
class Family:
    """How a family is built, and what PEFT tunes in it."""

    build: Callable[[], tuple[nn.Module, Any]]
    targets: tuple[str, ...]
    """Linear maps that LoRA tunes."""
    generates_after: bool
    """Whether what is said goes on after the prompt, rather than in a decoder of its own."""


QWEN_WORDS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def _size() -> dict[str, int]:
    return {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}


def qwen2_vl() -> tuple[nn.Module, Any]:
    """Qwen2-VL: patches of any number of images in one list, 2 × 2 of them a token."""
    tok = tiny.tokenizer("$A", extra=QWEN_WORDS, **tiny.GPT2)
    start, end, image, video = tok.convert_tokens_to_ids(list(QWEN_WORDS))
    text = {
        "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}, **tiny._ends(tok),
    }  # fmt: skip
    vision = {
        "depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
    }  # fmt: skip
    config = tf.Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video, vision_start_token_id=start,
        vision_end_token_id=end,
    )  # fmt: skip
    images = tf.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 1024}
    )
    return tf.Qwen2VLForConditionalGeneration(config), (images, tok)


def paligemma() -> tuple[nn.Module, Any]:
    """PaliGemma: image and prompt see each other, what is said sees what is before it."""
    tok = tiny.tokenizer("$A", extra=("<image>",), **tiny.LLAMA)
    images = tf.SiglipImageProcessorPil(size=_size())
    images.image_seq_length = (tiny.IMAGE_SIZE // tiny.PATCH) ** 2
    tok.image_token, tok.image_token_id = "<image>", tok.convert_tokens_to_ids("<image>")
    processor = tf.PaliGemmaProcessor(images, tok)
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": tiny.IMAGE_SIZE, "patch_size": tiny.PATCH, "vision_use_head": False,
    }  # fmt: skip
    text = {
        "model_type": "gemma", "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128,
        **tiny._ends(tok),
    }  # fmt: skip
    config = tf.PaliGemmaConfig(
        vision_config=vision, text_config=text, projection_dim=32, image_token_index=tok.image_token_id
    )
    return tf.PaliGemmaForConditionalGeneration(config), processor


def florence2() -> tuple[nn.Module, Any]:
    """Florence-2: BART reads the image's rows and the prompt."""
    locations = tuple(f"<loc_{i}>" for i in range(4))
    tok = tiny.tokenizer("<s> $A </s>", extra=("<image>", *locations), **tiny.BART)
    named = {"image_token": "<image>"}
    tok = tf.PreTrainedTokenizerFast(tokenizer_object=tok._tokenizer, extra_special_tokens=named, **tiny.BART)
    vision = {
        "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
        "patch_prenorm": [False, True], "embed_dim": [8, 16], "num_heads": [2, 2], "num_groups": [2, 2],
        "window_size": 2, "projection_dim": 32, "max_temporal_embeddings": 4, "max_position_embeddings": 8,
        "drop_path_rate": 0.0,
    }  # fmt: skip
    text = {
        "model_type": "bart", "vocab_size": len(tok), "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
        "max_position_embeddings": 128, "decoder_start_token_id": tok.eos_token_id, "forced_eos_token_id": None,
        **tiny._ends(tok),
    }  # fmt: skip
    config = tf.Florence2Config(text_config=text, vision_config=vision, image_token_id=tok.image_token_id)
    images = tf.CLIPImageProcessorPil(size=_size(), crop_size=_size())
    images.image_seq_length = (tiny.IMAGE_SIZE // 8) ** 2 + 1
    processor = tf.Florence2Processor(images, tok)
    return tf.Florence2ForConditionalGeneration(config), processor


FAMILIES: dict[str, Family] = {
    "llava": Family(tiny.llava, ("q_proj", "v_proj"), True),
    "qwen2-vl": Family(qwen2_vl, ("q_proj", "v_proj"), True),
    "paligemma": Family(paligemma, ("q_proj", "v_proj"), True),
    "florence2": Family(florence2, ("q_proj", "v_proj"), False),
}


def save_base(name: str, folder: Path, *, seed: int = 0) -> Path:
    """A complete random checkpoint of the family, in ``folder``."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[name].build()
    tiny.spread(model, seed).save_pretrained(folder)
    for part in processor if isinstance(processor, tuple) else (processor,):
        part.save_pretrained(folder)
    return folder
