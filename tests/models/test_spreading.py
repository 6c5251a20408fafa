"""Models spread over devices, parts of them beside the devices; as far as one CPU allows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import tiny
import torch
from tapped import called, examples

from rankscope.devices import check_spread, where
from rankscope.errors import CheckpointError, MissingTool, UsageError
from rankscope.models.inputs.reader import reader
from rankscope.models.load import load_model

Folder = Callable[..., Path]
ON_DISK = {
    **dict.fromkeys(("transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.2"), "cpu"),
    **dict.fromkeys(("transformer.ln_f", "lm_head"), "cpu"),
    "transformer.h.1": "disk",
}
"""One block of the tiny GPT-2 is read from disk for each call."""


@pytest.mark.parametrize("tuning", ["none", "lora", "ia3", "prefix", "prompt"])
def test_a_block_on_disk_gives_the_same_hidden_states(folder: Folder, tuning: str) -> None:
    path = folder("gpt2", tuning)
    whole, spread = load_model(path), load_model(path, device_map=ON_DISK)
    batch = reader(whole, path).read(examples())
    assert any(p.is_meta for p in spread.parameters())
    for site, hidden in called(whole, batch).items():
        assert torch.equal(called(spread, batch)[site], hidden), site


def test_an_adapter_that_reads_weights_on_disk_is_refused(folder: Folder, tmp_path: Path) -> None:
    dora = peft.LoraConfig(r=2, use_dora=True, target_modules=["c_fc"], init_lora_weights=False, fan_in_fan_out=True)
    whole = peft.LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=["ln_1"], fan_in_fan_out=True)
    for name, config in (("dora", dora), ("whole", whole)):
        tuned = peft.get_peft_model(tiny.open_base(folder("gpt2")), config)
        tiny.spread(tuned, 3)
        tuned.save_pretrained(tmp_path / name)
        with pytest.raises(CheckpointError, match="needs the weights of layers that device_map offloads"):
            load_model(tmp_path / name, base_model=folder("gpt2"), device_map=ON_DISK)


@pytest.mark.parametrize("device_map", ["nowhere", "cuda:77", {"": "cuda:77"}, {"transformer": "cpu", "lm_head": 77}])
def test_a_device_that_is_not_there_is_named(folder: Folder, device_map: object) -> None:
    with pytest.raises(UsageError, match=r"this machine has no device '(nowhere|cuda:77|77)'"):
        load_model(folder("gpt2"), device_map=device_map)  # type: ignore[arg-type]


@pytest.mark.parametrize("device_map", ["auto", "balanced", "cpu", ON_DISK])
def test_maps_that_accelerate_takes_are_taken(device_map: object) -> None:
    check_spread(device_map)  # type: ignore[arg-type]


def test_a_device_and_a_map_exclude_each_other(folder: Folder) -> None:
    with pytest.raises(UsageError, match="device puts the whole model in one place and device_map spreads it"):
        load_model(folder("gpt2"), device="cpu", device_map="auto")


def test_weights_of_few_bits_ask_for_their_package_and_are_not_quantised_again(folder: Folder, tmp_path: Path) -> None:
    few = shutil.copytree(folder("gpt2"), tmp_path / "few")
    config = json.loads((few / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (few / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingTool, match=r"few cannot be read without another package: .*optimum"):
        load_model(few)
    with pytest.raises(UsageError, match="are quantised already; leave load_in_4bit out"):
        load_model(few, load_in_4bit=True)


def test_under_torchrun_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``cuda`` for all of them is the first, which they would share."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "empty", lambda *_, device: torch.zeros(1))
    assert str(where(None)) == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "6")
    assert str(where(None)) == "cuda:2"
    assert str(where("cpu")) == "cpu"
