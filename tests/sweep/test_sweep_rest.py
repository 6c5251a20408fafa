"""Every other type that transformers builds small (images and text, sounds, videos, series): as transformers has it, or refused by name.

Each folder has a small processor of its type where one can be made from outside, else a plain one, which is not its own: what such
a folder is refused for must be named too. What is read is held to the modules of plain transformers, called with what the processor
made of one sample: the blocks of a stack are one list of modules, in its order, whatever that is called.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import small
import small_processors
import test_sweep_families as families
import tiny
import torch
import transformers as tf
from scipy.io import wavfile
from torch import Tensor, nn
from transformers.models.auto import modeling_auto as auto

import rankscope
from rankscope.errors import RankscopeError
from rankscope.models.inputs.reader import reader
from rankscope.models.load import load_model

pytestmark = pytest.mark.filterwarnings("ignore")

TYPES = sorted(set(auto.MODEL_MAPPING_NAMES) - set(families.TEXT) - set(families.IMAGES))
QUICK = frozenset({"clip", "grounding-dino", "hubert", "idefics2", "kosmos-2", "qwen2_vl", "sam", "timesfm"})
"""Those that always run: a pair of towers, a missing part, sounds, placeholders and packed patches, foreign processors, a series."""
FEWEST = 170
"""How many of them are built small, at the least."""
ELSEWHERE = {"vilt"}
"""Of which only the words are rows, and which ``tests/models/test_joint_inputs.py`` holds to plain transformers."""
FEWEST_COMPARED = 75
"""How many are read and held to plain transformers, at the least."""
BUILT: set[str] = set()
COMPARED: set[str] = set()
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
    """Make a small checkpoint of the type, with its own processor where that can be made; whether the model can."""
    for save in (small_processors.save_checkpoint, small_processors.save_plain):
        try:
            save(model_type, folder)
        except Exception:  # transformers raises what it likes, of a package that is not there or sizes that do not fit
            shutil.rmtree(folder, ignore_errors=True)
        else:
            return True
    return False


class Seen(NamedTuple):
    """What went into and came out of the modules of a plain model, for one sample."""

    entered: dict[str, Tensor]
    left: dict[str, Tensor]
    returned: list[Tensor]


def tensor_of(value: Any) -> Tensor | None:
    """The hidden states in what a module takes or returns."""
    if isinstance(value, tuple | list | dict):
        value = next(iter(value.values() if isinstance(value, dict) else value), None)
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


@torch.no_grad()
def seen(model: nn.Module, inputs: dict[str, Tensor]) -> Seen:
    """Everything that passes the modules of a model."""
    entered: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if (x := tensor_of(args or kwargs.get("hidden_states"))) is not None:
                entered[name] = x.clone()

        return hook

    def leave(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if (x := tensor_of(output)) is not None:
                left[name] = x.clone()

        return hook

    hooks = [m.register_forward_pre_hook(enter(name), with_kwargs=True) for name, m in model.named_modules()]
    hooks += [m.register_forward_hook(leave(name)) for name, m in model.named_modules()]
    out = model(**inputs)
    for hook in hooks:
        hook.remove()
    returned = [x for value in out.values() if (x := tensor_of(value)) is not None]
    return Seen(entered, left, returned)


def same(found: Tensor, state: Tensor | None) -> bool:
    """Whether rows of one sample are a state of a plain model, which may have several tiles, or be a grid with its channels first."""
    if state is None or state.ndim < 2:
        return False
    shapes = [state, state.movedim(1, -1)] if state.ndim == 4 else [state]
    return any(families.apart(found, x.reshape(-1, x.shape[-1])) < 2e-5 for x in shapes)


def unlike(run: Any, stack: str, samples: list[Seen], lists: list[str]) -> list[str]:
    """The sites of a stack that no list of blocks of the plain model gives, of the list that gives most."""
    sites = [site for site in run.sites if site.stack == stack]
    each = {site: [run.features(site)[run.rows_at(site).sample == i] for i in range(len(samples))] for site in sites}

    def is_given(site: Any, path: str) -> bool:
        found = zip(each[site], samples, strict=True)
        if site.point == "embed":
            return all(same(x, one.entered.get(f"{path}.0")) for x, one in found)
        if site.point.isdigit():
            return all(same(x, one.left.get(f"{path}.{site.point}")) for x, one in found)
        return all(any(same(x, state) for state in [*one.left.values(), *one.returned]) for x, one in found)

    return min(([str(site) for site in sites if not is_given(site, path)] for path in lists), key=len)


def held_to_transformers(run: Any, folder: Path, data: Path) -> None:
    """Every site is what passes a list of blocks of the plain model, called with what the processor made of one sample."""
    plain = tf.AutoModel.from_pretrained(folder).eval()
    reads = reader(load_model(folder), folder)
    samples = [seen(plain, {**reads.read([example]).inputs}) for example in rankscope.open_data(data)]
    lists = [name for name, module in plain.named_modules() if isinstance(module, nn.ModuleList)]
    for stack in dict.fromkeys(site.stack for site in run.sites):
        assert unlike(run, stack, samples, lists) == [], run.manifest.notes


@pytest.mark.parametrize("model_type", [pytest.param(t, marks=() if t in QUICK else pytest.mark.whole) for t in TYPES])
def test_a_folder_is_read_as_transformers_reads_it_or_refused_by_name(
    model_type: str, data: Path, tmp_path: Path
) -> None:
    if not built(model_type, tmp_path / "m"):
        pytest.skip("it cannot be made small from outside, or needs a package")
    BUILT.add(model_type)
    with suppress(RankscopeError):  # any other error fails
        run = rankscope.collect(
            tmp_path / "m", data, n=4, rows="tokens", keep_special=True, out=tmp_path / "r.pt", device="cpu"
        )
        if model_type not in ELSEWHERE:
            held_to_transformers(run, tmp_path / "m", data)
            COMPARED.add(model_type)
    with suppress(RankscopeError):
        run = rankscope.collect(tmp_path / "m", n=4, out=tmp_path / "bare.pt", device="cpu")
        assert all(torch.isfinite(run.features(site)).all() for site in run.sites)


def test_the_rest_is_as_large_as_it_says(request: pytest.FixtureRequest) -> None:
    assert len(TYPES) >= 300
    if BUILT >= QUICK:
        assert {"clip", "hubert", "idefics2", "qwen2_vl"} <= COMPARED
    if request.config.getoption("--whole"):
        assert len(BUILT) >= FEWEST
        assert len(COMPARED) >= FEWEST_COMPARED, sorted(COMPARED)
