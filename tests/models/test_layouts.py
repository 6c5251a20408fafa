"""Families whose tensors lie otherwise than usual: each site is the hidden state that plain transformers returns for one text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small
import tiny
import torch
import transformers as tf
from torch import Tensor

import rankscope
from rankscope.errors import CheckpointError
from rankscope.models.stacks import stacks
from rankscope.sites import Site

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
XLM = {"emb_dim": 32, "n_heads": 4, "n_layers": 3, "n_langs": 1, "max_position_embeddings": 64}
RELATIVE = {
    **SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm",
    "max_relative_positions": 16, "position_biased_input": False,
}  # fmt: skip
LFM2 = {**SMALL, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 8}
ROBERTA = {**SMALL, "max_position_embeddings": 130}
BUILDS: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "xlnet": ("XLNetConfig", "XLNetModel", {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48}, ()),
    "xlm": ("XLMConfig", "XLMWithLMHeadModel", XLM, ()),
    "flaubert": ("FlaubertConfig", "FlaubertModel", XLM, ()),
    "albert": ("AlbertConfig", "AlbertModel", {**SMALL, "embedding_size": 16}, ()),
    "albert-groups": (
        "AlbertConfig", "AlbertModel",
        {**SMALL, "embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}, (),
    ),
    "deberta-v2": ("DebertaV2Config", "DebertaV2Model", RELATIVE, ()),
    "megatron-bert": ("MegatronBertConfig", "MegatronBertModel", SMALL, ("final",)),
    "esm": ("EsmConfig", "EsmModel", {**ROBERTA, "position_embedding_type": "rotary"}, ("final",)),
    "lfm2": ("Lfm2Config", "Lfm2ForCausalLM", LFM2, ("final",)),
    "rwkv": ("RwkvConfig", "RwkvModel", {"hidden_size": 32, "num_hidden_layers": 3, "context_length": 64}, ("final",)),
    "longformer": ("LongformerConfig", "LongformerModel", {**ROBERTA, "attention_window": 8}, ()),
}  # fmt: skip


def data(path: Path) -> Path:
    """As many texts as there are, one of them twice as long."""
    path.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(tiny.SENTENCES)))
    return path


@torch.no_grad()
def told(model: Any, tok: Any, **more: Any) -> list[list[Tensor]]:
    """For each text by itself, the hidden states that plain transformers returns."""
    made = []
    for text in tiny.SENTENCES:
        ids = tok(text, return_tensors="pt")["input_ids"]
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **more)
        made.append([state[0] for state in out.hidden_states])
    return made


@pytest.mark.parametrize("name", BUILDS)
def test_each_site_is_the_hidden_state_that_the_model_returns(tmp_path: Path, name: str) -> None:
    config, cls, options, ends = BUILDS[name]
    tok = tiny.tokenizer("<s> $A </s>", **tiny.BART)
    torch.manual_seed(0)
    made = getattr(tf, config)(vocab_size=len(tok), pad_token_id=tok.pad_token_id, **options)
    tiny.spread(getattr(tf, cls)(made), 0).save_pretrained(tmp_path / "m")
    tok.save_pretrained(tmp_path / "m")
    model = getattr(tf, cls).from_pretrained(tmp_path / "m").eval()
    run = rankscope.collect(
        tmp_path / "m", data(tmp_path / "d.jsonl"), rows="tokens", keep_special=True, out=tmp_path / "r.pt"
    )
    states = told(model, tok)
    if name == "rwkv":  # which returns the outputs of its blocks, and not what goes into the first
        ids = [tok(text, return_tensors="pt")["input_ids"] for text in tiny.SENTENCES]
        states = [[model.embeddings(i)[0].detach(), *each] for i, each in zip(ids, states, strict=True)]
        assert len(states[0]) == 5
        states = [[*each[:3], each[4]] for each in states]
    (stack,) = {site.stack for site in run.sites}
    blocks = len(states[0]) - 1
    assert [site.point for site in run.sites] == ["embed", *map(str, range(blocks)), *ends]
    for site in run.sites:
        if ends and site.point == str(blocks - 1):
            continue  # transformers returns it normed only
        at = 0 if site.point == "embed" else blocks if site.point == "final" else int(site.point) + 1
        want = torch.cat([state[at] for state in states])
        torch.testing.assert_close(run.features(Site(stack, site.point)), want, rtol=1e-5, atol=2e-5)


def test_the_layouts_are_all_swept() -> None:
    assert len(BUILDS) == 11


def test_the_decoder_of_an_encoder_decoder_model_is_a_decoder() -> None:
    kw = {"vocab_size": 60, **SMALL}
    config = tf.EncoderDecoderConfig.from_encoder_decoder_configs(
        tf.BertConfig(**kw), tf.BertConfig(**kw, is_decoder=True, add_cross_attention=True)
    )
    model = tf.EncoderDecoderModel(config)
    there = stacks(model)
    assert {name: stack.columns for name, stack in there.items()} == {"encoder": "text", "decoder": "target"}
    assert there["decoder"].blocks == tuple(model.decoder.bert.encoder.layer)


def convnext() -> Any:
    """A ConvNeXt whose grids are as wide as it has channels."""
    torch.manual_seed(0)
    config = tf.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, patch_size=4, image_size=32)
    return tiny.spread(tf.ConvNextModel(config), 0).eval()


def test_the_stages_of_a_network_of_convolutions_are_stacks_of_their_own(tmp_path: Path) -> None:
    model, x = convnext(), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        states = model(x, output_hidden_states=True).hidden_states
    run = rankscope.collect(model, x, rows="tokens", keep_special=True, out=tmp_path / "r.pt")
    assert [str(site) for site in run.sites] == ["stage0.output", "stage1.output"]
    for site, state in zip(run.sites, states[1:], strict=True):
        torch.testing.assert_close(run.features(site), state.movedim(1, -1).reshape(-1, 8), rtol=1e-5, atol=2e-5)


def test_a_grid_with_as_many_columns_as_a_stage_is_wide_is_not_guessed(tmp_path: Path) -> None:
    config = small.small_config("mobilevit")
    model, x = small.jittered(small.small_model(config)), torch.randn(2, 3, 64, 64)
    with pytest.raises(
        CheckpointError, match=r"stage2.output cannot be read: its shape is \(1, 16, 8, 8\), and which of these are"
    ):
        rankscope.collect(model, x, sites="stage2.output", out=tmp_path / "r.pt")
    run = rankscope.collect(model, x[..., :48, :48], sites="stage2.output", rows="mean", out=tmp_path / "r.pt")
    with torch.no_grad():
        want = model(x[..., :48, :48], output_hidden_states=True).hidden_states[2].mean((2, 3))
    torch.testing.assert_close(run.features("stage2.output"), want, rtol=1e-5, atol=2e-5)


def test_columns_of_a_tower_that_are_not_its_patches_alone_are_said_to_be_unnamed(tmp_path: Path) -> None:
    model = small.jittered(small.small_model(small.small_config("yolos")))  # which adds a hundred detection tokens
    model.save_pretrained(tmp_path / "m")
    tf.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "m")
    (tmp_path / "d").mkdir()
    tiny.picture(0).save(tmp_path / "d" / "0.png")
    run = rankscope.collect(tmp_path / "m", tmp_path / "d", rows="image", out=tmp_path / "r.pt")
    assert run.features("encoder.0").shape == (1 + 64 + 100, 32)
    assert "which columns of encoder are patches is not known; all are read as image" in run.manifest.notes
