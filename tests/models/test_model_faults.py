"""Model folders with every fault that disks, downloads and strangers bring: each is named, none is loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining

from rankscope.checkpoint import Checkpoint
from rankscope.errors import CheckpointError, RankscopeError, UnsafeError
from rankscope.models.load import load_model

Fault = Callable[[Path], object]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
WEIGHTS = "model.safetensors"


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Fault:
    """A fault that changes the tensors of the weights."""

    def fault(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return fault


def configured(**entries: object) -> Fault:
    """A fault that sets entries of the configuration."""

    def fault(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **entries}))

    return fault


def cut(name: str, share: float) -> Fault:
    return lambda p: (p / name).write_bytes((p / name).read_bytes()[: int((p / name).stat().st_size * share)])


def written(name: str, content: str | bytes) -> Fault:
    return lambda p: (p / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def sharded(change: Callable[[Path, dict[str, str]], object]) -> Fault:
    """A fault in a folder whose weights are two shards with an index; ``change`` may alter the files and the map."""

    def fault(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = sorted(tensors)
        halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, keys in halves.items():
            save_file({k: tensors[k] for k in keys}, folder / file, metadata={"format": "pt"})
        placed = {k: file for file, keys in halves.items() for k in keys}
        change(folder, placed)
        if not (folder / f"{WEIGHTS}.index.json").exists():
            index = {"metadata": {"total_size": 1}, "weight_map": placed}
            (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return fault


def as_bin(change: Callable[[Path], object]) -> Fault:
    """A fault in a folder with ``pytorch_model.bin`` in place of safetensors."""

    def fault(folder: Path) -> None:
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
        change(folder)

    return fault


ONE = "transformer.h.0.mlp.c_fc.weight"
FAULTS: dict[str, tuple[Fault, str]] = {
    "config missing": (lambda p: (p / "config.json").unlink(), "has weights .* but no config.json"),
    "config empty": (written("config.json", ""), "config.json is empty"),
    "config cut": (cut("config.json", 0.5), "config.json is not valid JSON"),
    "config a list": (written("config.json", "[]"), "must hold a JSON object; it holds a list"),
    "config not text": (written("config.json", b"\xff\xfe\x00"), "is not valid JSON"),
    "config deep": (written("config.json", "[" * 100_000), "is not valid JSON|must hold"),
    "config a pointer": (written("config.json", LFS), "config.json is a Git LFS pointer"),
    "config a folder": (
        lambda p: ((p / "config.json").unlink(), (p / "config.json").mkdir()),
        "config.json is missing",
    ),
    "config of no type": (written("config.json", "{}"), "is not understood by transformers"),
    "config of an unknown type": (configured(model_type="nonesuch"), "model_type 'nonesuch'.*is not understood"),
    "config of another type": (
        configured(model_type="opt", architectures=["OPTForCausalLM"]),
        "does not fit OPTForCausalLM",
    ),
    "config with another width": (configured(n_embd=16), "mismatched .*in the file.*in the model"),
    "config with more blocks": (configured(n_layer=4), "12 missing"),
    "config with fewer blocks": (configured(n_layer=2), "11 unexpected"),
    "config of another head": (configured(architectures=["GPT2ForSequenceClassification"]), "1 missing .*score.weight"),
    "weights missing": (lambda p: (p / WEIGHTS).unlink(), "has no weights"),
    "weights empty": (written(WEIGHTS, ""), "model.safetensors is empty"),
    "weights a pointer": (written(WEIGHTS, LFS), "Git LFS pointer.*git lfs pull"),
    "weights cut short": (cut(WEIGHTS, 0.7), "truncated or altered"),
    "weights cut in the header": (cut(WEIGHTS, 0.01), "not a whole safetensors file"),
    "weights of four bytes": (written(WEIGHTS, b"abcd"), "not a whole safetensors file"),
    "weights not safetensors": (written(WEIGHTS, b"PK" * 4000), "not a whole safetensors file"),
    "weights with a longer tail": (
        lambda p: (p / WEIGHTS).write_bytes((p / WEIGHTS).read_bytes() + b"x"),
        "truncated or altered",
    ),
    "weights with a broken header": (
        written(WEIGHTS, (9).to_bytes(8, "little") + b"{not json"),
        "damaged safetensors header",
    ),
    "a tensor missing": (rewritten(lambda t: t.pop(ONE)), f"1 missing .*{ONE}"),
    "a tensor left over": (rewritten(lambda t: t.update(extra=torch.zeros(2))), "1 unexpected .*extra"),
    "a tensor renamed": (rewritten(lambda t: t.update({ONE + "x": t.pop(ONE)})), "1 missing"),
    "a tensor of another shape": (rewritten(lambda t: t.update({ONE: torch.zeros(2, 2)})), "1 mismatched .*c_fc"),
    "a tensor with NaN": (rewritten(lambda t: t[ONE].fill_(float("nan"))), "hold NaN or infinite numbers .*c_fc"),
    "a tensor with infinity": (rewritten(lambda t: t[ONE][0].fill_(float("inf"))), "hold NaN or infinite numbers"),
    "all tensors missing": (rewritten(lambda t: (t.clear(), t.update(x=torch.zeros(1)))), "missing"),
    "index cut": (sharded(lambda p, m: written(f"{WEIGHTS}.index.json", '{"weight_map": {"a')(p)), "is not valid JSON"),
    "index empty": (sharded(lambda p, m: m.clear()), "has no weight_map"),
    "index without a map": (sharded(lambda p, m: written(f"{WEIGHTS}.index.json", "{}")(p)), "has no weight_map"),
    "index to numbers": (sharded(lambda p, m: m.update(x=3)), "has no weight_map"),  # type: ignore[call-overload]
    "shard missing": (sharded(lambda p, m: (p / "b.safetensors").unlink()), "b.safetensors is missing"),
    "shard empty": (sharded(lambda p, m: written("b.safetensors", "")(p)), "b.safetensors is empty"),
    "shard cut short": (sharded(lambda p, m: cut("b.safetensors", 0.5)(p)), "b.safetensors has .* truncated"),
    "shard a pointer": (sharded(lambda p, m: written("b.safetensors", LFS)(p)), "Git LFS pointer"),
    "shard of another model": (
        sharded(lambda p, m: save_file({"x": torch.zeros(1)}, p / "b.safetensors", metadata={"format": "pt"})),
        "cannot be loaded|does not fit",
    ),
    "bin cut short": (as_bin(cut("pytorch_model.bin", 0.5)), "cannot be loaded"),
    "bin of text": (as_bin(written("pytorch_model.bin", "hello")), "pickle|cannot be loaded"),
    "the original LLaVA": (configured(model_type="llava_llama"), "layout of the original LLaVA"),
    "the original LLaVA's projector": (
        written("mm_projector.bin", "x"),
        "holds mm_projector.bin, of the original LLaVA",
    ),
}
UNSAFE: dict[str, tuple[Fault, str]] = {
    "index upwards": (sharded(lambda p, m: m.update({ONE: "../gpt2/model.safetensors"})), "outside its own folder"),
    "index absolute": (sharded(lambda p, m: m.update({ONE: "/etc/passwd"})), "outside its own folder"),
    "index with a drive": (sharded(lambda p, m: m.update({ONE: "C:\\x"})), "outside its own folder"),
    "index with NUL": (sharded(lambda p, m: m.update({ONE: "a\0b"})), "outside its own folder"),
    "code of its own": (
        configured(model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}),
        "wants to run Python files",
    ),
    "an attention implementation": (
        configured(_attn_implementation_internal="evil/kernel"),
        "_attn_implementation_internal",
    ),
    "a kernel from elsewhere": (configured(attn_implementation="evil/kernel"), "fetch and run code"),
    "trust in itself": (configured(trust_remote_code=True), "sets trust_remote_code to True"),
    "trust, further in": (configured(text_config={"a": [{"trust_remote_code": True}]}), "sets trust_remote_code"),
    "a deep attention implementation": (
        configured(x={"_attn_implementation_internal": "sdpa"}),
        "_attn_implementation",
    ),
}


@pytest.fixture
def copy(folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A whole checkpoint, to be spoilt."""
    return Path(shutil.copytree(folder("gpt2"), tmp_path / "model"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_spoilt_model_is_named(copy: Path, name: str) -> None:
    fault, told = FAULTS[name]
    fault(copy)
    with pytest.raises(CheckpointError, match=told):
        load_model(copy)


@pytest.mark.parametrize("name", UNSAFE)
def test_a_hostile_model_is_not_opened(copy: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked on the terminal"))
    (copy / "mine.py").write_text("raise SystemExit('the code of the checkpoint ran')")
    fault, told = UNSAFE[name]
    fault(copy)
    with pytest.raises(UnsafeError, match=told):
        load_model(copy)


def test_the_faults_are_swept() -> None:
    assert len(FAULTS) + len(UNSAFE) >= 50


class _Runs:
    """Runs code when it is unpickled."""

    def __init__(self, how: str, canary: Path) -> None:
        self.how, self.canary = how, canary

    def __reduce__(self) -> tuple[object, ...]:
        import builtins
        import os

        ways: dict[str, tuple[object, ...]] = {
            "open": (builtins.open, (str(self.canary), "w")),
            "system": (os.system, (f"touch '{self.canary}'",)),
            "eval": (builtins.eval, (f"open({str(self.canary)!r}, 'w')",)),
            "exec": (builtins.exec, (f"open({str(self.canary)!r}, 'w')",)),
            "mkdir": (os.mkdir, (str(self.canary),)),
        }
        return ways[self.how]


def _placed(payload: object, how: str) -> object:
    return {"alone": payload, "nested": {"model": {"x": [payload]}}, "beside": {"w": torch.zeros(1), "x": payload}}[how]


@pytest.mark.parametrize("place", ["alone", "nested", "beside"])
@pytest.mark.parametrize("way", ["open", "system", "eval", "exec", "mkdir"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "zip"])
def test_a_pickle_never_runs(copy: Path, tmp_path: Path, way: str, place: str, plain: bool) -> None:
    canary = tmp_path / "canary"
    (copy / WEIGHTS).unlink()
    payload = _placed(_Runs(way, canary), place)
    if plain:
        (copy / "pytorch_model.bin").write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, copy / "pytorch_model.bin")
    with pytest.raises(RankscopeError, match=r"pickle|cannot be loaded") as caught:
        load_model(copy)
    assert not canary.exists()
    assert "weights_only" not in str(caught.value)


def test_sharded_bin_and_half_precision_checkpoints_load(folder: Callable[..., Path], tmp_path: Path) -> None:
    x = torch.tensor([[5, 9, 11]])
    with torch.inference_mode():
        want = load_model(folder("gpt2"))(x).logits
        for name, fault in {"sharded": sharded(lambda p, m: None), "bin": as_bin(lambda p: None)}.items():
            copy = Path(shutil.copytree(folder("gpt2"), tmp_path / name))
            fault(copy)
            assert torch.equal(load_model(copy)(x).logits, want)
        assert load_model(folder("gpt2"), dtype=torch.bfloat16).dtype == torch.bfloat16
        assert load_model(folder("gpt2")).dtype == torch.float32


def test_a_configuration_without_a_class_finds_the_one_that_fits(folder: Callable[..., Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("gpt2"), tmp_path / "model"))
    configured(architectures=None)(copy)
    assert type(load_model(copy)).__name__ == "GPT2LMHeadModel"


def test_tensors_that_every_version_computes_itself_are_no_fault(folder: Callable[..., Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("gpt2"), tmp_path / "model"))
    rewritten(lambda t: t.update({"transformer.position_ids": torch.arange(8)}))(copy)
    load_model(copy)


def test_a_head_that_the_configuration_does_not_name_is_found(tmp_path: Path) -> None:
    """As published: BERT's ``architectures`` name the masked model, its file holds the pre-training one."""
    config = BertConfig(vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    BertForPreTraining(config).save_pretrained(tmp_path)
    configured(architectures=["BertForMaskedLM"])(tmp_path)
    assert type(load_model(tmp_path)).__name__ == "BertForPreTraining"


def test_code_that_is_trusted_is_run_and_otherwise_never(folder: Callable[..., Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("gpt2"), tmp_path / "model"))
    (copy / "mine.py").write_text(
        "from transformers import GPT2Config, GPT2LMHeadModel\n"
        "class C(GPT2Config):\n    model_type = 'mine'\n"
        "class M(GPT2LMHeadModel):\n    config_class = C\n"
    )
    configured(
        model_type="mine", architectures=["M"], auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    )(copy)
    with pytest.raises(UnsafeError, match="--trust-remote-code"):
        load_model(copy)
    assert type(load_model(copy, trust_remote_code=True)).__name__ == "M"


def test_code_that_is_not_needed_is_left_alone(folder: Callable[..., Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("gpt2"), tmp_path / "model"))
    (copy / "mine.py").write_text("raise SystemExit('the code of the checkpoint ran')")
    configured(auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"})(copy)
    assert type(load_model(copy)).__name__ == "GPT2LMHeadModel"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda p: None, "there is no folder"),
        (lambda p: p.mkdir(), "is not a checkpoint.*it has nothing"),
        (lambda p: (p.mkdir(), (p / "notes.txt").write_text("x")), "is not a checkpoint.*notes.txt"),
        (lambda p: (p.mkdir(), (p / "checkpoint-20").mkdir()), "output of a Trainer.*checkpoint-20"),
        (
            lambda p: tuple((p / n).mkdir(parents=True) for n in ("checkpoint-9", "checkpoint-10")),
            "checkpoint-9, checkpoint-10",
        ),
        (lambda p: (p.mkdir(), (p / "random_states_0.pkl").write_text("x")), "accelerate's save_state"),
        (lambda p: p.write_text("x"), "is a file, not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, make: Fault, told: str) -> None:
    make(tmp_path / "thing")
    with pytest.raises(CheckpointError, match=told):
        Checkpoint.read(tmp_path / "thing")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.safetensors", "bare weights file.*config.json"),
        ("ofa.pt", "fairseq"),
        ("blip2.pth", "LAVIS"),
        ("last.ckpt", "Lightning"),
        ("llama.gguf", "GGUF"),
        ("config.json", "give its folder"),
    ],
)
def test_a_bare_file_is_named(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=told):
        Checkpoint.read(tmp_path / name)


def test_named_adapters_in_one_folder_are_listed(folder: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(folder("gpt2", "lora"), tmp_path / "all" / name)
    with pytest.raises(CheckpointError, match=r"several adapters.*first, second"):
        Checkpoint.read(tmp_path / "all")
    assert Checkpoint.read(tmp_path / "all" / "first").base == folder("gpt2")


def test_the_digest_sees_weights_and_configuration_and_nothing_else(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder("gpt2"), tmp_path / "model"))
    digest = Checkpoint.read(folder("gpt2")).digest
    (copy / "README.md").write_text("about")
    assert Checkpoint.read(copy).digest == digest
    rewritten(lambda t: t[ONE].mul_(2))(copy)
    changed = Checkpoint.read(copy).digest
    configured(n_embd=16)(copy)
    assert len({digest, changed, Checkpoint.read(copy).digest}) == 3


def test_no_tokenizer_is_said(folder: Callable[..., Path], tmp_path: Path) -> None:
    from rankscope.models.inputs.reader import reader

    copy = Path(shutil.copytree(folder("gpt2"), tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer: none of.*save_pretrained"):
        reader(load_model(copy), copy)


def test_an_empty_list_is_no_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="got an empty list"):
        Checkpoint.read([])


def test_four_bits_without_their_package_are_refused(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from rankscope.errors import MissingTool

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingTool, match="bitsandbytes"):
        load_model(folder("gpt2"), load_in_4bit=True)
