"""Models that read a sound beside a text: each site is that of plain transformers, they are tuned, and what they cannot hear is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers as tf
from torch import Tensor, nn

import rankscope
from rankscope.data.probes import Example
from rankscope.data.sounds import Sound
from rankscope.errors import DataError
from rankscope.features import AUDIO, ROLES
from rankscope.models.inputs.reader import reader
from rankscope.tuning import held_out_loss

RATE, LENGTHS = 16000, (3200, 8000, 16000)
KINDS = {"qwen2_audio": "<|AUDIO|>", "audioflamingo3": "<sound>"}
FRAMES = ("<|audio_bos|>", "<|audio_eos|>")


def made(kind: str) -> tuple[nn.Module, Any]:
    """A small model of a kind, and its processor."""
    tok = tiny.tokenizer("<s> $A </s>", **tiny.BART)
    tok.add_tokens([KINDS[kind], *FRAMES], special_tokens=True)
    audio: dict[str, Any] = {
        "num_mel_bins": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32,
        "max_source_positions": 50,
    }  # fmt: skip
    text: dict[str, Any] = {
        "model_type": "qwen2", "vocab_size": len(tok), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128, **tiny._ends(tok),
    }  # fmt: skip
    heard = tok.convert_tokens_to_ids(KINDS[kind])
    extractor = tf.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    if kind == "qwen2_audio":
        config = tf.Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=heard)
        return tf.Qwen2AudioForConditionalGeneration(config), tf.Qwen2AudioProcessor(extractor, tok)
    audio["model_type"] = "audioflamingo3_encoder"
    flamingo = tf.AudioFlamingo3Config(audio_config=audio, text_config=text, audio_token_id=heard)
    return tf.AudioFlamingo3ForConditionalGeneration(flamingo), tf.AudioFlamingo3Processor(extractor, tok)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hearing") / request.param
    model, processor = made(request.param)
    tiny.spread(model, 0).save_pretrained(home)
    processor.save_pretrained(home)
    return home


def noise(seed: int, length: int) -> Sound:
    return Sound((0.1 * np.random.default_rng(seed).normal(size=length)).astype(np.float32), RATE)


def examples(texts: Sequence[str] = ("three is", "a photo", "the sum")) -> list[Example]:
    sounds = [noise(i, length) for i, length in enumerate(LENGTHS)]
    return [Example(str(i), texts[i], audio=sounds[i], targets=(tiny.SENTENCES[i],)) for i in range(3)]


@torch.no_grad()
def told(folder: Path, example: Example) -> dict[str, Tensor]:
    """What plain transformers makes of one example, by site."""
    plain = type(made(folder.name)[0]).from_pretrained(folder).eval()
    processor = tf.AutoProcessor.from_pretrained(folder)
    before, behind = FRAMES if folder.name == "qwen2_audio" else ("", "")
    text = f"{before}{KINDS[folder.name]}{behind}{example.text} {example.target}"
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, out: found.update({name: (out[0] if isinstance(out, tuple) else out)[0]})

    for i, block in enumerate(plain.model.audio_tower.layers):
        block.register_forward_hook(keep(f"audio.{i}"))
    plain.model.multi_modal_projector.register_forward_hook(keep("projector.output"))
    inputs = processor(text=text, audio=example.open_audio().samples, sampling_rate=RATE, return_tensors="pt")
    states = plain(**inputs, output_hidden_states=True).hidden_states
    points = ("embed", "0", "final")
    return found | {f"decoder.{p}": x[0] for p, x in zip(points, states, strict=True)}


def test_each_site_is_that_of_plain_transformers(folder: Path, tmp_path: Path) -> None:
    data = examples()
    run = rankscope.collect(folder, data, rows="tokens", keep_special=True, out=tmp_path / "r.pt", device="cpu")
    swept = 0
    for i, example in enumerate(data):
        for site, want in told(folder, example).items():
            own = run.features(site)[run.rows_at(site).sample == i]
            torch.testing.assert_close(own, want, rtol=1e-5, atol=2e-5, msg=lambda m, s=site: f"{s}: {m}")
            swept += 1
    assert swept == 3 * 6
    assert {str(site) for site in run.sites} - set(told(folder, data[0])) == {"audio.embed", "decoder.1"}


def test_rows_of_sound_are_those_that_are_no_silence(folder: Path, tmp_path: Path) -> None:
    run = rankscope.collect(folder, examples(), rows="audio", out=tmp_path / "r.pt", device="cpu")
    # A hop of 160 samples makes a frame, the tower halves the frames, and what leaves it is halved again.
    for site, hops in (("audio.0", 2), ("projector.output", 4), ("decoder.0", 4)):
        counts = torch.bincount(run.rows_at(site).sample).tolist()
        assert counts == [length // 160 // hops for length in LENGTHS]
    read = rankscope.collect(folder, examples(), rows="text", out=tmp_path / "t.pt", sites="decoder.0", device="cpu")
    assert AUDIO not in read.rows_at("decoder.0").role


def test_what_is_said_depends_on_the_sound_and_not_on_the_batch(folder: Path) -> None:
    data = examples()
    loss = held_out_loss(folder, data)
    assert held_out_loss(folder, data, batch_size=1) == pytest.approx(loss, rel=1e-5)
    others = [Example(e.id, e.text, audio=noise(9, 16000), targets=e.targets) for e in data]
    assert abs(held_out_loss(folder, others) - loss) > 1e-3
    said = rankscope.generate(folder, data, max_new_tokens=6)
    assert said == rankscope.generate(folder, data, max_new_tokens=6, batch_size=1)


def test_they_are_tuned(folder: Path, tmp_path: Path) -> None:
    data = examples(("describe",) * 3)
    method = {"qwen2_audio": "prefix+lora", "audioflamingo3": "full"}[folder.name]
    rankscope.train(folder, method=method, data=data, out=tmp_path / "t", steps=3, learning_rate=1e-2)
    assert held_out_loss(tmp_path / "t", data) < held_out_loss(folder, data)
    assert len(rankscope.generate(tmp_path / "t", data, max_new_tokens=4)) == 3


def test_every_caption_of_a_sound_is_learnt(folder: Path) -> None:
    twice = [Example(e.id, "describe", audio=e.audio, targets=(e.target, "five")) for e in examples()]
    assert held_out_loss(folder, twice) == pytest.approx(held_out_loss(folder, twice, task="captioning"))
    assert held_out_loss(folder, twice, task="vqa") != pytest.approx(held_out_loss(folder, twice))  # one of them


def test_a_chat_template_gets_the_sound(tmp_path: Path) -> None:
    model, processor = made("qwen2_audio")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    made_ = reader(rankscope.load_model(tmp_path), tmp_path, chat=True).encode(examples()[0])
    roles = [ROLES[role] for role in made_.roles["decoder"].tolist()]
    assert roles.count("audio") == LENGTHS[0] // 640
    assert roles.index("audio") > 3  # the template puts the speaker before it


def test_the_mask_of_the_sound_is_not_that_of_the_text(folder: Path, tmp_path: Path) -> None:
    processor = tf.AutoProcessor.from_pretrained(folder)
    given = (noise(seed, LENGTHS[0]).samples for seed in (0, 1))
    options = {"text": f"{KINDS[folder.name]}five", "sampling_rate": RATE, "return_tensors": "pt"}
    items = [{name: x[0] for name, x in processor(audio=samples, **options).items()} for samples in given]
    run = rankscope.collect(rankscope.load_model(folder), items, rows="tokens", out=tmp_path / "r.pt", sites="audio.0")
    assert torch.bincount(run.rows_at("audio.0").sample).tolist() == [LENGTHS[0] // 320] * 2


def test_what_cannot_be_heard_is_named(folder: Path, tmp_path: Path) -> None:
    def collect(sound: Sound | None) -> None:
        rankscope.collect(folder, [Example("a", "five", audio=sound)], out=tmp_path / "r.pt", device="cpu")

    with pytest.raises(DataError, match=r"'a' lasts 1\.2 s, and the model hears 1 s at once; cut it"):
        collect(noise(0, 20000))
    with pytest.raises(DataError, match="'a' is too short to be heard: 300 samples"):
        collect(noise(0, 300))
    with pytest.raises(DataError, match="has 8000 samples a second, and the model reads 16000"):
        collect(Sound(noise(0, 4000).samples, 8000))
    with pytest.raises(DataError, match="'a' has no sound"):
        collect(None)
    data = [Example("a", "five", targets=("six",))]
    with pytest.raises(DataError, match="needs a sound in every example; 1 of 1"):
        rankscope.train(folder, method="lora", data=data, out=tmp_path / "t", steps=1)
