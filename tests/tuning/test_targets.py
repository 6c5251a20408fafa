"""The maps that LoRA tunes by default are those of the blocks that attend; where there are none, the ones there are get named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers as tf
from torch import nn

from rankscope.errors import UsageError
from rankscope.models.tunings.prefix_live import new_prefix
from rankscope.tuning.kinds import LoraOptions, lora_config

SIZE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MIXED: dict[str, tuple[Callable[[], nn.Module], list[int], str]] = {
    "lfm2": (
        lambda: tf.Lfm2ForCausalLM(
            tf.Lfm2Config(**SIZE, num_key_value_heads=2, layer_types=["conv", "full_attention"])
        ),
        [1],
        "",
    ),
    "bamba": (
        lambda: tf.BambaForCausalLM(
            tf.BambaConfig(
                **SIZE, num_key_value_heads=2, attn_layer_indices=[0], mamba_n_heads=8, mamba_d_head=8, mamba_d_state=4
            )
        ),
        [0],
        "",
    ),
    "deepseek_v2": (
        lambda: tf.DeepseekV2ForCausalLM(
            tf.DeepseekV2Config(
                **SIZE, num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8,
                v_head_dim=8, n_routed_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, n_group=1, topk_group=1,
            )
        ),
        [],
        r"no DeepseekV2DecoderLayer has query.*--lora-targets.*end in down_proj.*kv_b_proj, o_proj, q_proj",
    ),
    "mamba": (
        lambda: tf.MambaForCausalLM(tf.MambaConfig(**SIZE, state_size=4)),
        [],
        r"no MambaBlock has query.*--lora-targets.*end in dt_proj, in_proj, out_proj, x_proj",
    ),
}  # fmt: skip
"""Models with blocks that do not attend, those of their blocks that do, and what is said if none does."""


@pytest.mark.parametrize("name", MIXED)
def test_lora_goes_into_the_blocks_that_attend(name: str) -> None:
    make, blocks, said = MIXED[name]
    model = make()
    if said:
        with pytest.raises(UsageError, match=said):
            lora_config(model, LoraOptions())
        return
    targets = lora_config(model, LoraOptions()).target_modules
    assert targets == {f"model.layers.{i}.self_attn.{part}_proj" for i in blocks for part in "qkv"}
    (shape,) = new_prefix(model).shapes.values()
    assert shape.layers == len(blocks)
