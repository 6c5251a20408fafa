"""The embedded checkpoint opens as any BLIP-2 does, and looks at its images; the script that made it repeats and continues."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rankscope.data import embedded, embedded_checkpoint, open_data
from rankscope.data.grammar import CAPTION
from rankscope.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> Iterator[ModuleType]:
    """The analysis as a module; what it sets for the whole process is put back."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield analysis("pretrain_scenes")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(embedded_checkpoint(), backend="pil", trust_remote_code=False)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForImageTextToText.from_pretrained(embedded_checkpoint(), trust_remote_code=False).eval()


def test_the_folder_is_small_and_complete(model: Any) -> None:
    names = {p.name for p in embedded_checkpoint().iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
    } <= names
    assert (embedded_checkpoint() / "model.safetensors").stat().st_size < 5e6
    assert 9e5 < sum(p.numel() for p in model.parameters()) < 1.2e6
    assert type(model).__name__ == "Blip2ForConditionalGeneration"


def test_a_missing_checkpoint_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "HERE", tmp_path)
    with pytest.raises(DataError, match=r"the embedded checkpoint is not there: .*run analyses/pretrain_scenes.py"):
        embedded_checkpoint()


def test_the_processor_makes_what_the_model_was_trained_on(script: ModuleType, processor: Any) -> None:
    item = open_data("scenes")[0]
    made = processor(images=item.open_image(), text=f"{item.text} {item.targets[0]}", return_tensors="pt")
    trained = script.batch([item], processor.tokenizer.get_vocab())
    torch.testing.assert_close(made.pixel_values, trained["pixel_values"])
    ids = trained["input_ids"][0].tolist()
    assert made.input_ids[0].tolist() == ids[:-1]
    assert processor.tokenizer.convert_ids_to_tokens(ids[:14]) == ["<image>"] * 12 + ["<s>", "describe"]
    assert ids[-1] == processor.tokenizer.eos_token_id
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == f"{CAPTION} {item.targets[0]}"


def test_every_word_of_the_scenes_is_known(processor: Any) -> None:
    known = processor.tokenizer.get_vocab()
    for task in ("captions", "questions", "mixture"):
        for item in open_data(f"scenes:{task}/test"):
            assert {w for said in (item.text, *item.targets) for w in said.split()} <= set(known)


def test_the_model_looks_at_its_images(script: ModuleType, model: Any, processor: Any) -> None:
    """Far above the most frequent answer, and above itself with the images exchanged."""
    items = list(open_data("scenes:pretrain-questions/test?n=100"))
    said = script.write(model, processor, items, items)
    blind = script.write(model, processor, items, items[1:] + items[:1])
    assert script.share(said, items) > script.share(blind, items) + 0.2
    items = list(open_data("scenes:pretrain-captions/test?n=40"))
    assert script.numbers(script.write(model, processor, items, items), items) > 0.3


def test_the_recorded_scores_are_those_of_this_checkpoint(script: ModuleType, model: Any, processor: Any) -> None:
    record = json.loads((ROOT / "figures" / "pretrain_scenes.json").read_text())
    script.check(record["scores"], record["bearing"])
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    items = list(open_data("scenes:pretrain-questions/test"))[:100]
    right = script.share(script.write(model, processor, items, items), items)
    assert right == pytest.approx(record["scores"]["pretrain-questions"]["exact"], abs=0.15)


@pytest.mark.filterwarnings("default")
def test_the_script_runs_quickly_from_end_to_end(script: ModuleType, tmp_path: Path) -> None:
    found = script.main(["--quick", "--work", str(tmp_path)])
    assert set(found) == {"pretrain-questions", "pretrain-captions", "questions", "captions"}
    assert (tmp_path / "quick" / "model.safetensors").is_file()
    assert (
        AutoProcessor.from_pretrained(tmp_path / "quick", backend="pil", trust_remote_code=False).num_query_tokens == 12
    )


def test_stopped_training_continues_to_the_same_weights(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "KEEP", 2)
    monkeypatch.setattr(script, "BATCH", 4)
    whole = script.Look(script.make_model(96))
    torch.manual_seed(1)
    whole.head.reset_parameters()
    start = {k: v.clone() for k, v in whole.state_dict().items()}
    script.train(whole, "look", 5, 0, 1e-3, tmp_path / "a")
    make, calls = script.example, iter(range(100))

    def stops(*given: object, **options: object) -> object:
        if next(calls) == 26:
            raise KeyboardInterrupt
        return make(*given, **options)

    part = script.Look(script.make_model(96))
    part.load_state_dict(start)
    monkeypatch.setattr(script, "example", stops)
    with pytest.raises(KeyboardInterrupt):
        script.train(part, "look", 5, 0, 1e-3, tmp_path / "b")
    monkeypatch.setattr(script, "example", make)
    again = script.Look(script.make_model(96))
    script.train(again, "look", 5, 0, 1e-3, tmp_path / "b")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
