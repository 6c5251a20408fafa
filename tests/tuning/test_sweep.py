"""Every family takes a step under every method that makes sense for it; the rest are refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from tuning_data import examples, made_recipe, step

from rankscope.data import ProbeSet
from rankscope.errors import UsageError
from rankscope.models.inputs.reader import reader
from rankscope.models.load import load_model
from rankscope.tuning.batches import PairEncoder, check_task, collate, task_of, training_pairs
from rankscope.tuning.recipes import METHODS
from rankscope.tuning.stages import attach_kinds, kind_of, save_kinds, set_trainable

TRAINED = ("gpt2", "opt", "llama", "t5", "bart", "vit", "blip2-opt", "blip2-t5", "llava", "bert-classifier")
REFUSED = {"bert": "generates no text", "clip": "generates no text"}


def test_every_family_is_trained_or_refused() -> None:
    assert {*TRAINED, *REFUSED} - {"bert-classifier"} == set(tiny.FAMILIES)


@pytest.mark.parametrize("name", TRAINED)
def test_a_family_takes_a_step_under_every_method(base: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    folder, data = base(name), ProbeSet(name, examples(name, 2))
    plain = load_model(folder)
    swept = 0
    for method in METHODS:
        model, made = copy.deepcopy(plain), made_recipe(method, prefix_length=3, lora_rank=2, adapter_size=2)
        kinds: list[str] = []
        for stage in made.stages:
            torch.manual_seed(0)
            attach_kinds(model, stage.attach, made)
            kinds += stage.attach
        task = task_of(plain, data, reader(plain, folder))
        check_task(task, plain, data, reader(plain, folder))
        head = task == "classification"
        trained = set_trainable(model, stage.train, made, head=head)
        assert {kind_of(n) for n in trained} == {*stage.train, *(["full"] if head else [])}
        reading = reader(model, folder)
        encode = PairEncoder(reading, task)
        inputs = collate(reading, [encode(pair) for pair in training_pairs(data, task)])
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        step(model, trained, inputs)
        frozen = [n for n, p in model.named_parameters() if n not in trained and not torch.equal(p, before[n])]
        assert frozen == []
        assert any(not torch.equal(p, before[n]) for n, p in trained.items())
        into = tmp_path / method
        names = save_kinds(model, kinds, into, base=str(folder), head=head, processor=reading.inputs.processor)
        back = load_model([folder, *(into / n for n in names)])
        with torch.no_grad():
            torch.testing.assert_close(back(**inputs).loss, model(**inputs).loss, rtol=0, atol=1e-6)
        swept += 1
    assert swept == 13


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_says_nothing_is_refused(base: Callable[[str], Path], name: str) -> None:
    model = load_model(base(name))
    with pytest.raises(UsageError, match=REFUSED[name]):
        check_task("lm", model, ProbeSet("x", examples("gpt2", 1)), reader(model, base(name)))
    with pytest.raises(UsageError, match="no classification head"):
        check_task("classification", model, ProbeSet("x", examples("gpt2", 1)), reader(model, base(name)))
