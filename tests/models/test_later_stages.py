"""A later stage sits on what it was trained on: the model merged from the earlier ones, or the base beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import rankscope
from rankscope.errors import CheckpointError
from rankscope.models.load import load_model
from rankscope.models.notes import notes_of
from rankscope.models.tunings.bottleneck import BottleneckConfig

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other

IDS = torch.randint(10, 60, (2, 7), generator=torch.Generator().manual_seed(3))
Q = ["q_proj", "v_proj"]
Folder = Callable[..., Path]
LATER: dict[str, tuple[peft.PeftConfig, bool]] = {
    "lora": (peft.LoraConfig(r=2, target_modules=Q), False),
    "lora elsewhere": (peft.LoraConfig(r=2, target_modules=["o_proj"]), False),
    "lora with words": (peft.LoraConfig(r=2, target_modules=Q, trainable_token_indices=[11, 12]), False),
    "dora": (peft.LoraConfig(r=2, target_modules=Q, use_dora=True), True),
    "pissa": (peft.LoraConfig(r=2, target_modules=Q, init_lora_weights="pissa"), True),
    "ia3": (peft.IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[]), False),
    "hra": (peft.HRAConfig(r=2, target_modules=Q), True),
    "vera": (peft.VeraConfig(r=2, target_modules=["q_proj", "o_proj"]), False),
    "randlora": (peft.RandLoraConfig(r=2, target_modules=["q_proj"]), False),
    "adaption prompt": (peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=2, task_type="CAUSAL_LM"), False),
}
"""Kinds of a second stage, and whether it is another model beside the first stage than on the model merged from it."""


def stage(model: nn.Module, config: peft.PeftConfig, out: Path, base: Path, *, seed: int) -> nn.Module:
    """A stage on a model, by plain PEFT; it records the first base, as is usual."""
    return tiny.tuned_by_peft(model, config, base, out, seed=seed)


def merged(base: Path, first: Path) -> nn.Module:
    return peft.PeftModel.from_pretrained(tiny.open_base(base), first).merge_and_unload()


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", LATER)
def test_a_list_is_a_series_of_merged_models(folder: Folder, tmp_path: Path, kind: str) -> None:
    base, (config, told) = folder("llama"), LATER[kind]
    options = {"trainable_token_indices": [11, 13]} if "words" in kind else {}
    stage(tiny.open_base(base), peft.LoraConfig(r=2, target_modules=Q, **options), tmp_path / "one", base, seed=1)
    want = stage(merged(base, tmp_path / "one"), config, tmp_path / "two", base, seed=2)
    model = load_model([base, tmp_path / "one", tmp_path / "two"])
    assert_close(logits(model), logits(want), rtol=1e-5, atol=2e-5)
    assert any("merged with" in text for text in notes_of(model)) == told


@pytest.mark.parametrize("first", ["ia3", "dora", "pissa", "vera"])
def test_a_lora_goes_onto_any_first_stage(folder: Folder, tmp_path: Path, first: str) -> None:
    base = folder("llama")
    stage(tiny.open_base(base), LATER[first][0], tmp_path / "one", base, seed=1)
    want = stage(merged(base, tmp_path / "one"), LATER["lora"][0], tmp_path / "two", base, seed=2)
    assert_close(logits(load_model([base, tmp_path / "one", tmp_path / "two"])), logits(want), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["dora", "pissa"])
def test_stages_that_were_never_merged_are_read_so_if_the_folder_says_it(
    folder: Folder, tmp_path: Path, texts: Path, kind: str
) -> None:
    base = folder("llama")
    stage(tiny.open_base(base), peft.LoraConfig(r=2, target_modules=Q), tmp_path / "all/0-lora", base, seed=1)
    stage(tiny.open_base(base), LATER[kind][0], tmp_path / "all/1-second", base, seed=2)
    # Side by side: what PEFT computes with both active in one layer.
    both = tiny.open_base(base)
    for i, name in enumerate(("0-lora", "1-second")):
        config = peft.PeftConfig.from_pretrained(tmp_path / "all" / name)
        peft.inject_adapter_in_model(config, both, adapter_name=f"s{i}")
        tensors = peft.load_peft_weights(str(tmp_path / "all" / name))
        peft.set_peft_model_state_dict(
            both, {k.removeprefix("base_model.model."): t for k, t in tensors.items()}, f"s{i}"
        )
    for module in both.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.set_adapter(["s0", "s1"])
    assumed = load_model(tmp_path / "all")
    (tmp_path / "all/rankscope.json").write_text(json.dumps({"merged_stages": False}))
    model = load_model(tmp_path / "all")
    assert_close(logits(model), logits(both), rtol=1e-5, atol=2e-5)
    assert (logits(model) - logits(assumed)).norm() > 0.1 * logits(assumed).norm()
    run = rankscope.collect(tmp_path / "all", texts, out=tmp_path / "run.pt", n=8)
    (told,) = (text for text in run.manifest.notes if "1-second" in text)
    assert "taken as trained on the base unmerged beside the adapters before it" in told
    assert '{"merged_stages": true} in the rankscope.json' in told


def test_what_cannot_be_merged_is_refused_by_name(folder: Folder, tmp_path: Path) -> None:
    base = folder("llama")
    stage(tiny.open_base(base), BottleneckConfig(target_modules=["o_proj"]), tmp_path / "one", base, seed=1)
    stage(tiny.open_base(base), LATER["dora"][0], tmp_path / "two", base, seed=2)
    stage(tiny.open_base(base), LATER["ia3"][0], tmp_path / "three", base, seed=2)
    with pytest.raises(CheckpointError, match=r"an earlier stage cannot be merged into model\.layers.*is not linear"):
        load_model([base, tmp_path / "one", tmp_path / "two"])
    # One that is the same on either sits around it.
    assert not torch.equal(
        logits(load_model([base, tmp_path / "one", tmp_path / "three"])), logits(load_model(tmp_path / "three"))
    )
