"""The doctor names what is wrong, and says that all is well only where it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rankscope.collecting import doctor
from rankscope.collecting.doctor import Symptom, examine

Folder = Callable[..., Path]


def at(found: tuple[Symptom, ...], what: str) -> Symptom:
    return next(one for one in found if one.what == what)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    words = ("three", "seven", "digits", "left", "of")
    lines = [{"id": f"s{i}", "text": " ".join(words[(i // 5**k) % 5] for k in range(2 + i % 3))} for i in range(24)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "texts.jsonl"


def test_a_sound_checkpoint_is_planned_and_nothing_is_written(
    folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    found = examine(folder("gpt2", "lora"), texts)
    assert not any(one.state == "wrong" for one in found)
    assert {
        "GPU",
        "Java",
        "memory",
        "device map",
        "quantisation",
        "reading",
        "mask",
        "padding",
        "dtype",
        "n against d",
        "disk",
        "time",
    } <= {one.what for one in found}
    assert at(found, "mask") == Symptom("mask", "ok", "padding is masked, and samples are the same together and alone")
    few = at(found, "n against d")
    assert (few.state, few.remedy) == ("mind", "128 rows are enough: give more samples, or --rows tokens")
    assert few.found.startswith("about 24 rows of 32 features at decoder: ranks also measure n")
    assert all(one.remedy for one in found if one.state == "mind" and one.what != "note")
    assert list(here.iterdir()) == []


def test_what_cannot_be_read_is_wrong_and_the_rest_is_told(folder: Folder, texts: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder("gpt2", "lora"), broken)
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["nothing"]}))
    found = examine(broken, texts)
    assert at(found, "reading").state == "wrong"
    assert (at(found, "memory").state, at(found, "device map").state) == ("ok", "ok")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the memory of a GPU is asked for where there is one")
def test_weights_that_one_device_does_not_hold_are_to_be_spread(
    folder: Folder, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.memory, "free", lambda: 1000)
    found = dict(zip(("memory", "device map"), doctor._memory(doctor.Checkpoint.read(folder("gpt2"))), strict=True))
    assert {one.state for one in found.values()} == {"mind"}
    assert "--load-in-4bit" in found["memory"].remedy
    assert "--device-map auto" in found["device map"].remedy


def test_quantised_weights_and_half_precision_are_told(
    folder: Folder, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    half = tmp_path / "half"
    shutil.copytree(folder("gpt2"), half)
    config: dict[str, Any] = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "made-up"}}))
    found = examine(half, texts)
    assert at(found, "quantisation").found.startswith("weights quantised by made-up")
    job = doctor.prepare(folder("gpt2"), texts, doctor.Request(out="none"), doctor.Loading(dtype="bfloat16"))
    slow = doctor._dtype(job)
    if not torch.cuda.is_available():
        assert (slow.state, "--dtype float32" in slow.remedy) == ("mind", True)
    monkeypatch.setattr(doctor, "MUCH_PADDING", -1.0)
    assert next(one for one in doctor._planned(job) if one.what == "padding").state == "mind"
