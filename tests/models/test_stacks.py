"""Stacks: found in the table or by structure, the same inside whatever wraps the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers as tf
from tapped import recorded
from torch import Tensor, nn

from rankscope.models.families import FAMILIES
from rankscope.models.inputs.patches import patch_roles
from rankscope.models.load import load_model
from rankscope.models.stacks import own_modules, search, stacks, taps, unwrapped
from rankscope.sites import Site, describe

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other

SMALL = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
KV = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
OLD = {"vocab_size": 60, "n_embd": 16, "n_layer": 3, "n_head": 2}
PAIR = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "pad_token_id": 1,
}  # fmt: skip
IMAGES = {**SMALL, "image_size": 16, "patch_size": 8}
MORE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mistral": ("MistralConfig", "MistralForCausalLM", KV),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", KV),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", KV),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", KV),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", KV),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", KV),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", KV),
    "phi": ("PhiConfig", "PhiForCausalLM", SMALL),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", SMALL),
    "gpt_neo": ("GPTNeoConfig", "GPTNeoForCausalLM", {
        "vocab_size": 60, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
    }),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", {**OLD, "rotary_dim": 4}),
    "bloom": ("BloomConfig", "BloomForCausalLM", {"vocab_size": 60, "hidden_size": 16, "n_layer": 3, "n_head": 2}),
    "roberta": ("RobertaConfig", "RobertaModel", SMALL),
    "electra": ("ElectraConfig", "ElectraModel", {**SMALL, "embedding_size": 16}),
    "distilbert": ("DistilBertConfig", "DistilBertModel", {
        "vocab_size": 60, "dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 2,
    }),
    "albert": ("AlbertConfig", "AlbertModel", {**SMALL, "embedding_size": 8}),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", PAIR),
    "mt5": ("MT5Config", "MT5ForConditionalGeneration", {
        "vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 2,
    }),
    "dinov2": ("Dinov2Config", "Dinov2Model", {k: v for k, v in IMAGES.items() if k != "vocab_size"}),
    "siglip_vision_model": ("SiglipVisionConfig", "SiglipVisionModel", {k: v for k, v in IMAGES.items() if k != "vocab_size"}),
    "deit": ("DeiTConfig", "DeiTModel", {k: v for k, v in IMAGES.items() if k != "vocab_size"}),
}  # fmt: skip
"""Further models, some of them not in the table, so that they are found by their structure."""


def built(name: str) -> Any:
    config, model, options = MORE[name]
    torch.manual_seed(0)
    return tiny.spread(getattr(tf, model)(getattr(tf, config)(**options)), 0).eval()


@pytest.mark.parametrize("name", [n for n in MORE if n != "albert"])
@torch.inference_mode()
def test_further_models_give_their_hidden_states(name: str) -> None:
    model = built(name)
    inputs: dict[str, Tensor] = {"input_ids": torch.tensor([[5, 9, 11, 3]])}
    if model.main_input_name == "pixel_values":
        inputs = {"pixel_values": torch.randn(1, 3, 16, 16)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[2, 7, 8]])
    out = model(**inputs, output_hidden_states=True)
    found = recorded(model, inputs)
    assert found.keys() == set(taps(model))
    for stack in stacks(model).values():
        prefix = f"{stack.name}_" if model.config.is_encoder_decoder else ""
        states = out[f"{prefix}hidden_states"]
        assert len(states) == len(stack.blocks) + 1
        for point, state in zip(["embed", *map(str, range(len(stack.blocks) - 1))], states, strict=False):
            torch.testing.assert_close(found[Site(stack.name, point)], state)
        if stack.final is None:
            torch.testing.assert_close(found[Site(stack.name, str(len(stack.blocks) - 1))], states[-1])
        else:
            last = (
                out["encoder_last_hidden_state"] if prefix == "encoder_" else out.get("last_hidden_state", states[-1])
            )
            torch.testing.assert_close(found[Site(stack.name, "final")], last)
        assert stack.width == 16
        if stack.columns == "patches":
            assert len(patch_roles(stack, inputs["pixel_values"][0])) == states[0].shape[1]


def test_some_of_them_are_found_by_structure() -> None:
    assert {name for name in MORE if name not in FAMILIES} == {"phi", "deit"}


@pytest.mark.parametrize("name", [n for n in tiny.FAMILIES if n not in ("clip", "blip2-opt", "blip2-t5")])
def test_structure_alone_finds_what_the_table_tells(folder: Callable[..., Path], name: str) -> None:
    model = load_model(folder(name))
    table = {s.name: s for s in stacks(model).values() if s.blocks}
    found = {s.name: s for s in search(model)}
    assert found.keys() == table.keys()
    for key, stack in found.items():
        assert stack.blocks == table[key].blocks
        assert (stack.width, stack.columns) == (table[key].width, table[key].columns)
        if (name, key) != ("llava", "vision"):  # whose last norm runs on the pooled patch only
            assert stack.final is table[key].final


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_sites_mean_the_same_under_every_tuning(folder: Callable[..., Path], name: str) -> None:
    base = tuple(taps(load_model(folder(name))))
    swept = 0
    for family, tuning in tiny.cases():
        if family == name and tuning != "none":
            assert tuple(taps(load_model(folder(name, tuning)))) == base
            swept += 1
    assert swept == 5 - len(tiny.FAMILIES[name].refused)


def test_wrappers_are_opened(folder: Callable[..., Path]) -> None:
    model = load_model(folder("gpt2", "lora"))
    inner = unwrapped(model)
    assert isinstance(model, peft.PeftModel)
    assert isinstance(inner, tf.GPT2LMHeadModel)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert tuple(taps(wrapped)) == tuple(taps(inner))
        assert [t.module for t in taps(wrapped).values()] == [t.module for t in taps(inner).values()]


def test_a_device_map_leaves_the_sites_where_they_are(folder: Callable[..., Path], tmp_path: Path) -> None:
    whole = load_model(folder("opt", "lora"))
    placed = load_model(folder("opt", "lora"), device_map={"": "cpu"})
    assert tuple(taps(placed)) == tuple(taps(whole))
    ids = torch.tensor([[5, 9, 11]])
    assert torch.equal(placed(input_ids=ids).logits, whole(input_ids=ids).logits)


def test_any_module_has_its_named_modules_as_sites() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ModuleDict({"a": nn.Sequential(nn.ReLU())}))
    assert [str(site) for site in taps(model)] == ["0.output", "1.a.output", "1.a.0.output"]
    assert taps(model)[Site("1.a.0", "output")].module is model[1]["a"][0]


def test_sites_are_described_from_the_input_to_the_output(folder: Callable[..., Path]) -> None:
    model = load_model(folder("t5"))
    assert describe(tuple(taps(model))).startswith("encoder (embed, 0, 1, final), decoder")


def gemma3n() -> nn.Module:
    own = {
        "vocab_size_per_layer_input": 60, "hidden_size_per_layer_input": 8,
        "altup_num_inputs": 3, "laurel_rank": 4, "num_kv_shared_layers": 0, "intermediate_size": [24] * 3,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"], "activation_sparsity_pattern": [0.0] * 3,
    }  # fmt: skip
    return tf.Gemma3nForCausalLM(tf.Gemma3nTextConfig(**{**KV, **own}))


@pytest.mark.parametrize(
    ("make", "tuning"),
    [
        # Gemma-3n keeps a list of bare linear maps, which are blocks of three parts with a LoRA in each.
        (gemma3n, {"target_modules": "all-linear"}),
        (gemma3n, {"target_modules": ["altup_projections.0"]}),
        (
            lambda: tf.StableLmForCausalLM(tf.StableLmConfig(**SMALL, num_key_value_heads=2)),
            {"target_modules": ["lm_head"], "modules_to_save": ["model"]},
        ),
        (
            lambda: tf.BertModel(tf.BertConfig(**SMALL)),
            {"target_modules": ["pooler.dense"], "modules_to_save": ["encoder"]},
        ),
    ],
    ids=["maps in a list", "one map of a list", "a model saved whole", "a stack saved whole"],
)
def test_sites_do_not_depend_on_what_an_adapter_puts_in(make: Any, tuning: dict[str, Any]) -> None:
    plain = make().eval()
    before = {name: len(stack.blocks) for name, stack in stacks(plain).items()}
    names = [path for path, _ in own_modules(plain)]
    assert names == [path for path, _ in plain.named_modules()]
    tuned = peft.get_peft_model(plain, peft.LoraConfig(r=2, **tuning)).eval()
    after = stacks(tuned)
    assert {name: len(stack.blocks) for name, stack in after.items()} == before
    assert [path for path, _ in own_modules(tuned)] == names
    ran = list[int]()
    for stack in after.values():
        for block in stack.blocks:
            block.register_forward_hook(lambda *_: ran.append(1))
    tuned(input_ids=torch.tensor([[5, 6, 7]]))
    assert len(ran) == sum(before.values()), "the blocks that run, not those whose place they take"
