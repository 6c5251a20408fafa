"""Folders: recognised by transformers' Auto classes, loaded strictly, saved and loaded again."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from tiny_vinvl import LABELS, WORDS, save_published
from torch.testing import assert_close

import rankscope
from rankscope.errors import CheckpointError, UnsafeError
from rankscope.models.load import load_model
from rankscope.models.ported import vinvl


class Bomb:
    """Unpickled, it writes a file: what a folder of unknown origin could do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.file,))


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def test_auto_classes_know_the_folder_once_registered(captioning, vqa) -> None:
    rankscope.register()
    kinds = {
        "AutoConfig": (captioning, "VinVLConfig"),
        "AutoModelForMaskedLM": (captioning, "VinVLForImageCaptioning"),
        "AutoModelForImageTextToText": (captioning, "VinVLForImageCaptioning"),
        "AutoModelForSequenceClassification": (vqa, "VinVLForSequenceClassification"),
        "AutoModelForVisualQuestionAnswering": (vqa, "VinVLForSequenceClassification"),
        "AutoTokenizer": (captioning, "BertTokenizer"),
    }
    for auto, (folder, name) in kinds.items():
        assert type(getattr(transformers, auto).from_pretrained(folder)).__name__ == name
    assert type(transformers.AutoModel.from_pretrained(vqa)).__name__ == "VinVLModel"


def test_importing_rankscope_changes_nothing_and_registering_reaches_the_auto_classes(captioning) -> None:
    code = f"""
import sys
before = list(sys.meta_path)
import rankscope
assert sys.meta_path == before and not {{"torch", "transformers", "peft"}} & set(sys.modules)
rankscope.register(); rankscope.register()
from transformers import AutoConfig, AutoModelForMaskedLM
assert AutoConfig.from_pretrained({str(captioning)!r}).model_type == "vinvl"
print(type(AutoModelForMaskedLM.from_pretrained({str(captioning)!r})).__name__)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "VinVLForImageCaptioning", run.stderr


def test_a_folder_s_own_special_words_are_read(captioning) -> None:
    rankscope.register()
    assert transformers.AutoConfig.from_pretrained(captioning).bos_token_id == WORDS.index("[CLS]")


def test_saving_and_loading_again_gives_equal_scores(captioning, vqa, scene, tmp_path) -> None:
    for folder in (captioning, vqa):
        model = load_model(folder)
        model.save_pretrained(tmp_path / folder.name)
        again = load_model(tmp_path / folder.name)
        with torch.no_grad():
            assert_close(again(**scene).logits, model(**scene).logits, rtol=0, atol=0)
    assert "vinvl" in json.loads((tmp_path / captioning.name / "config.json").read_text())["model_type"]


def test_a_pickle_of_training_arguments_is_not_opened(captioning, tmp_path) -> None:
    folder = copied(captioning, tmp_path / "with-arguments")
    (folder / "training_args.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    load_model(folder)
    assert not (tmp_path / "boom").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_weights_that_are_code_are_refused(captioning, tmp_path) -> None:
    folder = copied(captioning, tmp_path / "code")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"bert": Bomb(tmp_path / "boom")}))
    with pytest.raises(UnsafeError, match="pickle with more than tensors"):
        load_model(folder)
    assert not (tmp_path / "boom").exists()


def changed(folder: Path, target: Path, change: str) -> Path:
    folder = copied(folder, target)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    if change == "missing":
        del weights["bert.img_embedding.bias"]
    if change == "extra":
        weights["bert.adapter.weight"] = torch.zeros(2)
    if change == "shape":
        weights["bert.pooler.dense.weight"] = torch.zeros(3, 3)
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("missing", r"1 missing \(bert.img_embedding.bias\)"),
        ("extra", r"1 unexpected \(bert.adapter.weight\)"),
        ("shape", "1 mismatched .*bert.pooler.dense.weight"),
    ],
)
def test_keys_that_do_not_land_are_named(captioning, tmp_path, change, match) -> None:
    with pytest.raises(CheckpointError, match=match):
        load_model(changed(captioning, tmp_path / change, change))


def test_a_vocabulary_of_another_length_is_named(captioning, tmp_path) -> None:
    folder = copied(captioning, tmp_path / "vocabulary")
    (folder / "vocab.txt").write_text("\n".join(WORDS[:-1]))
    with pytest.raises(CheckpointError, match=r"names 14 words and config.json says vocab_size 15"):
        load_model(folder)


def test_a_folder_without_its_files_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"img_feature_dim": 2054}')
    with pytest.raises(CheckpointError, match="has no weights"):
        load_model(tmp_path)


def test_what_is_not_ported_is_named() -> None:
    with pytest.raises(CheckpointError, match="discrete image codes"):
        vinvl.VinVLConfig(img_feature_type="dis_code_t")
    with pytest.raises(CheckpointError, match="classifier 'tree'"):
        vinvl.VinVLConfig(classifier="tree")


def test_oscar_s_first_heads_load_too(tmp_path) -> None:
    """A linear classifier, no norm of the regions, 0/1 for booleans, gamma and beta for a norm's parameters."""
    folder = save_published(tmp_path / "old", head="vqa", classifier="linear", use_img_layernorm=0)
    model = load_model(folder)
    assert isinstance(model.classifier, torch.nn.Linear)
    assert model.classifier.out_features == LABELS
    assert not hasattr(model.bert, "LayerNorm")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    renamed = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in weights.items()
    }
    torch.save(renamed, folder / "pytorch_model.bin")
    again = load_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_rankscope_s_own_loader_finds_the_head(captioning, vqa) -> None:

    assert type(load_model(captioning)).__name__ == "VinVLForImageCaptioning"
    assert type(load_model(vqa)).__name__ == "VinVLForSequenceClassification"


def test_a_checkpoint_of_the_pre_training_loads_without_its_contrast(captioning, tmp_path) -> None:
    folder = copied(captioning, tmp_path / "pretrained")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights |= {"cls.seq_relationship.weight": torch.zeros(2, 24), "cls.seq_relationship.bias": torch.zeros(2)}
    weights["bert.embeddings.position_ids"] = torch.arange(96)[None]
    torch.save(weights, folder / "pytorch_model.bin")
    pairs = zip(load_model(folder).parameters(), load_model(captioning).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
