"""A sample gives what it gives alone, and a site is what the model itself returns there; or a collect says so, or refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from torch import Tensor, nn

import rankscope
from rankscope.collecting.job import Request, prepare
from rankscope.collecting.loading import Loading
from rankscope.collecting.selfcheck import _members
from rankscope.errors import CheckpointError
from rankscope.models.stacks import stacks
from rankscope.models.told import not_told
from rankscope.reading.rounding import apart, rounding
from rankscope.sites import Site

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def data(path: Path) -> Path:
    path.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(tiny.SENTENCES)))
    return path


def saved(model: nn.Module, tok: Any, folder: Path, *, mask: bool = True) -> nn.Module:
    """A checkpoint in a folder; without ``mask`` its tokenizer gives none."""
    tiny.spread(model, 0).eval().save_pretrained(folder)
    tok.save_pretrained(folder)
    if not mask:
        told = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(told | {"model_input_names": ["input_ids"]}))
    return model


@torch.no_grad()
def alone(model: nn.Module, tok: Any, layer: int) -> Tensor:
    """What plain transformers returns after a block, one text at a time."""
    ids = [tok(text, return_tensors="pt")["input_ids"] for text in tiny.SENTENCES]
    return torch.cat([model(input_ids=i, output_hidden_states=True).hidden_states[layer][0] for i in ids])


def rows(folder: Path, out: Path) -> rankscope.Run:
    return rankscope.collect(folder, data(out / "d.jsonl"), rows="tokens", keep_special=True, out=out / "run.pt")


def siglip(tok: Any) -> nn.Module:
    ends = {"pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id, "bos_token_id": None}
    return tf.SiglipTextModel(tf.SiglipTextConfig(vocab_size=len(tok), max_position_embeddings=64, **SMALL, **ends))


def bert(tok: Any) -> nn.Module:
    return tf.BertModel(tf.BertConfig(vocab_size=len(tok), pad_token_id=tok.pad_token_id, **SMALL))


@pytest.mark.parametrize(("build", "padded"), [(siglip, True), (bert, False)])
def test_a_tokenizer_without_a_mask_gives_what_each_text_gives_alone(tmp_path: Path, build: Any, padded: bool) -> None:
    tok = tiny.tokenizer("$A </s>", **tiny.T5)
    model = saved(build(tok), tok, tmp_path / "m", mask=False)
    run = rows(tmp_path / "m", tmp_path)
    torch.testing.assert_close(run.features("encoder.0"), alone(model, tok, 1), rtol=1e-5, atol=2e-5)
    notes = " ".join(map(str, run.manifest.notes))
    assert "the tokenizer gives no attention mask" in notes
    assert ("trained on texts padded" in notes) is padded
    assert "one_by_one" not in run.manifest.reading


def test_a_model_that_mixes_in_padding_is_read_one_by_one_and_says_so(tmp_path: Path) -> None:
    tok = tiny.tokenizer("[CLS] $A [SEP]", **tiny.BERT)
    small = {k: v for k, v in SMALL.items() if k != "num_attention_heads"}
    model = saved(
        tf.FNetModel(tf.FNetConfig(vocab_size=len(tok), pad_token_id=tok.pad_token_id, **small)), tok, tmp_path / "m"
    )
    run = rows(tmp_path / "m", tmp_path)
    torch.testing.assert_close(run.features("encoder.0"), alone(model, tok, 1), rtol=1e-5, atol=2e-5)
    assert any("one by one, because in this model they depend on their batch" in str(n) for n in run.manifest.notes)
    assert run.manifest.reading["one_by_one"] is True
    assert run.manifest.batches == len(tiny.SENTENCES)


def test_a_model_that_draws_at_random_is_refused(tmp_path: Path) -> None:
    config = tf.ViTMAEConfig(
        image_size=16, patch_size=4, mask_ratio=0.0, decoder_hidden_size=32, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=4, **SMALL,
    )  # fmt: skip
    model = tiny.spread(tf.ViTMAEModel(config), 0).eval()
    with pytest.raises(CheckpointError, match=r"draws at random: sample '0' read twice gives features at encoder"):
        rankscope.collect(model, torch.randn(4, 3, 16, 16), rows="tokens", out=tmp_path / "run.pt")


def test_a_site_that_is_not_what_the_model_returns_is_refused_by_name(tmp_path: Path) -> None:
    """GPT-2 with its first two blocks run in the other order: the sites 0 and 1 are not the states that it returns."""
    tok = tiny.tokenizer(**tiny.GPT2)
    model = tiny.spread(tf.GPT2Model(tf.GPT2Config(vocab_size=len(tok), n_embd=32, n_layer=3, n_head=4)), 0).eval()
    ids = torch.randint(len(tok), (1, 6))
    assert not_told(model, lambda: model(input_ids=ids)) == {}
    assert model.config.output_hidden_states is False
    names = next(iter(stacks(model).values()))
    blocks = list(model.h)

    def swapped(module: nn.Module) -> dict[str, Any]:
        return {names.name: type(names)(names.name, (blocks[1], blocks[0], blocks[2]), names.final, owner=model)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rankscope.models.told.stacks", swapped)
        assert not_told(model, lambda: model(input_ids=ids)).keys() == {
            Site(names.name, p) for p in ("embed", "0", "1")
        }
        job = {"model": model, "data": {"input_ids": torch.randint(len(tok), (4, 6))}, "loading": Loading()}
        with pytest.raises(
            CheckpointError, match=rf"{names.name}.0 cannot be read: it is not the hidden state that GPT2Model"
        ):
            prepare(request=Request(sites=[f"{names.name}.0"], out=tmp_path / "a.pt"), **job)
        whole = prepare(request=Request(out=tmp_path / "a.pt"), **job)
    assert [site.point for site in whole.taps] == ["2", "final"]
    assert any("0 is left out: it is not the hidden state" in note for note in whole.manifest.notes)


def test_the_batch_with_the_most_padding_is_tried() -> None:
    batches = [((3, 1), 9), ((0, 2, 4, 5, 6), 5)]
    assert _members(batches, [5, 9, 4, 9, 3, 2, 1]) == [0, 2, 5, 6]
    assert _members([((1,), 9), ((0,), 5)], [5, 9]) == [1]


def test_distances_are_relative_and_rounding_is_half_of_the_digits() -> None:
    x = torch.tensor([3.0, 4.0])
    assert apart(x, x) == apart(x * 0, x * 0) == apart(x, x * torch.nan) == 0
    assert apart(x, x * 0) == 1
    assert apart(x, x[:1]) == float("inf")
    assert rounding(x.double()) == pytest.approx(1.5e-8, rel=0.01)
    assert rounding(x.bfloat16()) == pytest.approx(0.088, rel=0.01)
