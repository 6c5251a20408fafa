"""Checkpoints as they lie on disk: what a list may hold, and what a checkpoint is called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from rankscope.checkpoint import Checkpoint, Tuning, processor_folder
from rankscope.errors import CheckpointError

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another GPT-2 of the same shape."""
    return tiny.save_base("gpt2", tmp_path_factory.mktemp("other") / "gpt2", seed=9)


def of(folder: Path, into: Path, base: object) -> Path:
    """An adapter whose record names another base."""
    shutil.copytree(folder, into)
    config = json.loads((into / "adapter_config.json").read_text())
    (into / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    return into


def test_a_list_is_a_base_and_what_was_done_to_it(folder: Folder, other: Path) -> None:
    found = Checkpoint.read([folder("gpt2"), other, folder("gpt2", "lora")])
    assert (found.base, found.weights) == (folder("gpt2"), other)
    assert [t.kind for t in found.tunings] == ["full", "lora"]


def test_a_summary_is_short_however_many_modules_are_tuned(tmp_path: Path) -> None:
    paths = [f"layers.{i}.attn.{name}_proj" for i in range(40) for name in "vqk"]
    for given, told in (
        (paths, "lora r=2 target_modules=k_proj,q_proj,v_proj (120 modules)"),
        (["query", "key"], "lora r=2 target_modules=key,query"),
        ("all-linear", "lora r=2 target_modules=all-linear"),
    ):
        assert Tuning("lora", tmp_path, {"r": 2, "target_modules": given}).summary == told


def test_a_list_of_two_types_of_models_is_refused(folder: Folder) -> None:
    with pytest.raises(CheckpointError, match=r"is a whole 'opt' and its base .* a 'gpt2': a list is one base"):
        Checkpoint.read([folder("gpt2"), folder("opt")])


def test_a_model_that_stands_twice_in_a_list_is_refused(folder: Folder, tmp_path: Path) -> None:
    copy = shutil.copytree(folder("gpt2"), tmp_path / "copy")
    for twice in (folder("gpt2"), copy):
        with pytest.raises(CheckpointError, match="changes nothing: it is the same model as"):
            Checkpoint.read([folder("gpt2"), twice])


def test_an_adapter_in_a_list_of_another_base_is_refused(folder: Folder, other: Path, tmp_path: Path) -> None:
    lora = folder("gpt2", "lora")
    with pytest.raises(CheckpointError, match=r"was tuned on .*gpt2, which is another model than .*--base-model"):
        Checkpoint.read([other, lora])
    with pytest.raises(CheckpointError, match="which is another model"):
        Checkpoint.read([lora, of(lora, tmp_path / "b", other)])
    assert Checkpoint.read([other, lora], base_model=other).base == other
    assert Checkpoint.read(lora, base_model=other).base == other


def test_an_adapter_whose_record_leads_nowhere_or_to_a_copy_is_taken(folder: Folder, tmp_path: Path) -> None:
    copy = shutil.copytree(folder("gpt2"), tmp_path / "copy")
    for i, base in enumerate(("/gone/away", copy)):
        lora = of(folder("gpt2", "lora"), tmp_path / str(i), base)
        assert [t.path for t in Checkpoint.read([folder("gpt2"), lora]).tunings] == [lora]


def test_a_whole_model_has_the_base_that_is_given(folder: Folder, other: Path, tmp_path: Path) -> None:
    found = Checkpoint.read(other, base_model=folder("gpt2"))
    assert (found.base, found.weights, [t.kind for t in found.tunings]) == (folder("gpt2"), other, ["full"])
    copy = shutil.copytree(other, tmp_path / "copy")
    assert Checkpoint.read(other, base_model=copy).tunings == ()
    with pytest.raises(CheckpointError, match=r"is a whole 'gpt2' and its base .* a 'opt'"):
        Checkpoint.read(other, base_model=folder("opt"))


def test_a_folder_of_stages_stands_alone_or_after_its_base(folder: Folder, other: Path, tmp_path: Path) -> None:
    stages = tmp_path / "stages"
    for i, tuning in enumerate(("prefix", "lora")):
        shutil.copytree(folder("gpt2", tuning), stages / f"{i}-{tuning}")
    found = Checkpoint.read([other, stages])
    assert (found.base, [t.kind for t in found.tunings]) == (other, ["prefix_tuning", "lora"])
    for paths in ([stages, folder("gpt2", "lora")], [folder("gpt2"), other, stages], [stages, stages]):
        with pytest.raises(CheckpointError, match="a folder of stages comes alone, or after its base"):
            Checkpoint.read(paths)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("out/checkpoint-500", "out-checkpoint-500"),
        ("hub/models--org--tiny-gpt2/snapshots/0123abcd", "tiny-gpt2"),
        ("hub/models--tiny/snapshots/0123abcd", "tiny"),
        ("runs/mine", "mine"),
    ],
)
def test_a_checkpoint_is_called_by_what_tells_it_apart(folder: Folder, tmp_path: Path, place: str, name: str) -> None:
    shutil.copytree(folder("gpt2"), tmp_path / place)
    assert Checkpoint.read(tmp_path / place).name == name


def test_the_processor_is_the_tuned_ones_or_the_bases_or_a_folders_own(folder: Folder, tmp_path: Path) -> None:
    lora = folder("gpt2", "lora")
    assert processor_folder(lora) == folder("gpt2")
    shutil.copy(folder("gpt2") / "tokenizer.json", tmp_path)
    assert processor_folder(tmp_path) == tmp_path
    own = shutil.copytree(lora, tmp_path / "own")
    shutil.copy(folder("gpt2") / "tokenizer.json", own)
    assert processor_folder(own) == processor_folder([folder("gpt2"), own]) == own


def test_a_pipeline_of_sentences_says_where_its_network_is(folder: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(folder("bert"), tmp_path / "0_Transformer")
    (tmp_path / "modules.json").write_text("[]")
    for name, content in (("config.json", "{}"), ("config_sentence_transformers.json", "{}")):
        (tmp_path / name).write_text(content)
        with pytest.raises(CheckpointError, match=r"pipeline of sentence-transformers, .* give \S+/0_Transformer$"):
            Checkpoint.read(tmp_path)
        (tmp_path / name).unlink()
