"""Tiny random checkpoints of today's vision–language models, saved by plain transformers as their makers publish them.

Image processors are those on PIL, and processors with a part for videos are saved without it, because that part needs torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tiny
import torch
import transformers as tf
from torch import nn

S, P = 32, 8
"""Pixels along the side of an image, and of a patch."""
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "image_size": S, "patch_size": P, "projection_dim": 16,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "image_size": S, "patch_size": P, "vision_use_head": False,
}  # fmt: skip
TOWER, IDEFICS_TOWER = "model.vision_tower.encoder.layers", "model.vision_model.encoder.layers"
TILED = {k: v for k, v in SIGLIP.items() if k not in ("model_type", "vision_use_head")}


class Made(NamedTuple):
    """A model, and what reads images and texts for it."""

    model: nn.Module
    parts: tuple[Any, ...]
    """A processor, or its parts."""
    placeholder: str
    """What stands in the text for an image, as the processor wants it."""
    rows: str
    """The token whose rows are the image's; empty if the text has none."""
    blocks: str
    """Where the vision tower's blocks are."""
    settings: dict[str, Any] | None = None
    """What ``processor_config.json`` says where there are only parts."""


def text(tok: Any, **more: Any) -> dict[str, Any]:
    """A small language model's configuration."""
    return {
        "vocab_size": len(tok), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        **{name: i for name, i in tiny._ends(tok).items() if i is not None}, **more,
    }  # fmt: skip


def named(tok: Any, specials: dict[str, str], **names: str) -> Any:
    """A tokenizer that knows some of its tokens by name."""
    return tf.PreTrainedTokenizerFast(tokenizer_object=tok._tokenizer, extra_special_tokens=names, **specials)


def square() -> dict[str, int]:
    return {"height": S, "width": S}


def _qwen(kind: str, more: dict[str, Any]) -> Made:
    words = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tok = tiny.tokenizer("$A", extra=words, **tiny.GPT2)
    start, end, image, video = tok.convert_tokens_to_ids(list(words))
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}
    vision = {
        "depth": 4, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
        **({"deepstack_visual_indexes": [1, 2]} if kind == "Qwen3VL" else {}),
    }  # fmt: skip
    config = getattr(tf, f"{kind}Config")(
        text_config=text(tok, head_dim=8, rope_parameters=rope, **more), vision_config=vision, image_token_id=image,
        video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    images = tf.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 1024}
    )
    placed = f"{words[0]}{words[2]}{words[1]}"
    return Made(
        getattr(tf, f"{kind}ForConditionalGeneration")(config),
        (images, tok),
        placed,
        words[2],
        "model.visual.blocks",
        {},
    )


def qwen3_vl() -> Made:
    return _qwen("Qwen3VL", {})


def qwen3_5() -> Made:
    linear = {
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    }  # fmt: skip
    return _qwen("Qwen3_5", linear)


def gemma3() -> Made:
    tok = tiny.tokenizer("$A", extra=("<start_of_image>", "<end_of_image>", "<image_soft_token>"), **tiny.LLAMA)
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tok = named(tok, tiny.LLAMA, **names)
    begin, end, image = tok.convert_tokens_to_ids(list(names.values()))
    config = tf.Gemma3Config(
        vision_config=SIGLIP,
        text_config={"model_type": "gemma3_text", **text(tok, head_dim=8, sliding_window=16)},
        boi_token_index=begin, eoi_token_index=end, image_token_index=image, mm_tokens_per_image=4,
    )  # fmt: skip
    processor = tf.Gemma3Processor(tf.Gemma3ImageProcessorPil(size=square()), tok, image_seq_length=4)
    return Made(
        tf.Gemma3ForConditionalGeneration(config), (processor,), "<start_of_image>", "<image_soft_token>", TOWER
    )


def internvl() -> Made:
    names = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tok = named(tiny.tokenizer("$A", extra=tuple(names.values()), **tiny.GPT2), tiny.GPT2, **names)
    vision = {**TILED, "image_size": [S, S], "patch_size": [P, P]}
    config = tf.InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen2", **text(tok)}, image_seq_length=4,
        image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )  # fmt: skip
    images = tf.GotOcr2ImageProcessorPil(size=square(), crop_to_patches=True, min_patches=1, max_patches=4)
    return Made(
        tf.InternVLForConditionalGeneration(config), (images, tok), "<IMG_CONTEXT>", "<IMG_CONTEXT>",
        "model.vision_tower.encoder.layer", {"image_seq_length": 4},
    )  # fmt: skip


IDEFICS = (
    "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>",
    *[f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5)],
)  # fmt: skip


def _idefics(kind: str) -> tuple[Any, Any, Any]:
    names = dict(zip(("fake_image_token", "image_token", "end_of_utterance_token"), IDEFICS, strict=False))
    tok = named(tiny.tokenizer("<s> $A", extra=IDEFICS, **tiny.LLAMA), tiny.LLAMA, **names)
    config = getattr(tf, f"{kind}Config")(
        vision_config=TILED, text_config={"model_type": "llama", **text(tok)}, scale_factor=2,
        image_token_id=tok.convert_tokens_to_ids("<image>"), pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    images = getattr(tf, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 2 * S}, max_image_size={"longest_edge": S}, do_image_splitting=True
    )
    return getattr(tf, f"{kind}ForConditionalGeneration")(config), images, tok


def smolvlm() -> Made:
    model, images, tok = _idefics("SmolVLM")
    return Made(model, (images, tok), "<image>", "<image>", IDEFICS_TOWER, {"image_seq_len": 4})


def idefics3() -> Made:
    model, images, tok = _idefics("Idefics3")
    return Made(model, (tf.Idefics3Processor(images, tok, image_seq_len=4),), "<image>", "<image>", IDEFICS_TOWER)


def mistral3() -> Made:
    words = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    tok = tiny.tokenizer("<s> $A", extra=words, **tiny.LLAMA)
    vision = {**TILED, "model_type": "pixtral", "hidden_size": 32, "image_size": 2 * S}
    config = tf.Mistral3Config(
        vision_config=vision, text_config={"model_type": "mistral", **text(tok, head_dim=8)}, spatial_merge_size=2,
        image_token_index=tok.convert_tokens_to_ids("[IMG]"),
    )  # fmt: skip
    images = tf.PixtralImageProcessorPil(size={"longest_edge": 2 * S}, patch_size={"height": P, "width": P})
    return Made(
        tf.Mistral3ForConditionalGeneration(config), (images, tok), "[IMG]", "[IMG]",
        "model.vision_tower.transformer.layers", {"patch_size": P, "spatial_merge_size": 2},
    )  # fmt: skip


def mllama() -> Made:
    tok = tiny.tokenizer("<s> $A", extra=("<|image|>", "<|python_tag|>"), **tiny.LLAMA)
    tok = named(tok, tiny.LLAMA, image_token="<|image|>")
    vision = {
        "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_global_layers": 2, "attention_heads": 4,
        "image_size": S, "patch_size": P, "max_num_tiles": 4, "intermediate_layers_indices": [0, 1],
        "vision_output_dim": 72,
    }  # fmt: skip
    config = tf.MllamaConfig(
        vision_config=vision, image_token_index=tok.convert_tokens_to_ids("<|image|>"),
        text_config=text(tok, cross_attention_layers=[1], rope_parameters={"rope_type": "default", "rope_theta": 1e4}),
    )  # fmt: skip
    images = tf.MllamaImageProcessorPil(size=square(), max_image_tiles=4)
    return Made(
        tf.MllamaForConditionalGeneration(config), (tf.MllamaProcessor(images, tok),), "<|image|>", "",
        "model.vision_model.transformer.layers",
    )  # fmt: skip


def aya_vision() -> Made:
    words = ("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE_GLOBAL", "TILE")
    tok = tiny.tokenizer("<s> $A", extra=words, **tiny.LLAMA)
    config = tf.AyaVisionConfig(
        vision_config=SIGLIP, text_config={"model_type": "cohere2", **text(tok, head_dim=8, sliding_window=64)},
        image_token_index=tok.convert_tokens_to_ids("<|IMG_PATCH|>"), downsample_factor=2,
    )  # fmt: skip
    images = tf.GotOcr2ImageProcessorPil(size=square(), crop_to_patches=True, min_patches=1, max_patches=4)
    processor = tf.AyaVisionProcessor(images, tok, patch_size=P, img_size=S, downsample_factor=2)
    return Made(tf.AyaVisionForConditionalGeneration(config), (processor,), "<image>", "<|IMG_PATCH|>", TOWER)


def llava_next() -> Made:
    tok = tiny.tokenizer("<s> $A", extra=("<image>",), **tiny.LLAMA)
    pins = [[S, 2 * S], [2 * S, S], [2 * S, 2 * S]]
    images = tf.LlavaNextImageProcessorPil(size={"shortest_edge": S}, crop_size=square(), image_grid_pinpoints=pins)
    config = tf.LlavaNextConfig(
        vision_config=CLIP, text_config={"model_type": "mistral", **text(tok, head_dim=8)}, image_grid_pinpoints=pins,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = tf.LlavaNextProcessor(
        images, tok, patch_size=P, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return Made(tf.LlavaNextForConditionalGeneration(config), (processor,), "<image>", "<image>", TOWER)


def llava_onevision() -> Made:
    tok = tiny.tokenizer("$A", extra=("<image>", "<video>"), **tiny.GPT2)
    pins = [[S, S], [S, 2 * S], [2 * S, S], [2 * S, 2 * S]]
    image, video = tok.convert_tokens_to_ids(["<image>", "<video>"])
    config = tf.LlavaOnevisionConfig(
        vision_config=SIGLIP, text_config={"model_type": "qwen2", **text(tok)}, image_token_index=image,
        video_token_index=video, image_grid_pinpoints=pins, vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    images = tf.LlavaOnevisionImageProcessorPil(size=square(), image_grid_pinpoints=pins)
    settings = {"num_image_tokens": (S // P) ** 2, "vision_feature_select_strategy": "full"}
    return Made(tf.LlavaOnevisionForConditionalGeneration(config), (images, tok), "<image>", "<image>", TOWER, settings)


def kosmos2() -> Made:
    tok = tiny.tokenizer("<s> $A </s>", **tiny.BART)
    images = tf.CLIPImageProcessorPil(size=square(), crop_size=square())
    processor = tf.Kosmos2Processor(images, tok, num_patch_index_tokens=4)
    vision = {k: v for k, v in TILED.items() if k != "model_type"}
    config = tf.Kosmos2Config(
        vision_config=vision, latent_query_num=64,
        text_config={
            "vocab_size": len(tok), "embed_dim": 32, "ffn_dim": 48, "layers": 3, "attention_heads": 4,
            "max_position_embeddings": 256, "dropout": 0.0, **tiny._ends(tok),
        },
    )  # fmt: skip
    return Made(tf.Kosmos2ForConditionalGeneration(config), (processor,), "", "", "vision_model.model.encoder.layers")


def git() -> Made:
    tok = tiny.tokenizer("[CLS] $A [SEP]", **tiny.BERT)
    images = tf.CLIPImageProcessorPil(size=square(), crop_size=square())
    vision = {k: v for k, v in TILED.items() if k != "model_type"}
    config = tf.GitConfig(
        vision_config=vision, vocab_size=len(tok), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=128, pad_token_id=tok.pad_token_id, bos_token_id=tok.cls_token_id,
        eos_token_id=tok.sep_token_id,
    )  # fmt: skip
    model = tf.GitForCausalLM(config)
    return Made(model, (tf.GitProcessor(images, tok),), "", "", "git.image_encoder.vision_model.encoder.layers")


def blip() -> Made:
    tok = tiny.tokenizer("[CLS] $A [SEP]", extra=("[DEC]",), **tiny.BERT)
    text_config = {
        "vocab_size": len(tok), "hidden_size": 32, "encoder_hidden_size": 24, "intermediate_size": 48,
        "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 128, "projection_dim": 16,
        "pad_token_id": tok.pad_token_id, "sep_token_id": tok.sep_token_id, "eos_token_id": tok.sep_token_id,
        "bos_token_id": tok.convert_tokens_to_ids("[DEC]"),
    }  # fmt: skip
    config = tf.BlipConfig(text_config=text_config, vision_config=TILED, projection_dim=16)
    processor = tf.BlipProcessor(tf.BlipImageProcessorPil(size=square()), tok)
    return Made(tf.BlipForConditionalGeneration(config), (processor,), "", "", "vision_model.encoder.layers")


def save_blip_answerer(folder: Path) -> None:
    """A question answerer of BLIP, which has an encoder for the question and a decoder for the answer."""
    torch.manual_seed(0)
    made = blip()
    config = made.model.config
    config.vision_config.hidden_size = config.text_config.encoder_hidden_size = 32  # the answer reads the question
    tiny.spread(tf.BlipForQuestionAnswering(config), 0).save_pretrained(folder)
    made.parts[0].save_pretrained(folder)


FAMILIES: dict[str, Callable[[], Made]] = {
    "qwen3-vl": qwen3_vl,
    "qwen3.5": qwen3_5,
    "gemma3": gemma3,
    "internvl": internvl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "mistral3": mistral3,
    "mllama": mllama,
    "aya-vision": aya_vision,
    "llava-next": llava_next,
    "llava-onevision": llava_onevision,
    "kosmos2": kosmos2,
    "git": git,
    "blip": blip,
}


def save_base(name: str, folder: Path, *, seed: int = 0) -> Made:
    """A complete random checkpoint of the family, in ``folder``."""
    torch.manual_seed(seed)
    made = FAMILIES[name]()
    tiny.spread(made.model, seed).save_pretrained(folder)
    for part in made.parts:
        part.save_pretrained(folder)
    if made.settings is not None:
        (folder / "processor_config.json").write_text(json.dumps(made.settings))
    return made
