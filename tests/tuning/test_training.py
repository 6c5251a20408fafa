"""Training: what is trained, what is kept, what repeats, what continues, and what stops it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import small
import tiny
import tiny_ofa
import torch
import transformers as tf
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import TrainerCallback
from tuning_data import SMALL, examples, made_recipe, same, weights

from rankscope.data import Example
from rankscope.errors import (
    CheckpointError,
    DataError,
    RankscopeError,
    UnknownName,
    UsageError,
)
from rankscope.models.load import load_model
from rankscope.tuning import held_out_loss, train
from rankscope.tuning.recipes import METHODS
from rankscope.tuning.stages import attach_kinds

IDS = torch.arange(10, 20)[None]


class Watch(TrainerCallback):
    """What is trained in each stage, whether the rest stays, and what the model says before and after."""

    def __init__(self) -> None:
        self.trained: list[set[str]] = []
        self.moved: list[set[str]] = []
        self.begun: list[torch.Tensor] = []
        self.ended: list[torch.Tensor] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any) -> None:
        self.before = {name: p.detach().clone() for name, p in model.named_parameters()}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.trained.append({name for name, p in model.named_parameters() if id(p) in held})
        self.begun.append(self.said(model))

    def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        self.moved.append({name for name, p in model.named_parameters() if not torch.equal(p, self.before[name])})
        self.ended.append(self.said(model))

    @torch.no_grad()
    def said(self, model: Any) -> torch.Tensor:
        logits: torch.Tensor = model.eval()(IDS).logits
        model.train()
        return logits


BLOCKS = [f"transformer.h.{i}" for i in range(3)]
ENDS = [f"{block}.{part}.c_proj" for block in BLOCKS for part in ("attn", "mlp")]
NAMES = {
    "prefix": {"embedding", "network.0.weight", "network.0.bias", "network.3.weight", "network.3.bias"},
    "lora": {f"{block}.attn.c_attn.lora_{side}.lora.weight" for block in BLOCKS for side in "AB"},
    "adapter": {
        f"{end}.bottleneck_{way}.adapter.{n}" for end in ENDS for way in ("down", "up") for n in ("weight", "bias")
    },
}
"""What a method trains in a GPT-2, by the names in the model."""
NAMES["prefix"] = {f"rankscope_prefix.stacks.decoder.{name}" for name in NAMES["prefix"]}


def test_pt_lora_trains_where_keys_and_values_are_made_of_one_latent(tmp_path: Path) -> None:
    tok = tiny.tokenizer("<s> $A </s>", **tiny.LLAMA)
    ends = {f"{end}_token_id": getattr(tok, f"{end}_token_id") for end in ("pad", "bos", "eos")}
    config = small.small_config("deepseek_v3", vocab_size=len(tok), **ends)
    small.jittered(small.small_model(config, tf.AutoModelForCausalLM)).save_pretrained(tmp_path / "base")
    tok.save_pretrained(tmp_path / "base")
    watch, own = Watch(), {**SMALL, "lora_targets": "kv_b_proj,o_proj"}
    train(
        tmp_path / "base",
        method="pt-lora",
        data=examples("gpt2", 4),
        out=tmp_path / "o",
        steps=2,
        callbacks=[watch],
        **own,
    )
    assert [len(moved) > 0 for moved in watch.moved] == [True, True]
    assert_close(watch.said(load_model(tmp_path / "o")), watch.ended[-1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(watch.ended[0], watch.ended[-1])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_trains_what_it_says(base: Callable[[str], Path], method: str, tmp_path: Path) -> None:
    """Six texts are learnt by heart: no untrained model comes below the floor. All else stays as it was, bit for bit."""
    data, watch, made = examples("gpt2", 6), Watch(), made_recipe(method)
    done = train(
        base("gpt2"), method=method, data=data, out=tmp_path / "o", steps=12, learning_rate=2e-2, warmup=0.0,
        callbacks=[watch], **SMALL,
    )  # fmt: skip
    own = {name for name, _ in tiny.open_base(base("gpt2")).named_parameters()}
    for stage, trained, moved in zip(made.stages, watch.trained, watch.moved, strict=True):
        named = {name.replace(".base_layer.", ".") for name in trained}
        assert named == set().union(*({**NAMES, "full": own}[kind] for kind in stage.train))
        assert moved == trained
    for stage, ended, begun in zip(made.stages[1:], watch.ended[:-1], watch.begun[1:], strict=True):
        assert torch.equal(ended, begun) == (stage.attach != ("prefix",)), (
            "a new prefix is never nothing, the others are"
        )
    before, after = held_out_loss(base("gpt2"), data), held_out_loss(tmp_path / "o", data)
    assert after < before - 0.5
    assert [entry["name"] for entry in done.training] == [stage.name for stage in made_recipe(method).stages]
    record = json.loads((tmp_path / "o" / "rankscope.json").read_text())
    assert [s["kind"] for s in record["stages"]] == [kind for stage in done.recipe.stages for kind in stage.attach]
    assert record["base"] == str(base("gpt2").resolve())
    assert len(record["base_digest"]) == 64
    assert not (tmp_path / "o" / ".training").exists()


def test_trained_numbers_are_those_of_the_method(base: Callable[[str], Path], tmp_path: Path) -> None:
    done = train(base("gpt2"), method="pt-lora", data=examples("gpt2"), out=tmp_path / "o", steps=1, **SMALL)
    # GPT-2 with 3 blocks of width 32: A is 2 × 32 and B is 96 × 2 in each; the prefix's network is 3 × 32 + (32 + 1) × 32 + (32 + 1) × 192.
    lora, prefix = 3 * (2 * 32 + 96 * 2), 3 * 32 + 33 * 32 + 33 * 192
    assert [entry["trained"] for entry in done.training] == [{"prefix": prefix}, {"prefix": prefix, "lora": lora}]


def test_a_frozen_prefix_stays_as_the_first_stage_ended_it(base: Callable[[str], Path], tmp_path: Path) -> None:
    for frozen in (False, True):
        train(
            base("gpt2"), method="pt-lora", data=examples("gpt2"), out=tmp_path / str(frozen), steps=[2, 3],
            freeze_prefix=frozen, keep_epochs=True, **SMALL,
        )  # fmt: skip
    first, kept = tmp_path / "True" / "epochs" / "stage-0-epoch-1", tmp_path / "True"
    assert torch.equal(
        *(load_file(f / "0-prefix" / "adapter_model.safetensors")["prompt_embeddings"] for f in (first, kept))
    )
    assert not same(tmp_path / "False", kept)


@pytest.mark.parametrize("kind", ["lora", "adapter", "full"])
@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_second_stage_starts_where_the_first_ended(base: Callable[[str], Path], name: str, kind: str) -> None:
    made, model = made_recipe(f"pt-{kind}"), load_model(base(name))
    attach_kinds(model, ("prefix",), made)
    model.eval()
    before = model(input_ids=IDS).logits
    attach_kinds(model, (kind,), made)
    assert torch.equal(model.eval()(input_ids=IDS).logits, before)


def test_a_new_process_opens_each_part_as_it_was(base: Callable[[str], Path], tmp_path: Path) -> None:
    """With plain PEFT, which knows the bottleneck adapter once it is registered; the whole with rankscope."""
    out = tmp_path / "o"
    train(base("gpt2"), method="pt-adapter", data=examples("gpt2"), out=out, steps=2, learning_rate=1e-2, **SMALL)
    model = load_model(out)
    whole = model(IDS).logits
    prefix = load_model([base("gpt2"), out / "0-prefix"])(IDS).logits
    adapter = load_model([base("gpt2"), out / "1-adapter"])(IDS).logits
    torch.save({"whole": whole, "0-prefix": prefix, "1-adapter": adapter}, tmp_path / "expected.pt")
    code = """
import rankscope, sys, warnings, torch, peft, transformers
rankscope.register()
warnings.simplefilter("ignore")
base, out, expected = sys.argv[1], sys.argv[2], torch.load(sys.argv[3], weights_only=True)
ids = torch.arange(10, 20)[None]
for part in ("0-prefix", "1-adapter"):
    model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), f"{out}/{part}").eval()
    torch.testing.assert_close(model(ids).logits, expected[part], rtol=0, atol=1e-6)
torch.testing.assert_close(rankscope.load_model(out)(ids).logits, expected["whole"], rtol=0, atol=1e-6)
print("3 alike")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(base("gpt2")), str(out), str(tmp_path / "expected.pt")], capture_output=True, text=True
    )  # fmt: skip
    assert done.stdout.strip() == "3 alike", done.stderr[-2000:]
    assert (whole - prefix).abs().max() > 1e-3
    assert (whole - adapter).abs().max() > 1e-3


def test_epochs_are_kept_as_checkpoints(base: Callable[[str], Path], tmp_path: Path) -> None:
    train(base("gpt2"), method="lora", data=examples("gpt2"), out=tmp_path / "o", epochs=3, keep_epochs=True, **SMALL)
    kept = sorted((tmp_path / "o" / "epochs").iterdir())
    assert [k.name for k in kept] == [f"stage-0-epoch-{i}" for i in (1, 2, 3)]
    logits = [load_model(k)(IDS).logits for k in (*kept, tmp_path / "o")]
    assert not torch.equal(logits[0], logits[1])
    assert_close(logits[2], logits[3], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "task"),
    [("blip2-opt", "captioning"), ("blip2-t5", "vqa"), ("llava", "captioning"), ("t5", "seq2seq"), ("opt", "lm"),
     ("bert-classifier", "classification"), ("vit", "classification")],
)  # fmt: skip
def test_every_task_trains_and_comes_back(base: Callable[[str], Path], name: str, task: str, tmp_path: Path) -> None:
    data, out = examples(name, 4), tmp_path / "o"
    train(base(name), method="pt-lora", data=data, out=out, task=task, steps=4, learning_rate=1e-2, **SMALL)
    assert held_out_loss(out, data, task=task) < held_out_loss(base(name), data, task=task)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_a_head_of_two_layers_is_kept_whole(method: str, tmp_path: Path) -> None:
    """DistilBERT's: PEFT takes ``pre_classifier`` for a head too, and waits for its weights."""
    tok = tiny.tokenizer("[CLS] $A [SEP]", **tiny.BERT)
    config = tf.DistilBertConfig(
        vocab_size=len(tok), dim=32, hidden_dim=48, n_layers=2, n_heads=4, num_labels=3, pad_token_id=tok.pad_token_id
    )  # fmt: skip
    tiny.spread(tf.DistilBertForSequenceClassification(config), 0).save_pretrained(tmp_path / "base")
    tok.save_pretrained(tmp_path / "base")
    data = examples("bert-classifier", 4)
    done = train(tmp_path / "base", method=method, data=data, out=tmp_path / "o", steps=2, learning_rate=1e-2, **SMALL)
    assert done.training[0]["trained"]["head"] == 32 * 33 + 33 * 3
    whole = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    plain = peft.PeftModel.from_pretrained(whole, tmp_path / "o" / f"0-{method}").eval()
    assert_close(plain(IDS).logits, load_model(tmp_path / "o")(IDS).logits, rtol=0, atol=1e-6)
    assert (load_model(tmp_path / "base")(IDS).logits - plain(IDS).logits).abs().max() > 1e-4


def test_a_file_of_options_trains_as_options_do(base: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('method = "lora"\nsteps = 2\nbatch_size = 4\n[lora]\nrank = 2\n')
    data = examples("gpt2")
    train(base("gpt2"), data=data, out=tmp_path / "a", config=tmp_path / "r.toml", device="cpu")
    train(base("gpt2"), method="lora", steps=2, batch_size=4, lora_rank=2, data=data, out=tmp_path / "b", device="cpu")
    assert same(tmp_path / "a", tmp_path / "b")


LONG = [Example("long", text="five " * 200)]
BARE = [Example(text, text=text, image=tiny.picture(0)) for text in ("five", "six")]


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("gpt2", {"method": "lore"}, UnknownName, "no method 'lore'"),
        ("gpt2", {"lora_targets": "q_proj"}, UnknownName, "no linear map 'q_proj'; it has c_attn"),
        ("gpt2", {"lora_stacks": "encoder"}, UnknownName, "no stack of blocks encoder; it has decoder"),
        ("gpt2", {"method": "prefix", "prefix_stacks": "vision"}, UnknownName, "no stack 'vision' for a prefix"),
        ("gpt2", {"task": "painting"}, UnknownName, "no task 'painting'"),
        ("gpt2", {"task": "captioning"}, UsageError, "needs a model that reads images, or sounds"),
        ("gpt2", {"task": "seq2seq"}, DataError, "seq2seq needs targets in every example; 8 of 8"),
        ("gpt2", {"method": "lora,scst"}, UsageError, "SCST rewards captions; the task is lm"),
        ("gpt2", {"method": "pt-lora", "lora_targets": "q_proj"}, UnknownName, "no linear map 'q_proj'"),
        ("gpt2", {"method": "lora-prefix", "gradient_checkpointing": True}, UsageError, "does not work with gradient"),
        ("gpt2", {"precision": "fp16"}, UsageError, "fp16 is for GPUs"),
        ("gpt2", {"device": "cuda:7"}, UsageError, "not on 'cuda:7'"),
        ("gpt2", {"seed": -1}, UsageError, "a seed is a whole number"),
        ("gpt2", {"data": LONG}, DataError, "'long' takes"),
        ("gpt2", {"max_length": 3}, DataError, "max_length is 3"),
        (
            "gpt2",
            {"method": "prefix", "gradient_checkpointing": True},
            UsageError,
            "does not work with gradient checkpointing",
        ),
        ("bert-classifier", {"data": [Example("a", text="five")]}, DataError, "needs a label"),
        ("bert-classifier", {"data": [Example("a", text="five", label=3)]}, DataError, "labels from 0 to 2; 1 of 1"),
        ("bert-classifier", {"max_length": 3}, DataError, "max_length is 3"),
        ("blip2-opt", {"data": BARE}, DataError, "captioning needs.*--column targets=text"),
        ("bert-classifier", {"method": "lora,adapter"}, UsageError, "cannot share a classification head"),
        ("bert-classifier", {"task": "lm"}, UsageError, "generates no text"),
        ("blip2-opt", {"data": [Example("a", text="five", targets=("x",))]}, DataError, "needs an image"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    base: Callable[[str], Path],
    name: str,
    change: dict[str, Any],
    error: type[RankscopeError],
    message: str,
    tmp_path: Path,
) -> None:
    given = {"method": "lora", "data": examples(name), "steps": 1, **SMALL, **change}
    with pytest.raises(error, match=message):
        train(base(name), out=tmp_path / "o", **given)
    assert not (tmp_path / "o").exists()


def test_mixed_precision_trains_on_a_cpu(base: Callable[[str], Path], tmp_path: Path) -> None:
    done = train(
        base("gpt2"), method="pt-lora", data=examples("gpt2"), out=tmp_path / "o", steps=1, precision="bf16", **SMALL
    )
    assert all(s["last_loss"] > 0 for s in done.training)
    assert {str(t.dtype) for t in weights(tmp_path / "o").values()} == {"torch.float32"}


def test_the_prefix_counts_in_the_positions(base: Callable[[str], Path], tmp_path: Path) -> None:
    data = [Example("a", text="five " * 24)]
    train(base("gpt2"), method="lora", data=data, out=tmp_path / "fits", steps=1, **SMALL)
    with pytest.raises(DataError, match="of them for the prefix"):
        train(base("gpt2"), method="prefix", data=data, out=tmp_path / "o", steps=1, **{**SMALL, "prefix_length": 120})


def test_a_changed_base_is_refused_when_the_checkpoint_is_opened(base: Callable[[str], Path], tmp_path: Path) -> None:
    own = tmp_path / "base"
    shutil.copytree(base("gpt2"), own)
    train(own, method="lora", data=examples("gpt2"), out=tmp_path / "o", steps=1, **SMALL)
    tiny.save_base("gpt2", own, seed=7)
    with pytest.raises(CheckpointError, match="another model, or was changed since"):
        load_model(tmp_path / "o")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_statistics_of_pre_training_stay(method: str, tmp_path: Path) -> None:
    """No adapter's folder holds those of OFA's batch normalisations: a model trained with others would come back as another."""
    tiny_ofa.save_published(tmp_path / "ofa")
    data = [Example(str(i), image=tiny.picture(i), targets=(text,)) for i, text in enumerate(tiny.SENTENCES[:4])]
    ends: list[dict[str, torch.Tensor]] = []

    class End(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
            ends.append(model.state_dict())

    train(tmp_path / "ofa", method=method, data=data, out=tmp_path / "o", steps=2, callbacks=[End()], **SMALL)
    before = load_model(tmp_path / "ofa").state_dict()
    found = [name for name in before if "running_" in name]
    assert len(found) > 10
    assert all(torch.equal(before[name], ends[0][name]) for name in found)
