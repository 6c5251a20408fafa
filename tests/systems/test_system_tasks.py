"""What is peculiar to the systems' tasks: hidden words, answers from a list, prompts, and self-critical training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixtures_data
import pytest
import tiny
import tiny_ofa
import torch
from paper_systems import System
from transformers import TrainerCallback

from rankscope.data.open import open_data
from rankscope.data.probes import Example
from rankscope.errors import UsageError
from rankscope.models.inputs.reader import reader
from rankscope.models.load import load_model
from rankscope.tuning import generate, held_out_loss, train
from rankscope.tuning.answers import Answers
from rankscope.tuning.generation import continuations, prompt_inputs, prompt_reader
from rankscope.tuning.masked import hide_words, masked_log_probabilities
from rankscope.tuning.scst import caption_log_probability

FEW: dict[str, Any] = {"batch_size": 2, "device": "cpu", "learning_rate": 3e-3}


def data_of(system: System) -> Any:
    given = dict(zip(system.data[::2], system.data[1::2], strict=True))
    return open_data(given["--data"], regions=given.get("--regions"))


@pytest.mark.parametrize("name", ["ofa-captioning", "ofa-vqa", "vinvl-captioning", "vinvl-vqa"])
def test_training_lowers_the_loss(system: Callable[[str], System], tmp_path: Path, name: str) -> None:
    chosen = system(name)
    data = data_of(chosen)
    rate = 1e-2 if "ofa" in name else 3e-3
    train(chosen.base, method="full", data=data, out=tmp_path / "o", steps=40, **{**FEW, "learning_rate": rate})
    before, after = (held_out_loss(folder, data, device="cpu") for folder in (chosen.base, tmp_path / "o"))
    assert after < 0.6 * before


def test_a_classifier_learns_the_answers_and_says_them(
    system: Callable[[str], System], rankscope_: Callable, tmp_path: Path
) -> None:
    base, data, _ = system("vinvl-vqa")
    options = ("--steps", 80, "--batch-size", 4, "--learning-rate", 0.003, "--device", "cpu")
    done = rankscope_("train", base, "--method", "full", *data, "--out", tmp_path / "o", *options)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "o" / "rankscope.json").read_text())
    wanted = {e.id: e.target for e in data_of(system("vinvl-vqa"))}
    assert set(wanted.values()) <= set(record["answers"])
    done = rankscope_("generate", tmp_path / "o", *data, "--out", tmp_path / "said.jsonl", "--device", "cpu")
    assert done.code == 0, done.err
    said = {e["id"]: e["prediction"] for e in map(json.loads, (tmp_path / "said.jsonl").read_text().splitlines())}
    assert said == wanted


def test_labels_are_the_annotators_shares() -> None:
    asked = Example("q", "?", targets=("net",) * 2 + ("bat",) * 7 + ("ball",))
    soft = Answers(("bat", "net", "glove"), 4, "bce").label(asked)
    torch.testing.assert_close(soft, torch.tensor([1.0, 0.6, 0.0, 0.0]))
    torch.testing.assert_close(Answers(("bat", "net"), 2, "kl").label(asked), torch.tensor([1.0, 0.6]) / 1.6)
    assert int(Answers(("net", "bat"), 2, "sfmx").label(asked)) == 1
    assert float(Answers(("yes",), 1, "bce").label(Example("q", "?", targets=("Yes",)))) == 1.0
    assert not Answers(("no",), 1, "kl").label(asked).any()


def test_hidden_words_are_a_function_of_the_seed_alone(system: Callable[[str], System]) -> None:
    chosen = system("vinvl-captioning")
    model = load_model(chosen.base)
    read = reader(model, chosen.base)
    inputs = read.read(data_of(chosen)[:2]).inputs
    torch.manual_seed(1)
    first = hide_words(read, inputs, seed=5)
    torch.manual_seed(2)
    again, other = hide_words(read, inputs, seed=5), hide_words(read, inputs, seed=6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["labels"], other["labels"])


class Killed(RuntimeError):
    """Stands for a kill."""


class Kill(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def test_a_killed_captioner_ends_as_if_it_had_not_been(system: Callable[[str], System], tmp_path: Path) -> None:
    chosen = system("vinvl-captioning")
    options = {**FEW, "method": "lora", "data": data_of(chosen), "steps": 5, "save_steps": 2, "lora_rank": 2}
    train(chosen.base, out=tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train(chosen.base, out=tmp_path / "cut", callbacks=[Kill(3)], **options)
    train(chosen.base, out=tmp_path / "cut", resume=True, **options)
    files = [(tmp_path / n / "0-lora" / "adapter_model.safetensors").read_bytes() for n in ("whole", "cut")]
    assert files[0] == files[1]


def test_a_captions_probability_is_that_of_its_steps(system: Callable[[str], System]) -> None:
    """What generate scores greedily, word by word with a cache, is what forward passes give to the same words."""
    chosen = system("vinvl-captioning")
    model = load_model(chosen.base)
    reading = prompt_reader(model, reader(model, chosen.base, answers=False))
    prompt = prompt_inputs(model, reading, data_of(chosen)[:3], room=7)
    said = continuations(model, reading, prompt, {"max_new_tokens": 7})
    mask = reading.inputs.tokenizer.mask_token_id
    scores = masked_log_probabilities(model, prompt, said, mask)
    ended = (said == model.config.eos_token_id).cumsum(1)
    counts = (ended - (said == model.config.eos_token_id).long()) == 0
    free = counts[:, :-1]  # the last word is the end, whether it is the likeliest or not
    assert torch.equal(scores.argmax(-1)[:, :-1][free], said[:, :-1][free])
    assert free.sum() > 5
    total = caption_log_probability(model, reading, prompt, said.masked_fill(~counts, -100))
    chosen_words = scores.gather(-1, said[..., None])[..., 0]
    torch.testing.assert_close(total, (chosen_words * counts).sum(1))
    assert total.requires_grad


@pytest.mark.parametrize("name", ["vinvl-captioning", "ofa-captioning", "blip2-opt"])
def test_self_critical_training_runs_on_a_system(
    system: Callable[[str], System], rankscope_: Callable, tmp_path: Path, name: str
) -> None:
    base, data, _ = system(name)
    options = ("--steps", "1,1", "--batch-size", 2, "--scst-samples", 2, "--scst-max-new-tokens", 5, "--lora-rank", 2)
    done = rankscope_(
        "train", base, "--stages", "lora,scst", *data, "--out", tmp_path / "o", *options, "--device", "cpu"
    )
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "o" / "rankscope.json").read_text())
    assert [stage["objective"] for stage in record["training"]] == ["cross-entropy", "scst"]


def test_ofa_is_asked_in_its_own_words(system: Callable[[str], System], tmp_path: Path) -> None:
    base = tiny_ofa.save_published(tmp_path / "ofa")
    read = reader(load_model(base), base)
    picture = tiny.picture(0)
    asked = [
        Example("question", "Is it a red-ish Dog?", picture),
        Example("statement", "What color/shape", picture, about={"task": "question"}),
        Example("image", "", picture),
        Example("text", "As It Is?"),
    ]
    said = [
        read.inputs.tokenizer.decode(read.encode(example).inputs["input_ids"], skip_special_tokens=True)
        for example in asked
    ]
    assert said == [" is it a red ish dog?", " what color shape?", " what does the image describe?", "As It Is?"]
    target = read.encode(Example("a", "", picture, ("two",))).inputs["decoder_input_ids"]
    assert read.inputs.tokenizer.decode(target, skip_special_tokens=True) == " two"


def test_a_prompt_before_the_text_is_refused_by_name(tmp_path: Path) -> None:
    base = tiny.save_base("blip2-opt", tmp_path / "base")
    tuned = tiny.save_tuned("blip2-opt", "prompt", base, tmp_path / "prompt")
    with pytest.raises(UsageError, match="is prompt-tuned, and PEFT cannot generate"):
        generate([base, tuned], open_data(fixtures_data.coco(tmp_path / "coco")), device="cpu")
