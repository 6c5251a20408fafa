"""What is read where no data are given: embedded data that suit the model, and a note that says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf

import rankscope
from rankscope.checkpoint import Checkpoint
from rankscope.data import check, open_data
from rankscope.errors import DataError, UsageError
from rankscope.models.embedded import check_embedded, is_embedded

Folder = Callable[..., Path]
SUITED = {
    "gpt2": ("sentences", "embedded English sentences"),
    "bert": ("sentences", "embedded English sentences"),
    "t5": ("sentences", "embedded English sentences"),
    "vit": ("scenes:captions/test", "pictures of the embedded scenes"),
    "clip": ("scenes:pairs/test", "embedded scenes with their captions"),
    "blip2-opt": ("scenes:captions/test", "embedded scenes"),
    "llava": ("scenes:captions/test", "embedded scenes"),
}


@pytest.mark.parametrize("family", SUITED)
def test_what_suits_a_model_is_read_and_said(family: str, folder: Folder, tmp_path: Path) -> None:
    run = rankscope.collect(folder(family), n=2, rows="mean", out=tmp_path / "run.pt")
    name, words = SUITED[family]
    assert run.manifest.probe["name"] == name
    assert run.manifest.ids == open_data(name).ids[:2]
    (note,) = [str(n) for n in run.manifest.notes if "no data were given" in str(n)]
    assert note.startswith(f"no data were given, so 2 {words} are read ({name}); give your own with --data")
    named = rankscope.collect(folder(family), name, n=2, rows="mean", out=tmp_path / "named.pt")
    assert not any("no data were given" in str(n) for n in named.manifest.notes)
    site = run.sites[-1]
    assert torch.equal(run.features(site), named.features(site))


def test_sentences_are_many_and_no_two_are_alike() -> None:
    data = open_data("sentences")
    texts = [example.text for example in data]
    assert len(texts) == len(set(texts)) >= 300
    assert len({word for text in texts for word in text.lower().split()}) > 1500
    assert len({text.split()[0] for text in texts}) > 100
    assert {len(text.split()) for text in texts} > set(range(5, 24))
    assert open_data("sentences?n=7").ids == data.ids[:7]
    report = check("sentences")
    assert (report.good, report.examples, report.notices) == (True, len(texts), ())
    with pytest.raises(DataError, match="sentences holds 340 examples; 999 were asked for"):
        open_data("sentences", n=999)
    with pytest.raises(DataError, match="the sentences have no splits; test was asked for"):
        open_data("sentences", split="test")


def test_more_scenes_than_by_default_are_found_again_by_their_name() -> None:
    assert open_data("scenes?n=500").name == "scenes:captions/test?n=500"
    assert open_data(open_data("scenes?n=500").name).ids == open_data("scenes?n=500").ids
    assert open_data("scenes?n=9").name == "scenes:captions/test"


def test_the_embedded_model_is_known_by_its_network(folder: Folder, tmp_path: Path) -> None:
    embedded = rankscope.embedded_checkpoint()
    assert is_embedded(Checkpoint.read(embedded))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in embedded.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "5.0.0", "dtype": "bfloat16"}))
    assert is_embedded(Checkpoint.read(copy))
    config["text_config"]["num_attention_heads"] += 1
    (copy / "config.json").write_text(json.dumps(config))
    for other in (copy, folder("gpt2"), folder("blip2-opt"), folder("gpt2", "lora")):
        assert not is_embedded(Checkpoint.read(other))
        with pytest.raises(UsageError, match="suit the embedded model only; say so"):
            check_embedded(Checkpoint.read(other), instead="say so")


def test_the_embedded_model_is_measured_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rankscope.models.embedded.SCENES", "scenes?n=12")
    found = rankscope.measure(rankscope.embedded_checkpoint(), ["roy-vetterli"], groups=3, sites="decoder.1")
    assert found.records[0].shape.samples == 12


def test_sentences_that_do_not_fit_the_model_are_left_out(folder: Folder, tmp_path: Path) -> None:
    short = tmp_path / "short"
    shutil.copytree(folder("gpt2"), short)
    model = tf.GPT2LMHeadModel.from_pretrained(short)
    sizes = torch.tensor(
        [len(tf.AutoTokenizer.from_pretrained(short)(e.text)["input_ids"]) for e in open_data("sentences")]
    )
    limit = int(sizes.median())
    model.config.n_positions = limit
    model.transformer.wpe = torch.nn.Embedding(limit, model.config.n_embd)
    model.save_pretrained(short)
    run = rankscope.collect(short, out=tmp_path / "run.pt", sites="decoder.0")
    fitting = int((sizes <= limit).sum())
    assert 100 < len(run.manifest.ids) == fitting < len(sizes)
    assert f"so {fitting} embedded English sentences that fit the model are read (sentences)" in str(run.manifest.notes)
    with pytest.raises(DataError, match=r"sentences holds .* examples; 400 were asked for"):
        rankscope.collect(short, n=400, out=tmp_path / "more.pt")
