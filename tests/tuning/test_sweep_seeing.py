"""Today's vision–language models take a step of LoRA and of PT-LoRA, and are saved and loaded again as they were tuned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_seeing
import torch
from tuning_data import made_recipe, step

import rankscope
from rankscope.data import Example, ProbeSet
from rankscope.errors import UsageError
from rankscope.models.inputs.reader import reader
from rankscope.models.load import load_model
from rankscope.tuning.batches import PairEncoder, check_task, collate, task_of, training_pairs
from rankscope.tuning.generation import continuations, prompt_inputs, prompt_reader
from rankscope.tuning.held_out import held_out_loss
from rankscope.tuning.stages import attach_kinds, save_kinds, set_trainable

TRAINED = tuple(name for name in tiny_seeing.FAMILIES if name not in ("smolvlm", "mistral3"))
"""All whose processors need no other package."""


def examples() -> list[Example]:
    """Pictures of one tile and of several, each with a question and its answer."""
    pictures = [tiny.picture(i).resize(size) for i, size in enumerate([(40, 30), (64, 32), (32, 64)])]
    return [Example(str(i), "how many digits ?", shown, (tiny.SENTENCES[i],)) for i, shown in enumerate(pictures)]


@pytest.mark.parametrize("name", TRAINED)
def test_a_family_takes_a_step_and_is_loaded_as_it_was_saved(name: str, tmp_path: Path) -> None:
    tiny_seeing.save_base(name, tmp_path / "base")
    data = ProbeSet(name, examples())
    targets: dict[str, Any] = {"lora_targets": "q_proj,v_proj"} if name in ("qwen3.5", "mllama") else {}
    for method in ("lora", "pt-lora"):
        model, made = load_model(tmp_path / "base"), made_recipe(method, lora_rank=2, **targets)
        kinds: list[str] = []
        for stage in made.stages:
            torch.manual_seed(0)
            attach_kinds(model, stage.attach, made)
            kinds += stage.attach
        reading = reader(model, tmp_path / "base")
        task = task_of(model, data, reading)
        check_task(task, model, data, reading)
        trained = set_trainable(model, made.stages[-1].train, made, head=False)
        encode = PairEncoder(reading, task)
        inputs = collate(reading, [encode(pair) for pair in training_pairs(data, task)])
        said = (inputs["labels"] != -100).sum(1)
        ends = inputs["labels"][torch.arange(3), inputs["attention_mask"].sum(1) - 1]
        assert (said > 1).all()
        assert ends.tolist() == [reading.inputs.end] * 3
        step(model, trained, inputs)
        into = tmp_path / method
        names = save_kinds(
            model, kinds, into, base=str(tmp_path / "base"), head=False, processor=reading.inputs.processor
        )
        back = load_model([tmp_path / "base", *(into / n for n in names)])
        with torch.no_grad():
            torch.testing.assert_close(back(**inputs).loss, model(**inputs).loss, rtol=0, atol=1e-6)


def test_train_generate_and_collect_in_a_row(tmp_path: Path) -> None:
    tiny_seeing.save_base("idefics3", tmp_path / "base")
    tuned = tmp_path / "tuned"
    rankscope.train(
        tmp_path / "base", data=examples(), out=tuned, method="pt-lora", steps=1, batch_size=3, prefix_length=3, lora_rank=2,
        device="cpu",
    )  # fmt: skip
    assert len(rankscope.generate(tuned, examples(), max_new_tokens=3, device="cpu")) == 3
    run = rankscope.collect(tuned, examples(), rows="answer", out=tmp_path / "r.pt", device="cpu")
    assert {site.stack for site in run.sites} == {"decoder"}


@torch.no_grad()
def answer_by_hand(model: Any, processor: Any, example: Example) -> tuple[torch.Tensor, list[int]]:
    """The loss of each token of an answer and its end, and what is said greedily, from the parts of BLIP's question answerer."""
    asked = processor(images=example.open_image(), text=example.text, return_tensors="pt")
    seen = model.vision_model(asked["pixel_values"]).last_hidden_state
    read = model.text_encoder(asked["input_ids"], encoder_hidden_states=seen).last_hidden_state

    def says(ids: list[int]) -> torch.Tensor:
        return model.text_decoder(torch.tensor([ids]), encoder_hidden_states=read, use_cache=False).logits[0]

    start, end = model.config.text_config.bos_token_id, processor.tokenizer.sep_token_id
    answer = [*processor.tokenizer(example.target, add_special_tokens=False)["input_ids"], end]
    said = [start]
    for _ in range(3):
        said.append(int(says(said)[-1].argmax()))
    loss = torch.nn.functional.cross_entropy(says([start, *answer[:-1]]), torch.tensor(answer), reduction="none")
    return loss, said[1:]


@pytest.mark.parametrize("method", ["none", "lora", "full", "prefix", "pt-lora"])
def test_the_question_answerer_of_blip_learns_what_it_is_asked_for(method: str, tmp_path: Path) -> None:
    tiny_seeing.save_blip_answerer(tmp_path / "base")
    data = [replace(e, text=f"{e.text} how ?" * i) for i, e in enumerate(examples(), 1)]
    into, own = tmp_path / "base", {"steps": 3, "batch_size": 3, "prefix_length": 3, "lora_rank": 2}
    if method != "none":
        into = tmp_path / "tuned"
        rankscope.train(tmp_path / "base", data=data, out=into, method=method, learning_rate=1e-2, device="cpu", **own)
        assert held_out_loss(into, data) < held_out_loss(tmp_path / "base", data)
    model = load_model(into)
    each = [answer_by_hand(model, reader(model, into).inputs.processor, e) for e in data]
    assert held_out_loss(into, data) == pytest.approx(float(torch.cat([loss for loss, _ in each]).mean()), rel=1e-5)
    asked = prompt_reader(model, reader(model, into))
    said = [continuations(model, asked, prompt_inputs(model, asked, [e], room=3), {"max_new_tokens": 3}) for e in data]
    assert [[*tokens[0].tolist()] for tokens in said] == [
        tokens[: len(s[0])] for (_, tokens), s in zip(each, said, strict=True)
    ]
    with pytest.raises(UsageError, match=r"drops their mask\); ask one at a time"):
        continuations(model, asked, prompt_inputs(model, asked, data, room=3), {"max_new_tokens": 3})
    assert len(rankscope.generate(into, data, max_new_tokens=3, device="cpu")) == 3
    run = rankscope.collect(into, data, rows="answer", out=tmp_path / "r.pt", device="cpu")
    words = reader(model, into).inputs.tokenizer
    counts = [len(words(e.target, add_special_tokens=False)["input_ids"]) for e in data]
    assert {site.stack for site in run.sites} == {"decoder"}
    assert run.n("decoder.0") == sum(counts)


def test_the_table_is_swept_whole() -> None:
    assert len(TRAINED) == 12
