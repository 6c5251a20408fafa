"""Folders and fairseq files: recognised, loaded strictly, saved and loaded again."""

from __future__ import annotations

import argparse
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_ofa import fields
from torch.testing import assert_close

import rankscope
from rankscope.errors import CheckpointError, UnsafeError
from rankscope.models.load import load_model
from rankscope.models.ported import ofa
from rankscope.models.ported.ofa.fairseq import renamed

DECODED = torch.tensor([[0, 33, 44], [0, 55, 66]])


class Bomb:
    """Unpickled, it writes a file: what a checkpoint of unknown origin could do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.file,))


def test_auto_classes_know_the_folder(folder) -> None:
    rankscope.register()
    for auto in ("AutoModel", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText"):
        assert type(getattr(transformers, auto).from_pretrained(folder)).__name__ == "OFAModel"
    assert transformers.AutoConfig.from_pretrained(folder).hidden_size == 16


def test_a_model_from_its_configuration_alone_generates(asked) -> None:
    model = ofa.OFAModel(ofa.OFAConfig(**{k: v for k, v in fields().items() if not k.endswith("_token_id")})).eval()
    assert model.generate(**asked, max_new_tokens=3).shape[0] == 2


def test_saving_and_loading_again_gives_equal_scores(model, asked, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    with torch.no_grad():
        expected = model(**asked, decoder_input_ids=DECODED).logits
        assert_close(again(**asked, decoder_input_ids=DECODED).logits, expected, rtol=0, atol=0)
    assert again.decoder.output_projection.weight is again.encoder.embed_tokens.weight
    assert again.generation_config.forced_eos_token_id == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("missing", r"1 missing \(encoder.layers.1.self_attn.c_attn\)"),
        ("extra", r"1 unexpected \(decoder.adapter\)"),
        ("shape", r"1 mismatched .*encoder.image_proj.bias"),
    ],
)
def test_keys_that_do_not_land_are_named(folder, tmp_path, change, match) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / change))
    weights = torch.load(copy / "pytorch_model.bin", weights_only=True)
    if change == "missing":
        del weights["encoder.layers.1.self_attn.c_attn"]
    if change == "extra":
        weights["decoder.adapter"] = torch.zeros(2)
    if change == "shape":
        weights["encoder.image_proj.bias"] = torch.zeros(5)
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=match):
        load_model(copy)


def test_folders_without_their_files_are_named(folder, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_model(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match="has no weights"):
        load_model(tmp_path)


def test_a_vocabulary_of_another_length_is_named(folder, tmp_path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "vocabulary"))
    (copy / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(CheckpointError, match=r"names 1 words, 9193 with codes and bins.* vocab_size \d+"):
        load_model(copy)


def fairseq_key(key: str) -> str:
    """A folder's key as fairseq spells it, written out by hand."""
    side = "encoder" if key.startswith("encoder") else "decoder"
    if side == "encoder":
        key = key.replace("self_attn_mid_layer_norm", "attn_ln")
    else:
        key = key.replace("self_attn_mid_layer_norm", "self_attn_ln").replace(
            "cross_attn_mid_layer_norm", "cross_attn_ln"
        )
        key = key.replace("cross_attn_layer_norm", "encoder_attn_layer_norm").replace("cross_attn.", "encoder_attn.")
    return key.replace("ffn_layer_norm", "ffn_layernorm")


def fairseq_file(model: Any, target: Path, **more: Any) -> Path:
    weights = {fairseq_key(key): value for key, value in model.state_dict().items()}
    weights |= {"encoder.version": torch.tensor([3.0]), "decoder.version": torch.tensor([3.0])}
    args = argparse.Namespace(arch="ofa_tiny", encoder_layers=2)
    torch.save({"args": args, "cfg": {"model": args}, "model": weights, "extra_state": {"epoch": 3}, **more}, target)
    return target


def test_the_map_of_keys_undoes_fairseq_s_spelling(model) -> None:
    keys = list(model.state_dict())
    assert [renamed(fairseq_key(key)) for key in keys] == keys
    changed = [key for key in keys if fairseq_key(key) != key]
    assert len(changed) == 2 * (2 + 2) + 2 * (2 * 3 + 9 + 2)


def test_a_fairseq_file_is_the_same_model(model, asked, tmp_path) -> None:
    again = ofa.load_fairseq(fairseq_file(model, tmp_path / "ofa.pt"))
    sizes = ("d_model", "encoder_layers", "decoder_ffn_dim", "resnet_type", "token_bucket_size", "image_bucket_size")
    assert all(getattr(again.config, name) == getattr(model.config, name) for name in sizes)
    with torch.no_grad():
        expected = model(**asked, decoder_input_ids=DECODED).logits
        assert_close(again(**asked, decoder_input_ids=DECODED).logits, expected, rtol=0, atol=0)


def test_a_fairseq_file_that_needs_code_is_refused(model, tmp_path) -> None:
    file = fairseq_file(model, tmp_path / "code.pt", task_state=Bomb(tmp_path / "boom"))
    with pytest.raises(UnsafeError, match="pickle with more than tensors"):
        ofa.load_fairseq(file)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"model": Bomb(tmp_path / "boom")}))
    with pytest.raises(UnsafeError, match="pickle with more than tensors"):
        ofa.load_fairseq(tmp_path / "raw.pt")
    assert not (tmp_path / "boom").exists()


def test_fairseq_files_of_something_else_are_named(model, tmp_path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"is not OFA's: it has no encoder\.embed_tokens\.weight"):
        ofa.load_fairseq(tmp_path / "other.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="holds no dictionary of tensors"):
        ofa.load_fairseq(tmp_path / "empty.pt")
    weights = {fairseq_key(key): value for key, value in model.state_dict().items()}
    del weights["decoder.layers.0.encoder_attn.c_attn"]
    torch.save({"model": weights}, tmp_path / "lacking.pt")
    with pytest.raises(CheckpointError, match=r"1 missing \(decoder\.layers\.0\.cross_attn\.c_attn\)"):
        ofa.load_fairseq(tmp_path / "lacking.pt")


def test_rankscope_s_own_loader_reads_the_folder(folder, model) -> None:

    again = load_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
