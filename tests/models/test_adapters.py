"""Adapters onto bases: they land whole or are refused by name, and several compose as their order says."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from rankscope.checkpoint import Checkpoint, digest
from rankscope.errors import CheckpointError, UnsafeError
from rankscope.models.describe import describe
from rankscope.models.load import load_base, load_model
from rankscope.models.tunings.attach import attach
from rankscope.models.tunings.bottleneck import BottleneckConfig, register_bottleneck
from rankscope.sites import Site

WEIGHTS = "adapter_model.safetensors"
IDS = torch.randint(10, 200, (2, 7), generator=torch.Generator().manual_seed(3))
TARGETS = ["q_proj", "v_proj"]
LM = {"task_type": "CAUSAL_LM"}
Fault = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """PEFT itself warns of names that transformers is about to change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"peft|transformers")
        register_bottleneck()
        yield


def adapter(config: peft.PeftConfig, base: Path, folder: Path, *, seed: int = 1, stir: str = "") -> Path:
    """An adapter folder written by plain PEFT; ``stir`` names modules whose weights are changed before."""
    torch.manual_seed(seed)
    tuned = peft.get_peft_model(tiny.open_base(base), config)
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if stir and stir in name:
                p.add_(0.5 * torch.randn_like(p))
    for held in tuned.peft_config.values():
        held.base_model_name_or_path = str(base)
    tuned.save_pretrained(folder)
    return folder


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


def lora(r: int = 2, **options: Any) -> peft.LoraConfig:
    return peft.LoraConfig(r=r, init_lora_weights=False, **{"target_modules": TARGETS, **LM, **options})


KINDS: dict[str, peft.PeftConfig] = {
    "dora": lora(use_dora=True),
    "rslora": lora(use_rslora=True),
    "embedding": lora(target_modules=["embed_tokens", "q_proj"]),
    "head": lora(modules_to_save=["lm_head"]),
    "biases": lora(bias="lora_only"),
    "adalora": peft.AdaLoraConfig(
        init_r=4, target_r=2, total_step=9, target_modules=TARGETS, init_lora_weights=False, **LM
    ),
    "loha": peft.LoHaConfig(r=2, target_modules=TARGETS, init_weights=False, **LM),
    "lokr": peft.LoKrConfig(r=2, target_modules=TARGETS, init_weights=False, **LM),
    "vera": peft.VeraConfig(r=2, target_modules=TARGETS, init_weights=False, **LM),
    "oft": peft.OFTConfig(oft_block_size=4, r=0, target_modules=TARGETS, init_weights=False, **LM),
    "ia3": peft.IA3Config(target_modules=TARGETS, feedforward_modules=[], init_ia3_weights=False, **LM),
    "bottleneck": BottleneckConfig(target_modules=["out_proj", "fc2"], bottleneck_size=3, init_weights=False, **LM),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=4, **LM),
    "prefix of an MLP": peft.PrefixTuningConfig(
        num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=8, **LM
    ),
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=4, **LM),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_what_plain_peft_gives(folder: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    path = adapter(KINDS[kind], folder("opt"), tmp_path / "adapter")
    model = load_model(path)
    want = peft.PeftModel.from_pretrained(tiny.open_base(folder("opt")), path).eval()
    torch.testing.assert_close(logits(model), logits(want), rtol=1e-6, atol=1e-5)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


PAIRS = [("lora", "lora2"), ("lora", "ia3"), ("ia3", "lora"), ("lora", "bottleneck"), ("bottleneck", "lora")]
PAIRS += [("prefix", "lora"), ("lora", "prefix"), ("prefix", "bottleneck"), ("prompt", "lora")]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{a}-{b}" for a, b in PAIRS])
def test_two_adapters_act_together(folder: Callable[..., Path], tmp_path: Path, first: str, second: str) -> None:
    kinds = {**KINDS, "lora": lora(), "lora2": lora(3, target_modules=["k_proj", "v_proj"])}
    kinds["ia3"] = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], init_ia3_weights=False, **LM)
    paths = {
        name: adapter(kinds[name], folder("opt"), tmp_path / name, seed=i) for i, name in enumerate((first, second), 1)
    }
    model = load_model([folder("opt"), *paths.values()])
    # The reference folds the LoRA into the base, and puts the other around it.
    if "lora" in paths:
        other = next(path for name, path in paths.items() if name != "lora")
        want: Any = peft.PeftModel.from_pretrained(tiny.open_base(folder("opt")), paths["lora"]).merge_and_unload()
        want = peft.PeftModel.from_pretrained(want, other).eval()
        torch.testing.assert_close(logits(model), logits(want), rtol=1e-5, atol=2e-5)
    for alone in paths.values():
        single, both = logits(load_model(alone)), logits(model)
        assert single.shape != both.shape or (single - both).abs().max() > 1e-3


def test_half_precision_bases_are_composed_as_they_are_wrapped(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = adapter(lora(), folder("opt"), tmp_path / "lora")
    second = adapter(lora(target_modules=["fc1"]), folder("opt"), tmp_path / "second", seed=2)
    alone, both = load_model(path, dtype="bfloat16"), load_model([path, second], dtype="bfloat16")
    for model in (alone, both):
        kinds = {p.dtype for name, p in model.named_parameters() if "lora_" in name}
        assert kinds == {torch.float32}
        assert logits(model).dtype == torch.bfloat16


def test_a_classifier_beside_a_prefix_lands(tmp_path: Path) -> None:
    tok = tiny.tokenizer("[CLS] $A [SEP]", **tiny.BERT)
    config = BertConfig(
        vocab_size=len(tok), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=3
    )  # fmt: skip
    base = tmp_path / "base"
    tiny.spread(BertForSequenceClassification(config), 0).save_pretrained(base)
    for kind in (peft.PrefixTuningConfig, peft.PromptTuningConfig):
        path = adapter(
            kind(num_virtual_tokens=4, task_type="SEQ_CLS"), base, tmp_path / kind.__name__, stir="classifier"
        )
        want = peft.PeftModel.from_pretrained(tiny.open_base(base), path).eval()
        torch.testing.assert_close(logits(load_model(path)), logits(want), rtol=1e-6, atol=1e-5)


def rewritten(change: Callable[[dict[str, Tensor]], object]) -> Fault:
    def fault(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return fault


def configured(**entries: object) -> Fault:
    def fault(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **entries}))

    return fault


def as_bin(change: Callable[[dict[str, Any]], object]) -> Fault:
    def fault(folder: Path) -> None:
        tensors: dict[str, Any] = dict(load_file(folder / WEIGHTS))
        (folder / WEIGHTS).unlink()
        change(tensors)
        torch.save(tensors, folder / "adapter_model.bin")

    return fault


def first(tensors: dict[str, Tensor]) -> str:
    return sorted(tensors)[0]


FAULTS: dict[str, tuple[str, Fault, str]] = {
    "a key missing": ("lora", rewritten(lambda t: t.pop(first(t))), r"does not land: 1 missing \(.*lora_A"),
    "half the keys missing": (
        "lora",
        rewritten(lambda t: [t.pop(k) for k in sorted(t)[::2]]),
        "does not land: .* missing",
    ),
    "a key left over": (
        "lora",
        rewritten(lambda t: t.update(more=torch.zeros(1))),
        "does not land: 1 unexpected",
    ),
    "keys of another base": (
        "lora",
        rewritten(lambda t: [t.update({k.replace("decoder", "coder"): t.pop(k)}) for k in sorted(t)]),
        "does not land: .*missing.*unexpected.*made for another base",
    ),
    "a NaN": ("lora", rewritten(lambda t: t[first(t)].fill_(float("nan"))), "1 tensors hold NaN"),
    "another shape": ("lora", rewritten(lambda t: t.update({first(t): torch.zeros(2, 2)})), "does not fit this base"),
    "another rank": ("lora", configured(r=4), "does not fit this base.*size mismatch"),
    "other targets": ("lora", configured(target_modules=["nonesuch"]), "does not fit this base.*nonesuch"),
    "more targets": ("lora", configured(target_modules=["q_proj", "v_proj", "k_proj", "fc2"]), "missing"),
    "fewer targets": ("lora", configured(target_modules=["v_proj"]), "unexpected"),
    "an unknown kind": ("lora", configured(peft_type="NONESUCH"), "kind 'nonesuch', which PEFT .* does not know"),
    "no kind": ("lora", configured(peft_type=None), "names no peft_type"),
    "a rank of none": ("lora", configured(r=0), "does not fit this base|is no configuration"),
    "a LoRA that was never trained": (
        "lora",
        rewritten(lambda t: [t[k].zero_() for k in t if "lora_B" in k]),
        "changes nothing.*saved before it was trained",
    ),
    "an IA³ that was never trained": ("ia3", rewritten(lambda t: [v.fill_(1) for v in t.values()]), "changes nothing"),
    "a bottleneck that was never trained": (
        "bottleneck",
        rewritten(lambda t: [t[k].zero_() for k in t if "up" in k]),
        "changes nothing",
    ),
    "weights missing": ("lora", lambda p: (p / WEIGHTS).unlink(), "has no weights: none of adapter_model"),
    "weights empty": ("lora", lambda p: (p / WEIGHTS).write_bytes(b""), "is empty"),
    "weights cut": (
        "lora",
        lambda p: (p / WEIGHTS).write_bytes((p / WEIGHTS).read_bytes()[:-9]),
        "truncated or altered",
    ),
    "config cut": ("lora", lambda p: (p / "adapter_config.json").write_text('{"peft'), "is not valid JSON"),
    "config empty": ("lora", lambda p: (p / "adapter_config.json").write_text(""), "is empty"),
    "base gone": (
        "lora",
        configured(base_model_name_or_path="gone/away"),
        "'gone/away'.*neither a folder.*--base-model",
    ),
    "base not named": (
        "lora",
        configured(base_model_name_or_path=None),
        "names no base model; give it with --base-model",
    ),
    "a prefix without rows": (
        "prefix",
        rewritten(lambda t: (t.clear(), t.update(x=torch.zeros(1)))),
        "prompt_embeddings",
    ),
    "a prefix of another shape": (
        "prefix",
        rewritten(lambda t: t.update(prompt_embeddings=torch.zeros(4, 8))),
        "belongs to another base",
    ),
    "a prefix with NaN": ("prefix", rewritten(lambda t: t["prompt_embeddings"].fill_(float("nan"))), "NaN"),
    "a prefix with more": ("prefix", rewritten(lambda t: t.update(more=torch.zeros(1))), "does not land: 1 unexpected"),
    "a prompt without rows": ("prompt", rewritten(lambda t: (t.clear(), t.update(x=torch.zeros(1)))), "1 missing"),
    "a prompt of another width": (
        "prompt",
        rewritten(lambda t: t.update(prompt_embeddings=torch.zeros(4, 8))),
        "does not fit this base",
    ),
    "a prompt with more": ("prompt", rewritten(lambda t: t.update(more=torch.zeros(1))), "does not land: 1 unexpected"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_spoilt_adapter_is_named(folder: Callable[..., Path], tmp_path: Path, name: str) -> None:
    kind, fault, told = FAULTS[name]
    path = adapter({**KINDS, "lora": lora()}[kind], folder("opt"), tmp_path / "adapter")
    load_model(path)
    fault(path)
    with pytest.raises(CheckpointError, match=told):
        load_model(path)


def test_the_faults_are_swept() -> None:
    assert len(FAULTS) == 30


def test_an_untrained_adapter_is_attached_where_training_begins(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = adapter(peft.LoraConfig(r=2, target_modules=TARGETS, **LM), folder("opt"), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="changes nothing"):
        load_model(path)
    checkpoint = Checkpoint.read(path)
    model = attach(load_base(checkpoint.weights), checkpoint, must_change=False)
    torch.testing.assert_close(logits(model), logits(tiny.open_base(folder("opt"))))


def test_entries_that_this_peft_does_not_know_are_no_fault(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = adapter(lora(), folder("opt"), tmp_path / "adapter")
    want = logits(load_model(path))
    configured(of_next_year={"a": 1}, auto_mapping={"parent_library": "os", "base_model_class": "system"})(path)
    assert torch.equal(logits(load_model(path)), want)


def test_an_old_bin_is_read_and_a_hostile_one_is_not(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = adapter(lora(), folder("opt"), tmp_path / "adapter")
    want = logits(load_model(path))
    as_bin(lambda t: None)(path)
    assert torch.equal(logits(load_model(path)), want)
    torch.save({"x": Path("/")}, path / "adapter_model.bin")
    with pytest.raises(UnsafeError, match="pickle with more than tensors"):
        load_model(path)


def test_another_base_of_the_same_shape_is_caught_by_its_digest(folder: Callable[..., Path], tmp_path: Path) -> None:
    other = tiny.save_base("opt", tmp_path / "other", seed=9)
    stages = tmp_path / "stages"
    adapter(lora(), folder("opt"), stages / "0-lora")
    record = {"base": str(folder("opt")), "base_digest": digest(folder("opt")), "stages": ["0-lora"]}
    (stages / "rankscope.json").write_text(json.dumps(record))
    assert describe(stages).base_verified is True
    load_model(stages)
    with pytest.raises(CheckpointError, match=r"was tuned on a base with digest .*it is another model.*--base-model"):
        load_model(stages, base_model=other)
    assert describe(stages / "0-lora", base_model=other).base_verified is None


def test_stages_are_read_in_the_order_of_their_numbers(folder: Callable[..., Path], tmp_path: Path) -> None:
    stages = tmp_path / "stages"
    adapter(KINDS["prefix"], folder("opt"), stages / "0-prefix")
    adapter(lora(), folder("opt"), stages / "1-lora")
    adapter(KINDS["bottleneck"], folder("opt"), stages / "10-adapter")
    found = Checkpoint.read(stages)
    assert [t.kind for t in found.tunings] == ["prefix_tuning", "lora", "bottleneck"]
    listed = load_model([stages / name for name in ("0-prefix", "1-lora", "10-adapter")])
    assert torch.equal(logits(load_model(stages)), logits(listed))


def test_a_whole_model_as_a_stage_takes_the_place_of_the_base(folder: Callable[..., Path], tmp_path: Path) -> None:
    stages = tmp_path / "stages"
    adapter(KINDS["prefix"], folder("opt"), stages / "0-prefix")
    tiny.save_base("opt", stages / "1-full", seed=7)
    (stages / "rankscope.json").write_text(json.dumps({"base": str(folder("opt")), "stages": ["0-prefix", "1-full"]}))
    found = Checkpoint.read(stages)
    assert (found.base, found.weights) == (folder("opt"), stages / "1-full")
    want = peft.PeftModel.from_pretrained(tiny.open_base(stages / "1-full"), stages / "0-prefix").eval()
    torch.testing.assert_close(logits(load_model(stages)), logits(want), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("record", "error", "told"),
    [
        ({"stages": ["../opt"]}, UnsafeError, "outside its own folder"),
        ({"stages": [3]}, CheckpointError, "stages must be a list of folder names"),
        ({"stages": ["nonesuch"]}, CheckpointError, "there is no folder"),
    ],
)
def test_a_record_that_cannot_be_meant_is_named(tmp_path: Path, record: object, error: type, told: str) -> None:
    (tmp_path / "rankscope.json").write_text(json.dumps(record))
    with pytest.raises(error, match=told):
        Checkpoint.read(tmp_path)


def test_a_name_in_the_local_hub_cache_is_read(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    home, commit = tmp_path / "hub" / "models--tiny--opt", "a" * 40
    shutil.copytree(folder("opt"), home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    assert Checkpoint.read("tiny/opt").base == home / "snapshots" / commit
    path = adapter(lora(), folder("opt"), tmp_path / "adapter")
    configured(base_model_name_or_path="tiny/opt")(path)
    assert Checkpoint.read(path).digest == Checkpoint.read(path, base_model=folder("opt")).digest
    load_model(path)
    configured(revision="b" * 40)(path)
    with pytest.raises(CheckpointError, match=r"'tiny/opt'.*nor in the local Hub cache"):
        Checkpoint.read(path)
    with pytest.raises(
        CheckpointError, match="no repository of that name in the local Hub cache; nothing is downloaded"
    ):
        Checkpoint.read("tiny/other")


def test_two_prefixes_are_refused(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = adapter(KINDS["prefix"], folder("opt"), tmp_path / "prefix")
    with pytest.raises(CheckpointError, match="a model takes one prefix"):
        load_model([folder("opt"), path, path])


def test_a_base_that_is_no_model_is_refused(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = adapter(lora(), folder("opt"), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=r"adapter' of .*adapter is an adapter, not a full model; give it with"):
        load_model(path, base_model=path)
    with pytest.raises(
        CheckpointError, match=r"the base model '.*' of .*adapter is not one: .* holds several adapters"
    ):
        load_model(path, base_model=tmp_path / "adapter" / "..")


def test_inspection_tells_what_a_checkpoint_is(folder: Callable[..., Path], tmp_path: Path) -> None:
    prefix = adapter(KINDS["prefix"], folder("opt"), tmp_path / "prefix")
    path = adapter(lora(), folder("opt"), tmp_path / "lora")
    told = describe([prefix, path])
    assert (told.model, told.model_type, told.dtype) == ("OPTForCausalLM", "opt", "float32")
    assert told.lands
    assert told.trouble == ""
    assert [(t.kind, t.parameters) for t in told.tunings] == [
        ("prefix_tuning", 4 * 3 * 2 * 32),
        ("lora", 3 * 2 * 2 * 64),
    ]
    assert told.sites == dict.fromkeys([Site("decoder", p) for p in ("embed", "0", "1", "2", "final")], 32)
    assert 1 < told.effective_prefix_rows["decoder"] <= 4
    rewritten(lambda t: t.pop(first(t)))(path)
    spoilt = describe(path)
    assert not spoilt.lands
    assert "does not land" in spoilt.trouble
