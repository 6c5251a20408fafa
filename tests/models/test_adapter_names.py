"""Names that wrappers and savers left in a checkpoint, added words, second adapters and unknown entries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import tiny_vlm
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing import assert_close

from rankscope.errors import CheckpointError
from rankscope.models.load import load_model
from rankscope.models.notes import notes_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other

IDS = torch.randint(10, 60, (2, 7), generator=torch.Generator().manual_seed(3))
Folder = Callable[..., Path]


def tuned(base: Path, out: Path, *, rows: int | None = None, **options: Any) -> Any:
    """A LoRA written by plain PEFT, every trainable number of it moved; ``rows`` resizes the vocabulary before."""
    plain = tiny.open_base(base)
    if rows is not None:
        plain.resize_token_embeddings(rows)
    return tiny.tuned_by_peft(
        plain, peft.LoraConfig(r=2, **{"target_modules": ["q_proj", "v_proj"], **options}), base, out
    )


@torch.inference_mode()
def logits(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    return model(input_ids=ids).logits


def renamed(file: Path, change: Callable[[str], str]) -> None:
    tensors = {change(name): tensor.contiguous() for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


HOST = "base_model.model."
MARKS: dict[str, Callable[[str], str]] = {
    "compiled": lambda k: "_orig_mod." + k,
    "compiled inside": lambda k: k.replace(HOST, HOST + "_orig_mod."),
    "blocks compiled": lambda k: k.replace("layers.0.", "layers.0._orig_mod."),
    "data parallel": lambda k: "module." + k,
    "data parallel inside": lambda k: k.replace(HOST, HOST + "module."),
    "both": lambda k: "module._orig_mod." + k,
    "without PEFT's prefix": lambda k: k.removeprefix(HOST),
    "the adapter's name": lambda k: k.replace(".weight", ".default.weight"),
    "another name": lambda k: k.replace(".weight", ".mine.weight"),
}


def test_names_that_wrappers_left_in_an_adapter_are_understood(folder: Folder, tmp_path: Path) -> None:
    want, swept = logits(tuned(folder("llama"), tmp_path / "a")), 0
    for name, change in MARKS.items():
        shutil.copytree(tmp_path / "a", tmp_path / name)
        renamed(tmp_path / name / "adapter_model.safetensors", change)
        assert_close(logits(load_model(tmp_path / name)), want, rtol=1e-5, atol=2e-5)
        swept += 1
    assert swept == 9


def test_the_name_of_another_kind_of_adapter_is_taken_off_too(folder: Folder, tmp_path: Path) -> None:
    model = peft.get_peft_model(
        tiny.open_base(folder("llama")), peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    )
    tiny.move(model)
    model.peft_config["default"].base_model_name_or_path = str(folder("llama"))
    model.save_pretrained(tmp_path / "a")
    renamed(tmp_path / "a/adapter_model.safetensors", lambda k: f"{k}.default")
    assert_close(logits(load_model(tmp_path / "a")), logits(model.eval()), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("mark", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_whole_model_saved_from_a_wrapper_is_itself(folder: Folder, tmp_path: Path, mark: str) -> None:
    shutil.copytree(folder("llama"), tmp_path / "m")
    renamed(tmp_path / "m/model.safetensors", lambda k: mark + k)
    assert torch.equal(logits(load_model(tmp_path / "m")), logits(tiny.open_base(folder("llama")).eval()))


def test_a_value_head_is_set_aside_and_named_and_other_strays_are_not(folder: Folder, tmp_path: Path) -> None:
    for name, stray in (("value", "v_head.summary.weight"), ("lora", "model.layers.0.self_attn.q_proj.lora_A.weight")):
        shutil.copytree(folder("llama"), tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        save_file({**load_file(file), stray: torch.ones(1, 32)}, file, metadata={"format": "pt"})
    model = load_model(tmp_path / "value")
    assert torch.equal(logits(model), logits(tiny.open_base(folder("llama")).eval()))
    assert any("v_head.summary.weight" in text for text in notes_of(model))
    with pytest.raises(CheckpointError, match=r"1 unexpected \(.*lora_A"):
        load_model(tmp_path / "lora")


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}], ids=["beside", "saved"])
def test_added_words_come_with_the_adapter(folder: Folder, tmp_path: Path, options: dict[str, Any]) -> None:
    base = folder("llama")
    words = tf.AutoConfig.from_pretrained(base).vocab_size
    want = tuned(base, tmp_path / "a", rows=words + 2, **options)
    ids = torch.tensor([[5, words, words + 1, 7]])
    assert_close(logits(load_model(tmp_path / "a"), ids), logits(want, ids), rtol=1e-5, atol=2e-5)


def test_added_words_without_their_head_are_refused(folder: Folder, tmp_path: Path) -> None:
    words = tf.AutoConfig.from_pretrained(folder("llama")).vocab_size
    tuned(folder("llama"), tmp_path / "a", rows=words + 2)
    file = tmp_path / "a/adapter_model.safetensors"
    save_file({k: t for k, t in load_file(file).items() if "lm_head" not in k}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"brings embeddings of {words + 2} words and the base has {words}"):
        load_model(tmp_path / "a")


def test_two_tensors_for_one_path_are_refused(folder: Folder, tmp_path: Path) -> None:
    tuned(folder("llama"), tmp_path / "a", modules_to_save=["lm_head"])
    file = tmp_path / "a/adapter_model.safetensors"
    tensors = load_file(file)
    saved = tensors["base_model.model.lm_head.weight"]
    for factor, fits in ((1, True), (2, False)):
        again = {"base_model.model.lm_head.modules_to_save.weight": factor * saved}
        save_file({**tensors, **again}, file, metadata={"format": "pt"})
        if fits:
            load_model(tmp_path / "a")
            continue
        with pytest.raises(CheckpointError, match=r"two different tensors for lm_head\.weight"):
            load_model(tmp_path / "a")


def test_an_adapter_beside_the_one_that_was_read_is_named(folder: Folder, tmp_path: Path) -> None:
    want = logits(tuned(folder("llama"), tmp_path / "a"))
    for name in ("second", "checkpoint-5"):
        tuned(folder("llama"), tmp_path / "a" / name)
    model = load_model(tmp_path / "a")
    assert_close(logits(model), want, rtol=1e-5, atol=2e-5)
    (told,) = notes_of(model)
    assert "adapters in second;" in told, "what a Trainer keeps there is no second adapter"


def test_entries_that_were_ignored_are_named(folder: Folder, tmp_path: Path) -> None:
    tuned(folder("llama"), tmp_path / "a")
    assert notes_of(load_model(tmp_path / "a")) == ()
    file = tmp_path / "a/adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "magic": 3.0, "unset": None, "peft_version": "0.99"}))
    (told,) = notes_of(load_model(tmp_path / "a"))
    assert "ignored magic=3.0, which PEFT" in told
    assert "saved by PEFT 0.99" in told


def test_an_activated_lora_acts_from_its_invocation_on(folder: Folder, tmp_path: Path) -> None:
    invocation = IDS[0, 3:5].tolist()
    want = tuned(folder("llama"), tmp_path / "a", task_type="CAUSAL_LM", alora_invocation_tokens=invocation)
    model = load_model(tmp_path / "a")
    assert_close(logits(model), logits(want), rtol=1e-5, atol=2e-5)
    plain = logits(tiny.open_base(folder("llama")).eval())
    assert (logits(model) - plain).abs().amax(-1)[0].gt(1e-3).tolist() == [False] * 3 + [True] * 4
    tuned(folder("llama"), tmp_path / "b", target_modules=["o_proj"])
    with pytest.raises(CheckpointError, match=r"is an aLoRA.*read alone"):
        load_model([folder("llama"), tmp_path / "a", tmp_path / "b"])


OLD: dict[str, tuple[Callable[[str], str], str]] = {
    "llava": (
        lambda k: k.replace("model.model.language_model.", "model.language_model.model."),
        "language_model.model",
    ),
    "paligemma": (lambda k: k.replace("model.model.language_model.", "model.language_model.model."), "language_model"),
    "qwen2-vl": (lambda k: k.replace("model.model.language_model.", "model.model."), "model"),
}
"""Vision–language models as transformers before 4.52 named their parts, and how the path of the text's part began."""


@pytest.mark.parametrize("family", OLD)
def test_old_names_of_a_vision_language_model_are_read(tmp_path: Path, family: str) -> None:
    old, text = OLD[family]
    for targets, recorded in ((["q_proj"], None), (r".*language_model.*\.q_proj", rf"{text}\.layers\..*\.q_proj")):
        base, out = tmp_path / "base", tmp_path / f"{recorded is not None}"
        if not base.exists():
            tiny_vlm.save_base(family, base)
        model = peft.get_peft_model(
            tf.AutoModelForImageTextToText.from_pretrained(base), peft.LoraConfig(r=2, target_modules=targets)
        )
        tiny.move(model)
        model.peft_config["default"].base_model_name_or_path = str(base)
        model.save_pretrained(out)
        renamed(out / "adapter_model.safetensors", old)
        config = out / "adapter_config.json"
        about = json.loads(config.read_text())
        config.write_text(json.dumps(about if recorded is None else {**about, "target_modules": recorded}))
        found = load_model(out)
        assert_close(logits(found), logits(model.eval()), rtol=1e-5, atol=2e-5)
        assert any("as an older transformers did" in told for told in notes_of(found))
