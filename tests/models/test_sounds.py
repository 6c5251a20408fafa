"""Models that hear: from WAV files and arrays, each site is the hidden state that plain transformers returns for one sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers as tf
from scipy.io import wavfile
from torch import nn

import rankscope
from rankscope.data.open import open_data
from rankscope.data.probes import Example
from rankscope.data.sounds import Sound, decode_sound
from rankscope.errors import DataError
from rankscope.features import AUDIO, SPECIAL
from rankscope.sites import Site

RATE, LENGTHS = 16000, (1600, 2400, 3000)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WAVES = {
    **SMALL, "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 32,
}  # fmt: skip


def wav2vec2() -> tuple[nn.Module, Any]:
    return tf.Wav2Vec2Model(tf.Wav2Vec2Config(**WAVES)), tf.Wav2Vec2FeatureExtractor()


def wav2vec2_large() -> tuple[nn.Module, Any]:
    """With norms before its blocks, as the large ones have, and filters that are all alike."""
    config = tf.Wav2Vec2Config(**WAVES, do_stable_layer_norm=True, feat_extract_norm="layer")
    return tf.Wav2Vec2ForCTC(config), tf.Wav2Vec2FeatureExtractor(return_attention_mask=True)


def hubert() -> tuple[nn.Module, Any]:
    return tf.HubertModel(tf.HubertConfig(**WAVES)), tf.Wav2Vec2FeatureExtractor()


def ast() -> tuple[nn.Module, Any]:
    config = tf.ASTConfig(**SMALL, patch_size=8, frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=16)
    return tf.ASTModel(config), tf.ASTFeatureExtractor(max_length=32, num_mel_bins=16)


def whisper() -> tuple[nn.Module, Any]:
    tok = tiny.tokenizer("<s> $A </s>", **tiny.BART)
    config = tf.WhisperConfig(
        vocab_size=len(tok), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=50,
        max_target_positions=24, num_mel_bins=16, decoder_start_token_id=tok.bos_token_id, **tiny._ends(tok),
    )  # fmt: skip
    processor = tf.WhisperProcessor(tf.WhisperFeatureExtractor(feature_size=16, chunk_length=1), tok)
    return tf.WhisperForConditionalGeneration(config), processor


BUILDS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "wav2vec2": wav2vec2, "wav2vec2-large": wav2vec2_large, "hubert": hubert, "ast": ast, "whisper": whisper,
}  # fmt: skip


def wave(seed: int, length: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=length)).astype(np.float32)


def files(folder: Path) -> Path:
    """The sounds as WAV files, named by JSON lines."""
    rows = []
    for i, length in enumerate(LENGTHS):
        wavfile.write(folder / f"{i}.wav", RATE, wave(i, length))
        rows.append({"id": str(i), "audio": f"{i}.wav", "target": tiny.SENTENCES[i]})
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "d.jsonl"


@torch.no_grad()
def told(model: Any, processor: Any, i: int) -> dict[Site, torch.Tensor]:
    """What transformers returns for one sound."""
    extractor = getattr(processor, "feature_extractor", processor)
    made = dict(extractor(wave(i, LENGTHS[i]), sampling_rate=RATE, return_tensors="pt"))
    if "input_features" not in made:
        states = model(input_values=made["input_values"], output_hidden_states=True).hidden_states
        return {Site("encoder", "embed" if k == 0 else str(k - 1)): h[0] for k, h in enumerate(states)}
    tok = processor.tokenizer
    ids = torch.tensor([tok(tiny.SENTENCES[i])["input_ids"][:-1]])
    out = model(input_features=made["input_features"], decoder_input_ids=ids, output_hidden_states=True)
    both = {"encoder": out.encoder_hidden_states, "decoder": out.decoder_hidden_states}
    points = ("embed", "0", "final")
    return {Site(s, p): h[0] for s, hs in both.items() for p, h in zip(points, hs, strict=True)}


@pytest.mark.parametrize("name", BUILDS)
def test_each_site_is_the_hidden_state_of_one_sound(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model, processor = BUILDS[name]()
    tiny.spread(model, 0).save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    model = type(model).from_pretrained(tmp_path / "m").eval()
    run = rankscope.collect(
        tmp_path / "m", files(tmp_path), rows="tokens", keep_special=True, out=tmp_path / "r.pt", device="cpu"
    )
    swept = 0
    for i in range(3):
        for site, want in told(model, processor, i).items():
            if site.point == "1":  # normed in some families, and the last: its own norm is no site
                continue
            found = run.features(site)[run.rows_at(site).sample == i]
            torch.testing.assert_close(found, want, rtol=1e-5, atol=2e-5, msg=lambda m, s=site: f"{s}: {m}")
            swept += 1
    assert swept == 3 * (6 if name == "whisper" else 2)
    roles = set(run.rows_at("encoder.0").role.tolist())
    assert roles == ({AUDIO, SPECIAL} if name in ("ast", "whisper") else {AUDIO})
    heard = rankscope.collect(
        tmp_path / "m", [Example("0", audio=Sound(wave(0, LENGTHS[0]), RATE))], rows="audio", out=tmp_path / "s.pt",
        device="cpu", sites="encoder.0",
    )  # fmt: skip
    first = run.rows_at("encoder.0")
    own = run.features("encoder.0")[(first.sample == 0) & (first.role == AUDIO)]
    torch.testing.assert_close(heard.features("encoder.0"), own, rtol=1e-5, atol=2e-5)
    if name == "whisper":  # a tenth of a second is five of fifty columns, and the silence after it counts as special
        assert len(own) == 5


def test_the_builds_are_all_swept() -> None:
    assert len(BUILDS) == 5


def test_a_target_that_is_too_long_is_named(tmp_path: Path) -> None:
    model, processor = whisper()
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    long = Example("a", audio=Sound(wave(0, 800), RATE), targets=(" ".join(tiny.SENTENCES),))
    with pytest.raises(DataError, match=r"sample 'a' takes .* positions in decoder, and the model has 24"):
        rankscope.collect(tmp_path / "m", [long], out=tmp_path / "r.pt", device="cpu")


def test_a_mask_of_samples_leaves_out_columns_in_memory(tmp_path: Path) -> None:
    model, _ = wav2vec2_large()
    model = tiny.spread(model, 0).eval()
    waves = [torch.cat([torch.tensor(wave(i, n)), torch.zeros(3000 - n)]) for i, n in enumerate(LENGTHS)]
    items = [
        {"input_values": w, "attention_mask": (torch.arange(3000) < n).long()}
        for w, n in zip(waves, LENGTHS, strict=True)
    ]
    run = rankscope.collect(model, items, rows="tokens", out=tmp_path / "r.pt", sites="encoder.0")
    counts = [int(model._get_feat_extract_output_lengths(torch.tensor(n))) for n in LENGTHS]
    assert torch.bincount(run.rows_at("encoder.0").sample).tolist() == counts


@pytest.mark.parametrize(("kind", "top"), [("uint8", 255), ("int16", 2**15 - 1), ("int32", 2**31 - 1)])
def test_whole_numbers_are_scaled(tmp_path: Path, kind: str, top: int) -> None:
    wavfile.write(tmp_path / "s.wav", RATE, np.array([top, 128 if kind == "uint8" else 0], dtype=kind))
    sound = decode_sound(tmp_path / "s.wav", "the sound")
    np.testing.assert_allclose(sound.samples, [1, 0], atol=0.01)
    assert sound.rate == RATE


def test_what_is_no_sound_for_the_model_is_named(tmp_path: Path) -> None:
    model, extractor = wav2vec2()
    model.save_pretrained(tmp_path / "m")
    extractor.save_pretrained(tmp_path / "m")
    collect: dict[str, Any] = {"out": tmp_path / "r.pt", "device": "cpu"}
    with pytest.raises(DataError, match="has 8000 samples a second, and the model reads 16000; resample it"):
        rankscope.collect(tmp_path / "m", [Example("a", audio=Sound(wave(0, 800), 8000))], **collect)
    with pytest.raises(DataError, match="example '0' has no sound, and the model reads one"):
        rankscope.collect(tmp_path / "m", ["a text"], **collect)
    wavfile.write(tmp_path / "two.wav", RATE, np.zeros((800, 2), dtype=np.float32))
    with pytest.raises(DataError, match="has 2 channels; mix them down"):
        decode_sound(tmp_path / "two.wav", "it")
    (tmp_path / "no.wav").write_bytes(b"OggS")
    with pytest.raises(DataError, match="cannot be read as WAV"):
        decode_sound(tmp_path / "no.wav", "it")
    (tmp_path / "d.jsonl").write_text('{"audio": "gone.wav"}\n')
    with pytest.raises(DataError, match="audio missing"):
        open_data(tmp_path / "d.jsonl")
    with pytest.raises(DataError, match="one channel of samples"):
        Sound(np.zeros((2, 3), dtype=np.float32), RATE)


def test_sounds_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    before = open_data(files(tmp_path)).fingerprint
    wavfile.write(tmp_path / "0.wav", RATE, wave(9, 1600))
    assert open_data(tmp_path / "d.jsonl").fingerprint != before
    one, other = (Example("a", audio=Sound(wave(i, 100), RATE)) for i in (0, 1))
    assert one.digest() != other.digest()
