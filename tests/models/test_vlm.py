"""LLaVA, Qwen2-VL, PaliGemma and Florence-2: hidden states of single samples, rows of images and text, LoRA and prefixes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import tiny_vlm
import torch
from tapped import called, prefixed, real, stepwise
from torch import Tensor

import rankscope
from rankscope.data.probes import Example
from rankscope.models.inputs.reader import Reader, reader
from rankscope.models.load import load_model
from rankscope.models.stacks import stacks
from rankscope.models.tunings.prefix_live import detach_prefix
from rankscope.sites import Site
from rankscope.tuning.generation import continuations, prompt_inputs, prompt_reader

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other

NAMES = tuple(tiny_vlm.FAMILIES)
TEXTS = ("how many digits are there?", "a photo", "three is left of seven, and")
TARGETS = ("five", "nothing of digits", "two")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("vlm")

    def of(name: str) -> Path:
        return root / name if (root / name).exists() else tiny_vlm.save_base(name, root / name)

    return of


def examples(*, sizes: bool = False) -> list[Example]:
    """Three pictures with texts; of three sizes where asked for."""
    pictures = [tiny.picture(i) for i in range(3)]
    if sizes:
        pictures = [picture.resize((16 + 8 * i, 16)) for i, picture in enumerate(pictures)]
    told = zip(pictures, TEXTS, TARGETS, strict=True)
    return [Example(str(i), text, picture, (target,)) for i, (picture, text, target) in enumerate(told)]


@torch.inference_mode()
def expected(model: Any, inputs: dict[str, Tensor]) -> dict[Site, Tensor]:
    """What transformers itself returns for one sample."""
    out = model(**inputs, output_hidden_states=True, return_dict=True)
    if "encoder_hidden_states" in out:
        pair = {"encoder": out.encoder_hidden_states, "decoder": out.decoder_hidden_states}
        return {
            Site(stack, "embed" if i == 0 else str(i - 1)): h for stack, hs in pair.items() for i, h in enumerate(hs)
        }
    names = ["embed", *map(str, range(len(out.hidden_states) - 2)), "final"]
    return {Site("decoder", point): h for point, h in zip(names, out.hidden_states, strict=True)}


def agree(model: Any, plain: Any, read: Reader, shown: list[Example]) -> int:
    """Every row of a batch is the row of its sample alone; where transformers tells it, that row."""
    batch = read.read(shown)
    together, swept = called(model, batch), 0
    for i, example in enumerate(shown):
        alone = read.read([example])
        own, told = called(model, alone), expected(plain, alone.inputs)
        for site, hidden in together.items():
            rows = real_rows(hidden, batch, site, i)
            torch.testing.assert_close(rows, real_rows(own[site], alone, site, 0), rtol=1e-4, atol=1e-4)
            if site in told:
                torch.testing.assert_close(rows, real_rows(told[site], alone, site, 0), rtol=1e-4, atol=1e-4)
                swept += 1
    return swept


def real_rows(hidden: Tensor, batch: Any, site: Site, place: int) -> Tensor:
    """A sample's rows, of a stack whose rows are packed too."""
    mask = batch.grids[site.stack].real
    if hidden.ndim == 2:
        return hidden.split(mask.sum(1).tolist())[place]
    return real(hidden, batch, site, place)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_hidden_states_of_one_sample(base: Callable, name: str) -> None:
    model = load_model(base(name))
    swept = agree(model, model, reader(model, base(name)), examples(sizes=name == "qwen2-vl"))
    assert swept >= 3 * 4


@pytest.mark.parametrize("name", NAMES)
def test_a_lora_by_plain_peft_is_collected(base: Callable, tmp_path: Path, name: str) -> None:
    family = tiny_vlm.FAMILIES[name]
    config = peft.LoraConfig(
        r=2, target_modules=rf".*language_model.*({'|'.join(family.targets)})", init_lora_weights=False
    )
    tuned = peft.get_peft_model(load_model(base(name)), config)
    tuned.peft_config["default"].base_model_name_or_path = str(base(name))
    tuned.save_pretrained(tmp_path / "lora")
    model = load_model(tmp_path / "lora")
    read = reader(model, tmp_path / "lora")
    assert agree(model, tuned.eval(), read, examples()) >= 3 * 4
    batch, site = read.read(examples()), list(stacks(model)["decoder"].sites)[-1]
    with tuned.disable_adapter():
        before = called(tuned, batch)[site]
    assert (called(model, batch)[site] - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", ["image", "text"])
def test_image_and_text_rows_are_collected(base: Callable, tmp_path: Path, name: str, rows: str) -> None:
    shown = examples(sizes=name == "qwen2-vl")
    run = rankscope.collect(base(name), shown, rows=rows, out=tmp_path / "run", device="cpu", tokens_per_batch=60)
    model = load_model(base(name))
    read = reader(model, base(name))
    role = rankscope.features.ROLES.index(rows)
    for site in run.sites:
        wanted = []
        for example in shown:
            batch = read.read([example])
            grid = batch.grids[site.stack]
            roles = grid.role[0][grid.real[0]]
            kept = roles == role if rows == "image" else (roles == role) | (roles == 3)
            wanted.append(real_rows(called(model, batch)[site], batch, site, 0)[kept])
        torch.testing.assert_close(torch.as_tensor(run.features(site)), torch.cat(wanted), rtol=1e-4, atol=1e-4)
    assert {site.stack for site in run.sites} >= {"decoder" if rows == "text" else "projector"}


@pytest.mark.parametrize("name", NAMES)
def test_a_prefix_is_live_in_forward_and_generate(base: Callable, name: str) -> None:
    """Greedy ``generate`` is greedy step-by-step ``forward``, alone and in company, and the prefix changes it."""
    model, read, _ = prefixed(base(name))
    reading = prompt_reader(model, read)
    shown = [Example(e.id, e.text, e.image) for e in examples()]
    together = continuations(model, reading, prompt_inputs(model, reading, shown, room=6), {"max_new_tokens": 6})
    for i, example in enumerate(shown):
        inputs = prompt_inputs(model, reading, [example], room=6)
        said = continuations(model, reading, inputs, {"max_new_tokens": 6})
        assert said[0].tolist() == stepwise(model, reading, inputs, len(said[0]))
        assert said[0].tolist() == together[i, : said.shape[1]].tolist()
    detach_prefix(model)
    without = continuations(model, reading, prompt_inputs(model, reading, shown, room=6), {"max_new_tokens": 6})
    assert without.tolist() != together.tolist()
