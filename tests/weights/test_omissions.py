"""The weighing of adapters leaves out nothing that they changed: each change is in it, or is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers as tf
from torch import Tensor, nn
from torch.testing import assert_close

import rankscope
from rankscope.errors import CheckpointError, NotComparable
from rankscope.results.weights import WeightReport

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other

Folder = Callable[..., Path]


def tuned(base: Path, out: Path, config: peft.PeftConfig, *, embeddings: bool = False) -> Any:
    """An adapter written by plain PEFT, every trainable number moved; ``embeddings``: those of the base too, and saved beside."""
    torch.manual_seed(0)
    model = peft.get_peft_model(tf.AutoModelForCausalLM.from_pretrained(base), config)
    tiny.move(model)
    with torch.no_grad():
        if embeddings:
            weight = model.get_input_embeddings().weight
            weight.add_(0.3 * torch.randn_like(weight))
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(out, save_embedding_layers=embeddings)
    return model


def spectra(base: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """The singular values of every change of a matrix, naively; of a stack of experts one by one."""
    found, now = dict[str, Tensor](), dict(after.named_parameters())
    for name, old in base.named_parameters():
        change, called = (now[name] - old).detach().double(), name.removesuffix(".weight")
        if old.ndim == 3:
            found |= {f"{called}.{e}": torch.linalg.svdvals(c) for e, c in enumerate(change) if c.abs().max() > 1e-6}
        elif old.ndim == 2 and change.abs().max() > 1e-6:
            found[called] = torch.linalg.svdvals(change)
    return found


def check(found: WeightReport, base: Path, after: nn.Module) -> int:
    want = spectra(tf.AutoModelForCausalLM.from_pretrained(base), after)
    assert found.spectra.keys() == want.keys()
    for name, values in want.items():
        got = found.spectra[name]
        assert_close(got, values[: len(got)], rtol=1e-4, atol=1e-4)
        assert float(values[len(got) :].sum()) < 1e-3, name
    return len(want)


Q = ["q_proj", "v_proj"]
KINDS: dict[str, tuple[peft.PeftConfig, bool]] = {
    "pissa": (peft.LoraConfig(r=2, target_modules=Q, init_lora_weights="pissa"), False),
    "mica": (peft.LoraConfig(r=2, target_modules=Q, init_lora_weights="mica"), False),
    "olora": (peft.LoraConfig(r=2, target_modules=Q, init_lora_weights="olora"), False),
    "adalora": (peft.AdaLoraConfig(init_r=3, target_r=2, total_step=9, target_modules=Q), False),
    "embeddings beside": (peft.LoraConfig(r=2, target_modules=Q), True),
    "saved whole": (peft.LoraConfig(r=2, target_modules=Q, modules_to_save=["embed_tokens"]), False),
    "words": (peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[70, 71]), False),
    "a parameter": (peft.LoraConfig(r=2, target_modules=[], target_parameters=["mlp.up_proj.weight"]), False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_that_an_adapter_changed_is_weighed(folder: Folder, tmp_path: Path, kind: str) -> None:
    config, embeddings = KINDS[kind]
    tuned(folder("llama"), tmp_path / "a", config, embeddings=embeddings)
    plain = tf.AutoModelForCausalLM.from_pretrained(folder("llama"))
    after = peft.PeftModel.from_pretrained(plain, tmp_path / "a").merge_and_unload()
    assert check(rankscope.weigh(tmp_path / "a", draws=0), folder("llama"), after) >= 3


def test_each_expert_is_a_matrix(tmp_path: Path) -> None:
    config = tf.MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2,
    )  # fmt: skip
    base = tmp_path / "base"
    tiny.spread(tf.MixtralForCausalLM(config), 0).save_pretrained(base)
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    tuned(base, tmp_path / "a", peft.LoraConfig(r=1, target_modules=["q_proj"], target_parameters=parameters))
    plain = tf.AutoModelForCausalLM.from_pretrained(base)
    after = peft.PeftModel.from_pretrained(plain, tmp_path / "a").merge_and_unload()
    assert check(rankscope.weigh(tmp_path / "a", draws=0), base, after) == 2 * (3 + 3 + 1)
    after.save_pretrained(tmp_path / "full")
    assert check(rankscope.weigh([base, tmp_path / "full"], draws=0), base, after) == 2 * (3 + 3 + 1)


def test_vectors_are_named(folder: Folder, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["input_layernorm"])
    tuned(folder("llama"), tmp_path / "a", config)
    told = " ".join(rankscope.weigh(tmp_path / "a", draws=0).notes)
    assert "model.layers.0.input_layernorm" in told
    assert "a vector that changed has no spectrum" in told


SECOND: dict[str, peft.PeftConfig] = {
    "lora": peft.LoraConfig(r=2, target_modules=Q),
    "dora": peft.LoraConfig(r=2, target_modules=Q, use_dora=True),
    "pissa": peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa"),
    "ia3": peft.IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[]),
    "oft elsewhere": peft.OFTConfig(r=0, oft_block_size=4, target_modules=["o_proj"]),
    "saved again": peft.LoraConfig(r=2, target_modules=["o_proj"], modules_to_save=["lm_head"]),
}


@pytest.mark.parametrize("kind", SECOND)
def test_a_list_is_weighed_by_what_all_its_stages_did_to_the_base(folder: Folder, tmp_path: Path, kind: str) -> None:
    base = folder("llama")
    tuned(base, tmp_path / "one", peft.LoraConfig(r=2, target_modules=Q, modules_to_save=["lm_head"]))
    plain = tf.AutoModelForCausalLM.from_pretrained(base)
    peft.PeftModel.from_pretrained(plain, tmp_path / "one").merge_and_unload().save_pretrained(tmp_path / "merged")
    tuned(tmp_path / "merged", tmp_path / "two", SECOND[kind])
    plain = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    after = peft.PeftModel.from_pretrained(plain, tmp_path / "two").merge_and_unload()
    config = tmp_path / "two/adapter_config.json"  # the usual record: the name of the first base
    config.write_text(config.read_text().replace(str(tmp_path / "merged"), str(base)))
    found = rankscope.weigh([base, tmp_path / "one", tmp_path / "two"], draws=0)
    assert check(found, base, after) >= 7


def test_stages_around_each_other_are_named(folder: Folder, tmp_path: Path) -> None:
    tuned(folder("llama"), tmp_path / "all/0-one", peft.LoraConfig(r=2, target_modules=Q))
    tuned(folder("llama"), tmp_path / "all/1-two", peft.HRAConfig(r=2, target_modules=["v_proj"]))
    (tmp_path / "all/rankscope.json").write_text(json.dumps({"merged_stages": False}))
    found = rankscope.weigh(tmp_path / "all", draws=0)
    assert all(r.module.endswith("q_proj") for r in found.records)
    told = " ".join(found.notes)
    assert "layers.0.self_attn.v_proj" in told
    assert "adapters of several kinds act on it, one around another" in told


@pytest.mark.parametrize("kind", ["lily", "adaption_prompt"])
def test_what_is_no_change_of_a_matrix_is_named(folder: Folder, tmp_path: Path, kind: str) -> None:
    lm = {"task_type": "CAUSAL_LM"}
    configs = {
        "lily": peft.LilyConfig(r=2, target_modules=Q, **lm),
        "adaption_prompt": peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=1, **lm),
    }
    tuned(folder("llama"), tmp_path / "a", configs[kind])
    with pytest.raises(NotComparable, match=rf"it is {kind}; not weighed: .*(PEFT cannot merge|no change of a weight)"):
        rankscope.weigh(tmp_path / "a", draws=0)


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "lora_ga"])
def test_a_start_that_cannot_be_repeated_is_refused(folder: Folder, tmp_path: Path, start: str) -> None:
    tuned(folder("llama"), tmp_path / "a", peft.LoraConfig(r=2, target_modules=Q))
    file = tmp_path / "a/adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "init_lora_weights": start}))
    with pytest.raises(CheckpointError, match=f"began as {start}, which takes a part out of the base's weights"):
        rankscope.load_model(tmp_path / "a")
