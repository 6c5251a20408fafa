"""The third modality: scenes say what they sound, pre-training and the readers make one sample alike, and the rules are those of the claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
import torch

import rankscope
from rankscope.models.inputs.reader import reader


@pytest.fixture(scope="module")
def script(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("third_modality")


@pytest.fixture(scope="module")
def scenes(analysis: Callable[[str], ModuleType]) -> ModuleType:
    return analysis("spoken_scenes")


def test_a_scene_is_said_in_two_looks_with_one_vocabulary(scenes: ModuleType) -> None:
    known, part = set(scenes.words()), scenes.Part
    scene = scenes.Spoken((part("low", times=2), part("seven"), part("rising")), np.zeros(1), (("low", 0.0, 0.1),) * 4)
    assert scenes.caption(scene) == "two short low tones , then the digit seven , then a rising sweep"
    told = "rising sweep after digit seven after two short low tones"
    assert scenes.captions(scene) == (f"{told} , four sounds", f"four sounds , {told}")
    for i in range(200):
        draw = Random(i)
        one = scenes.spoken(draw, tuned=bool(i % 2)) if i < 10 else scene
        said = " ".join((scenes.caption(one), *scenes.captions(one), *scenes.question(one, draw), scenes.PROMPT))
        assert set(said.split()) <= known
        assert len(one.heard) == sum(p.times for p in one.parts) or one is scene


def test_what_is_heard_is_there_and_silence_is_silent(scenes: ModuleType) -> None:
    for seed in range(8):
        scene = scenes.spoken(Random(seed), tuned=False)
        events = [scene.wave[int(a * scenes.RATE) : int(b * scenes.RATE)].std() for _, a, b in scene.heard]
        first = int(scene.heard[0][1] * scenes.RATE)
        assert min(events) > 5 * scene.wave[:first].std()
        marks = scenes.stretches([scene], 0.02, 100)[0]
        assert {scenes.KINDS[m - 1] for m in marks if m} == {kind for kind, _, _ in scene.heard}
        assert len(scene.wave) <= scenes.SECONDS * scenes.RATE


def test_sets_of_data_are_prefixes_and_share_no_sound(scenes: ModuleType, tmp_path: Path) -> None:
    data = scenes.SpokenData(tmp_path)
    few, more = data("train", 2), data("train", 4)
    assert [e.digest() for e in few] == [e.digest() for e in list(more)[:2]]
    others = [e.open_audio().digest() for name in ("test", scenes.BEFORE) for e in data(name, 4)]
    assert not {e.open_audio().digest() for e in more} & set(others)
    assert len({e.targets for e in data("test", 4)}) == 4
    assert all(len(e.targets) == 2 for e in data("test", 4))


def test_pre_training_reads_a_sample_as_the_readers_do(analysis: Callable[[str], ModuleType], tmp_path: Path) -> None:
    miniature = analysis("pretrain_sounds")
    base = miniature.pretrained(tmp_path, {"pool": 4, "batch": 2, "listen": 1, "tell": 1})
    pool = miniature.Pool(2, miniature.make_processor())
    made = pool.texts(torch.arange(2), Random(0))
    read = reader(rankscope.load_model(base), base)
    scene = pool.scenes[1]
    sound = rankscope.data.sounds.Sound(scene.wave.astype(np.float32), miniature.RATE)
    example = rankscope.data.Example("a", miniature.PROMPT, audio=sound, targets=(miniature.caption(scene),))
    encoded = read.encode(example).inputs
    length = int(made["attention_mask"][1].sum()) - 1  # without the end, which training adds
    assert encoded["input_ids"].tolist() == made["input_ids"][1, :length].tolist()
    torch.testing.assert_close(encoded["input_features"][0], pool.spectra[1], atol=1e-4, rtol=1e-4)
    assert torch.equal(encoded["feature_attention_mask"][0], pool.masks[1])


def test_a_miniature_is_judged_by_what_it_does_before_training(script: ModuleType) -> None:
    own = {"test": 1.0, script.BEFORE: 0.2, script.OTHER: 0.3}
    found = {"shifted": {0: own, 16: own}, "exchanged": {script.BEFORE: 1.0, script.OTHER: 1.0}}

    def run(method: str, drift: float, old: float) -> dict[str, object]:
        return {"setting": {"method": method}, "looks": [{"drift": drift, script.BEFORE: old}]}

    sound = [run("lora", 0.0, 0.2), run("pt-full", 0.1, 0.5)]
    assert all(script.fit(found, sound, {script.BEFORE: 0.2}).values())
    deaf = found | {"exchanged": {script.BEFORE: 0.39, script.OTHER: 1.0}}
    assert not script.fit(deaf, sound, {script.BEFORE: 0.2})["listens"]
    moved = found | {"shifted": {0: own, 16: own | {"test": 1.03}}}
    assert not script.fit(moved, sound, {script.BEFORE: 0.2})["bears a shift"]
    broken = [run("lora", 0.1, 0.2), run("pt-full", 0.1, 0.9)]
    said = script.fit(found, broken, {script.BEFORE: 0.2})
    assert not said["bears an untrained prefix"]
    assert not said["is not moved by an untrained update"]


@pytest.mark.whole  # `dev.py study --quick` runs it too
def test_it_runs_and_trains_nothing_twice(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = script.main("quick", tmp_path / "runs", tmp_path / "third")
    assert json.loads((tmp_path / "third.json").read_text())["verdicts"].keys() == found["verdicts"].keys()
    before = (tmp_path / "third.svg").read_bytes()
    monkeypatch.setattr(script.rankscope, "train", None, raising=False)
    script.main("quick", tmp_path / "runs", tmp_path / "third")
    assert (tmp_path / "third.svg").read_bytes() == before
