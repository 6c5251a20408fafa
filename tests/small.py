"""Small models of the types that transformers knows, made from each type's own default configuration."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WIDTH, HEADS, LAYERS, PLACES = 32, 4, 4, 128
PIXELS, PATCH = 64, 8
_FILTERS = ("conv_dim", "tdnn_dim")
"""What configurations call the widths of filters, one after another."""
LARGEST = 4_000_000
"""Parameters of the largest model that is built."""

_SMALL: dict[str, int] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "model_dim", "embed_dim",
         "word_embed_proj_dim", "word_embed_dim", "encoder_hidden_size", "decoder_hidden_size", "attention_hidden_size", "lru_width",
         "hidden_dim", "d_embed", "attention_dim", "hidden_size_per_layer_input", "attn_hidden_size", "linear_hidden_size"),
        WIDTH,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
         "num_encoder_attention_heads", "num_decoder_attention_heads", "attention_heads", "num_local_heads"),
        HEADS,
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "num_query_groups"), 2),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
         "num_decoder_layers", "num_encoder_layers", "depth"),
        LAYERS,
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "ffn_hidden_size", "dim_ff",
         "hidden_ff", "moe_intermediate_size", "shared_expert_intermediate_size", "intermediate_dim",
         "moe_shared_expert_intermediate_size", "shared_intermediate_size", "expert_ffn_hidden_size", "mlp_dim"),
        48,
    ),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_seq_length", "max_source_positions",
         "max_target_positions", "max_encoder_position_embeddings", "max_decoder_position_embeddings", "context_length", "seq_length"),
        PLACES,
    ),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_size", "kv_channels", "d_head", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim",), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "mamba_dt_rank", "time_step_rank"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k", "top_k", "num_selected_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    "image_size": PIXELS, "patch_size": PATCH, "rotary_dim": 4, "index_head_dim": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "n_mamba_heads": 4,
    "mamba_num_heads": 8, "mamba_head_dim": 8,
}  # fmt: skip
"""What configurations call the sizes of a model, each with a small one."""


def _each(names: tuple[str, ...], options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same options for several types."""
    return {name: dict(options) for name in names}


_OWN: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "esmc": {"num_key_value_heads": HEADS},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16], "num_hidden_layers": 2, "attn_layers": ["local", "local"],
                 "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16, "attention_head_size": 8, "feed_forward_size": 48},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8},
    **_each(("gemma4", "gemma4_text"), {"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8}),
    **_each(("hunyuan_v1_dense", "ministral"), {"head_dim": 8}),
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 1},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "bailing_hybrid": {"layer_group_size": 2}, "bamba": {"attn_layer_indices": [1]}, "falcon_h1": {"mamba_d_ssm": 64},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1}, "neomme": {"head_dim": 16}, "marian": {"decoder_vocab_size": 320},
    "led": {"attention_window": 8}, "longformer": {"attention_window": 8}, "pegasus_x": {"block_size": 8},
    **_each(("swin", "swinv2"), {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 4],
                               "window_size": 4}),
    **_each(("convnext", "convnextv2", "dinov3_convnext"), {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}),
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 2], "layer_type": "basic"},
    "bit": {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 2], "num_groups": 2},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 2], "groups_width": 8},
    "hiera": {"embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "image_size": [64, 64], "masked_unit_size": [4, 4],
              "query_stride": [2, 2], "num_query_pool": 2, "patch_stride": [4, 4], "patch_size": [7, 7]},
    "poolformer": {"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1]},
    "pvt": {"hidden_sizes": [16, 20, 40, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 5, 8], "image_size": 64},
    **_each(("segformer", "glpn"), {"hidden_sizes": [10, 20, 40, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 5, 8]}),
    "levit": {"hidden_sizes": [16, 24, 40], "depths": [1, 1, 1], "num_attention_heads": [2, 2, 2], "key_dim": [8, 8, 8],
              "image_size": 64, "patch_size": 16},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "num_attention_heads": 2},
    "mobilevitv2": {"width_multiplier": 0.25},
    "focalnet": {"embed_dim": 8, "depths": [1, 1], "hidden_sizes": [16, 16], "focal_levels": [2, 2], "focal_windows": [3, 3],
                 "patch_size": 4},
    "perceiver": {"d_latents": 32, "d_model": 32, "num_latents": 8, "num_self_attends_per_block": 2},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 16}, "mluke": {"entity_vocab_size": 20, "entity_emb_size": 16},
    "roc_bert": {"pronunciation_vocab_size": 40, "shape_vocab_size": 40, "pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    "swiftformer": {"embed_dims": [12, 20, 24, 32], "depths": [1, 1, 1, 1]},
    "moshi": {"audio_vocab_size": 40},
}  # fmt: skip
"""Options of types in which a small size has another name, or sizes depend on each other."""


def shrunk(config: PreTrainedConfig, **more: Any) -> dict[str, Any]:
    """The options with which a configuration of the same class is small; those of inner configurations too."""
    options: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            options[name] = {"model_type": value.model_type, **shrunk(value, **more)}
    plain = config.to_dict()
    for name, value in plain.items():
        if name in _SMALL and isinstance(value, int) and not isinstance(value, bool):
            options[name] = min(_SMALL[name], value) if value > 0 else value
        if name in _FILTERS and isinstance(value, list | tuple):
            options[name] = [min(WIDTH, width) for width in value]
        if name == "rope_parameters" and isinstance(value, dict) and "mrope_section" in value:
            # The parts of a head that are rotated by each coordinate of a position are half of what is rotated.
            half = round(8 * value.get("partial_rotary_factor", 1.0)) // 2
            options[name] = {**value, "mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
    for name, small in _SMALL.items():
        standard = config.attribute_map.get(name)
        if (
            standard
            and isinstance(getattr(config, name, None), int)
            and standard not in options
            and name not in options
        ):
            options[name] = small
    if "qk_rope_head_dim" in plain:  # the width of a head is the sum of its parts, and every head has keys of its own
        options.pop("head_dim", None)
        options |= {"num_key_value_heads": HEADS}
    options |= {name: value for name, value in more.items() if hasattr(config, name)}
    return options | _OWN.get(config.model_type, {})


def small_config(model_type: str, **more: Any) -> PreTrainedConfig:
    """A small configuration of a model type."""
    kind = CONFIG_MAPPING[model_type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind(**shrunk(kind(), **more))


def small_model(config: PreTrainedConfig, opener: Any = AutoModel) -> nn.Module:
    """A model with weights at which every block, mask and position matters; ValueError if it would not be small."""
    with torch.device("meta"):
        size = sum(p.numel() for p in opener.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size} parameters")
    return opener.from_config(config).eval()


def jittered(model: nn.Module) -> nn.Module:
    """The model with its weights moved a little, so that no bias is 0 and no norm does nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model
