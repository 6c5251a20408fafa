"""A prefix of plain PEFT in models whose keys are fewer than their queries, or whose cache is handed on or double."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import small
import tiny
import tiny_seeing
import tiny_vlm
import torch
import transformers as tf
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rankscope.errors import CheckpointError, UsageError
from rankscope.models.load import load_model
from rankscope.models.tunings.prefix import Prefix, PrefixEncoder, PrefixShape
from rankscope.models.tunings.prefix_files import load_prefix, save_prefix
from rankscope.models.tunings.prefix_live import attach_prefix, detach_prefix, new_prefix, prefix_of
from rankscope.models.tunings.prefix_start import Tokens, token_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other

IDS = torch.randint(10, 60, (2, 7), generator=torch.Generator().manual_seed(3))
SIZE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def t5gemma() -> nn.Module:
    part = tf.T5GemmaModuleConfig(**SIZE, num_key_value_heads=2, head_dim=8)
    config = tf.T5GemmaConfig(encoder=part, decoder=part, vocab_size=SIZE["vocab_size"])
    config.decoder_start_token_id = 1
    return tf.T5GemmaForConditionalGeneration(config)


MADE: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "phi3": (lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**SIZE, num_key_value_heads=2)), (2, 8)),
    "eurobert": (
        lambda: tf.EuroBertModel(tf.EuroBertConfig(**SIZE, num_key_value_heads=2, mask_token_id=3)),
        (2, 8),
    ),
    "t5gemma": (t5gemma, (2, 8)),
    "gpt_bigcode": (lambda: tf.GPTBigCodeForCausalLM(tf.GPTBigCodeConfig(**SIZE)), (1, 8)),
    "falcon": (lambda: tf.FalconForCausalLM(tf.FalconConfig(**SIZE, multi_query=True)), (1, 8)),
    "falcon, newer": (
        lambda: tf.FalconForCausalLM(tf.FalconConfig(**SIZE, new_decoder_architecture=True, num_kv_heads=2)),
        (4, 8),
    ),
    "gpt_oss": (
        lambda: tf.GptOssForCausalLM(
            tf.GptOssConfig(**SIZE, num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1)
        ),
        (2, 8),
    ),
}
"""Models, and the heads and width of what their attention keeps."""


@torch.inference_mode()
def says(model: nn.Module, **inputs: Tensor) -> Tensor:
    given = {"input_ids": IDS, **inputs}
    if getattr(model.config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = IDS[:, :4]
    return model(**given)[0]


@pytest.mark.parametrize("name", MADE)
def test_a_prefix_of_plain_peft_is_what_it_was(tmp_path: Path, name: str) -> None:
    make, (heads, width) = MADE[name]
    tiny.spread(make(), 0).save_pretrained(tmp_path / "base")
    auto = {"t5gemma": tf.AutoModelForSeq2SeqLM, "eurobert": tf.AutoModel}.get(name, tf.AutoModelForCausalLM)
    task = {"t5gemma": "SEQ_2_SEQ_LM", "eurobert": "FEATURE_EXTRACTION"}.get(name, "CAUSAL_LM")
    shape = {"num_layers": 2, "num_attention_heads": heads, "token_dim": heads * width}
    config = peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=3, **shape)
    tuned = peft.get_peft_model(auto.from_pretrained(tmp_path / "base"), config).eval()
    torch.nn.init.normal_(tuned.prompt_encoder["default"].embedding.weight)
    tuned.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "a")
    model = load_model(tmp_path / "a")
    assert_close(says(model), says(tuned), rtol=1e-5, atol=2e-5)
    assert (says(model) - says(load_model(tmp_path / "base"))).norm() > 0.05 * says(model).norm()
    prefix = prefix_of(model)
    assert prefix is not None
    assert {(s.heads, s.width) for s in prefix.shapes.values()} == {(heads, width)}


def test_padding_does_not_see_a_prefix_that_is_handed_on() -> None:
    model = tiny.spread(MADE["eurobert"][0](), 0).eval()
    attach_prefix(model, new_prefix(model, rows=3)).eval()
    mask = torch.ones_like(IDS)
    mask[0, 4:] = 0
    padded, alone = says(model, attention_mask=mask), says(model, input_ids=IDS[:1, :4])
    assert_close(padded[:1, :4], alone, rtol=1e-5, atol=1e-5)


def small_decoder(model_type: str, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    config = small.small_config(model_type, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more)
    return small.jittered(small.small_model(config, tf.AutoModelForCausalLM))


@pytest.mark.parametrize(
    "model_type", ["qwen3_next", "jamba", "bamba", "recurrent_gemma", "bailing_hybrid", "olmo_hybrid"]
)
def test_a_prefix_joins_the_blocks_that_attend_and_no_others(model_type: str) -> None:
    """Beside linear attention, Mamba and convolutions the prefix is in the attentions alone, and generating is forward."""
    model = small_decoder(model_type)
    plain = says(model)
    prefix = attach_prefix(model, new_prefix(model, rows=4))
    model.eval()  # without the dropout of the rows
    (shape,) = prefix.shapes.values()
    assert 0 < shape.layers < model.config.num_hidden_layers
    live = says(model)
    assert not torch.allclose(live, plain, rtol=1e-2, atol=1e-2)
    # A row sees the prefix and what is before it: the first rows do not depend on those that follow.
    assert_close(says(model, input_ids=IDS[:, :4]), live[:, :4], rtol=1e-4, atol=1e-4)
    said = model.generate(IDS, max_new_tokens=3, do_sample=False, eos_token_id=-1)
    assert torch.equal(says(model, input_ids=said[:, :-1])[:, -1].argmax(-1), said[:, -1])
    detach_prefix(model)
    assert_close(says(model), plain)


def test_git_sees_the_rows_before_image_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attention by hand: the rows, the image and the text, of which the first are seen by all."""
    torch.manual_seed(0)
    model = tiny.spread(tiny_seeing.git().model, 0).eval()
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    shown = {"pixel_values": torch.randn(2, 3, 32, 32), "attention_mask": mask}
    plain = says(model, **shown)
    prefix = attach_prefix(model, new_prefix(model, rows=3)).eval()
    live, tables = says(model, **shown), prefix.tables()["decoder"].view(3, 3, 2, 4, 8)
    detach_prefix(model)
    assert torch.equal(says(model, **shown), plain)

    def by_hand(module: Any, hidden: Tensor, attention_mask: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        query, key, value = (
            getattr(module, name)(hidden).view(2, -1, 4, 8).transpose(1, 2) for name in ("query", "key", "value")
        )
        # (n, heads, width) rows of this layer; they are the same for both samples.
        keys, values = (tables[:, module.layer_idx, i].transpose(0, 1).expand(2, -1, -1, -1) for i in (0, 1))
        scores = torch.cat([query @ keys.mT, query @ key.mT + 8**0.5 * attention_mask], -1) / 8**0.5
        return (scores.softmax(-1) @ torch.cat([values, value], 2)).transpose(1, 2).flatten(2), None

    monkeypatch.setattr(type(model.git.encoder.layer[0].attention.self), "forward", by_hand)
    assert_close(says(model, **shown), live, rtol=1e-5, atol=1e-5)
    assert (live - plain).norm() > 0.05 * plain.norm()


@pytest.mark.parametrize("name", ["git", "gemma3", "paligemma"])
def test_a_prefix_of_plain_peft_is_refused_where_masks_are_made_outside(tmp_path: Path, name: str) -> None:
    """There plain PEFT moves the mask of the image along with the text, which a prefix that is joined does not."""
    (tiny_vlm if name in tiny_vlm.FAMILIES else tiny_seeing).save_base(name, tmp_path / "base")
    model = load_model(tmp_path / "base")
    (shape,) = new_prefix(model, rows=3).shapes.values()
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, num_layers=shape.layers, num_attention_heads=shape.heads,
        token_dim=shape.heads * shape.width, base_model_name_or_path=str(tmp_path / "base"),
    )  # fmt: skip
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match="has none in which it would be what PEFT makes of it"):
        load_model(tmp_path / "a")


def test_an_attention_that_computes_by_itself_and_takes_no_cache_is_refused() -> None:
    model = small.small_model(small.small_config("deberta", vocab_size=64))
    names = list(model.state_dict())
    with pytest.raises(UsageError, match="computes its attention by itself, so that a prefix cannot join it"):
        attach_prefix(model, new_prefix(model, rows=3))
    assert list(model.state_dict()) == names


NOT_LATENT = {
    "bailing_hybrid": "has linear attention too, whose state a prefix does not bring along",
    **dict.fromkeys(("dots3_note", "dots3_note_text", "kimi_linear"), "is not small at sizes given from outside"),
    "longcat_flash": "has two attentions in a block",
}
"""Models with latent attention that are not in the sweep, and why."""
LATENT = sorted(
    name
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if name not in NOT_LATENT
    and (code := Path(tf.__file__).parent / "models" / name / f"modeling_{name}.py").is_file()
    and "kv_a_proj_with_mqa" in code.read_text()
)
"""Those that make keys and values of one latent (MLA), by transformers' code."""


@pytest.mark.parametrize("model_type", LATENT)
def test_a_prefix_made_of_a_text_is_that_text_where_values_are_narrower(model_type: str, tmp_path: Path) -> None:
    """Latent attention: rows of keys and values as every head sees them are what a text read before would have given."""
    model, before = small_decoder(model_type), list(small_decoder(model_type).state_dict())
    want = says(model)[:, 5:]
    prefix = new_prefix(model, rows=5, encoder=PrefixEncoder(given_start=True))
    (shape,) = prefix.shapes.values()
    assert (shape.width, shape.value_width) == (16, 8)
    assert [t.shape for t in prefix.tables().values()] == [(5, shape.layers * shape.heads * (16 + 8))]
    prefix.start_at(token_rows(model, prefix, [Tokens({"input_ids": IDS[:1, :5]}, {})]))
    attach_prefix(model, prefix).eval()
    rest = {
        "input_ids": IDS[:1, 5:],
        "position_ids": torch.tensor([[5, 6]]),
    }  # a prefix that is joined takes no position
    assert_close(says(model, **rest), want[:1], rtol=1e-5, atol=1e-5)
    live = says(model)
    said = model.generate(IDS, max_new_tokens=3, do_sample=False, eos_token_id=-1)
    assert torch.equal(says(model, input_ids=said[:, :-1])[:, -1].argmax(-1), said[:, -1])
    save_prefix(prefix, tmp_path, model=model, base=None)
    assert sorted(load_file(tmp_path / "adapter_model.safetensors")) == ["rankscope_prefix.decoder"]
    detach_prefix(model)
    assert list(model.state_dict()) == before
    attach_prefix(model, load_prefix(tmp_path, model)).eval()
    assert_close(says(model), live, rtol=1e-5, atol=1e-5)


def test_values_may_be_narrower_in_a_cache_too(tmp_path: Path) -> None:
    layers = ["full_attention"] * small.LAYERS
    model = small_decoder("mimo_v2_flash", layer_types=layers, v_head_dim=4)
    prefix = new_prefix(model, rows=5, encoder=PrefixEncoder(given_start=True))
    assert prefix.shapes == {"decoder": PrefixShape(small.LAYERS, 2, 8, 4)}
    want = says(model)[:, 5:]
    prefix.start_at(token_rows(model, prefix, [Tokens({"input_ids": IDS[:1, :5]}, {})]))
    attach_prefix(model, prefix).eval()
    assert_close(says(model, input_ids=IDS[:1, 5:]), want[:1], rtol=1e-5, atol=1e-5)
    save_prefix(prefix, tmp_path, model=model, base=None)
    assert json.loads((tmp_path / "prefix.json").read_text())["peft_stack"] is None  # PEFT's are equally wide


def test_a_shape_of_equal_widths_is_stored_as_before() -> None:
    about = Prefix({"decoder": PrefixShape(2, 4, 8)}, rows=3).about()
    assert about["stacks"] == {"decoder": {"layers": 2, "heads": 4, "width": 8}}


def test_the_sweep_of_latent_attention_is_as_large_as_it_says() -> None:
    assert len(LATENT) >= 9
