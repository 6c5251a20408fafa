"""ViLT and LXMERT, whose words and images meet in the model: each site is the hidden state of plain transformers for one sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers as tf

import rankscope
from rankscope.data.probes import Example
from rankscope.data.regions import RegionFeatures, Regions
from rankscope.errors import DataError
from rankscope.features import IMAGE
from rankscope.sites import Site

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 64}
TEXTS = ("how many digits are there?", "a photo", "three is left of seven, and")


@dataclass(frozen=True)
class Drawn(Regions):
    """Regions drawn at random."""

    count: int
    width: int = 12

    def open(self) -> RegionFeatures:
        features = np.random.default_rng(self.count).random((self.count, self.width), dtype=np.float32)
        return RegionFeatures(features, ())


def saved(model: Any, processor: Any, folder: Path) -> Any:
    """The model as plain transformers opens it again."""
    tiny.spread(model, 0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


def test_the_words_of_vilt_are_read_and_its_shuffled_patches_are_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tok = tiny.tokenizer("[CLS] $A [SEP]", **tiny.BERT)
    images = tf.ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8)
    config = tf.ViltConfig(vocab_size=len(tok), num_hidden_layers=3, image_size=64, patch_size=8, **SMALL)
    processor = tf.ViltProcessor(images, tok)
    model = saved(tf.ViltModel(config), processor, tmp_path / "m")
    shown = [tiny.picture(i).resize(size) for i, size in enumerate([(40, 30), (64, 32), (30, 50)])]
    examples = [Example(str(i), text, image) for i, (text, image) in enumerate(zip(TEXTS, shown, strict=True))]
    run = rankscope.collect(
        tmp_path / "m", examples, rows="tokens", keep_special=True, out=tmp_path / "r.pt", device="cpu"
    )
    assert any("shuffles the patches" in note for note in run.manifest.notes)
    swept = 0
    for i, example in enumerate(examples):
        made = processor(images=example.image, text=example.text, return_tensors="pt")
        with torch.no_grad():
            out = model(**made, output_hidden_states=True)
        states = {Site("encoder", "embed" if k == 0 else str(k - 1)): h for k, h in enumerate(out.hidden_states)}
        states[Site("encoder", "final")] = out.last_hidden_state
        assert states.keys() == set(run.sites)
        for site, state in states.items():
            own = run.features(site)[run.rows_at(site).sample == i]
            torch.testing.assert_close(own, state[0, : made["input_ids"].shape[1]], rtol=1e-5, atol=2e-5)
            swept += 1
    assert swept == 3 * 5


def lxmert(folder: Path) -> tuple[Any, Any]:
    torch.manual_seed(0)
    tok = tiny.tokenizer("[CLS] $A [SEP]", **tiny.BERT)
    config = tf.LxmertConfig(
        vocab_size=len(tok), l_layers=2, r_layers=2, x_layers=2, visual_feat_dim=8, visual_pos_dim=4, **SMALL
    )
    return saved(tf.LxmertModel(config), tok, folder), tok


def test_lxmert_reads_words_and_regions(tmp_path: Path) -> None:
    model, tok = lxmert(tmp_path / "m")
    examples = [Example(str(i), text, regions=Drawn(3 + i)) for i, text in enumerate(TEXTS)]
    run = rankscope.collect(
        tmp_path / "m", examples, rows="tokens", keep_special=True, out=tmp_path / "r.pt", device="cpu"
    )
    swept = 0
    for i, example in enumerate(examples):
        seen = torch.tensor(Drawn(3 + i).open().features)[None]
        words = {k: v for k, v in tok(example.text, return_tensors="pt").items() if k != "token_type_ids"}
        with torch.no_grad():
            out = model(**words, visual_feats=seen[..., :8], visual_pos=seen[..., 8:], output_hidden_states=True)
        told = {
            **{Site("encoder", str(k)): out.language_hidden_states[k] for k in range(2)},
            **{Site("cross", str(k)): out.language_hidden_states[2 + k] for k in range(2)},
            **{Site("regions", str(k)): out.vision_hidden_states[k] for k in range(2)},
        }
        for site, state in told.items():
            own = run.rows_at(site).sample == i
            torch.testing.assert_close(run.features(site)[own], state[0], rtol=1e-5, atol=2e-5)
            assert set(run.rows_at(site).role[own].tolist()) == ({IMAGE} if site.stack == "regions" else {0, 4})
            swept += 1
    assert swept == 3 * 6


def test_regions_that_lxmert_cannot_read_are_named(tmp_path: Path) -> None:
    lxmert(tmp_path / "m")
    options: dict[str, Any] = {"out": tmp_path / "r.pt", "device": "cpu"}
    with pytest.raises(DataError, match="example 'a' has no regions, and LXMERT reads those"):
        rankscope.collect(tmp_path / "m", [Example("a", "a photo")], **options)
    with pytest.raises(DataError, match="have 6 features, and the model reads 8 and 4 places"):
        rankscope.collect(tmp_path / "m", [Example("a", "a photo", regions=Drawn(2, 6))], **options)
