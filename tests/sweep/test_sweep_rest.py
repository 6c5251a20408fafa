"""Every other type that transformers builds small (images and text, sounds, videos, series): read, or refused by name.

Each folder has a tokenizer and a plain image processor, which for many of these types is not their own: what such a folder is
refused for must be named too. Families whose own processors are made here are held to plain transformers in
``tests/models/test_seeing.py``, ``test_vlm.py`` and ``test_sounds.py``.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import small
import test_sweep_families as families
import tiny
import torch
import transformers as tf
from scipy.io import wavfile
from transformers.models.auto import modeling_auto as auto

import rankscope
from rankscope.errors import RankscopeError

pytestmark = pytest.mark.filterwarnings("ignore")

TYPES = sorted(set(auto.MODEL_MAPPING_NAMES) - set(families.TEXT) - set(families.IMAGES))
QUICK = frozenset({"clip", "grounding-dino", "hubert", "kosmos-2", "qwen2_vl", "sam", "timesfm", "vilt"})
"""Those that always run: a pair of towers, a missing part, a sound, a foreign processor, prompts beside images, a series."""
FEWEST = 170
"""How many of them are built small, at the least."""
BUILT: set[str] = set()
"""Those that were."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four samples, each with a text, a picture and a sound."""
    home = tmp_path_factory.mktemp("rest")
    lines = []
    for i, text in enumerate(tiny.SENTENCES[:4]):
        tiny.picture(i).resize((small.PIXELS, small.PIXELS)).save(home / f"{i}.png")
        wavfile.write(home / f"{i}.wav", 16000, np.random.default_rng(i).integers(-9000, 9000, 3200, dtype=np.int16))
        lines.append(json.dumps({"id": str(i), "text": text, "image": f"{i}.png", "audio": f"{i}.wav"}) + "\n")
    (home / "data.jsonl").write_text("".join(lines))
    return home / "data.jsonl"


def built(model_type: str, folder: Path) -> bool:
    """Make a small checkpoint of the type; whether it can be made."""
    tok = tiny.tokenizer("<s> $A </s>", **tiny.BART)
    ends = {f"{end}_token_id": getattr(tok, f"{end}_token_id") for end in ("pad", "bos", "eos")}
    torch.manual_seed(0)
    try:
        config = small.small_config(model_type, vocab_size=len(tok), **ends)
        small.jittered(small.small_model(config)).save_pretrained(folder)
    except Exception:
        return False
    tok.save_pretrained(folder)
    tf.ViTImageProcessor(size={"height": small.PIXELS, "width": small.PIXELS}).save_pretrained(folder)
    return True


@pytest.mark.parametrize("model_type", [pytest.param(t, marks=() if t in QUICK else pytest.mark.whole) for t in TYPES])
def test_a_folder_is_read_or_refused_by_name(model_type: str, data: Path, tmp_path: Path) -> None:
    if not built(model_type, tmp_path / "m"):
        pytest.skip("it cannot be made small from outside, or needs a package")
    BUILT.add(model_type)
    for given in (data, None):
        with suppress(RankscopeError):  # any other error fails
            run = rankscope.collect(tmp_path / "m", given, n=4, rows="tokens", overwrite=True, out=tmp_path / "r.pt")
            assert all(torch.isfinite(run.features(site)).all() for site in run.sites)


def test_the_rest_is_as_large_as_it_says(request: pytest.FixtureRequest) -> None:
    assert len(TYPES) >= 300
    assert not request.config.getoption("--whole") or len(BUILT) >= FEWEST
