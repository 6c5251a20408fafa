"""Every family under every tuning: what is collected are the hidden states of the plain model on one unpadded sample.

The reference takes nothing from rankscope: transformers and PEFT open the folder, its processor makes the tensors of one
sample, and ``output_hidden_states`` tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers
from tapped import called, examples, real
from torch import Tensor, nn

import rankscope
from rankscope.data.probes import Example
from rankscope.models.families import FAMILIES, UNKNOWN, family_of
from rankscope.models.inputs.reader import reader
from rankscope.models.load import load_model
from rankscope.models.stacks import stacks, taps
from rankscope.sites import Site

CASES = tiny.cases()


def plain(folder: Path, base: Path, name: str, tuning: str) -> nn.Module:
    """The tuned model as plain transformers and PEFT open it."""
    model = tiny.open_base(base)
    if tuning == "none":
        return model
    inner = tiny.FAMILIES[name].inner if tuning in tiny.PROMPTS else ""
    host = model.get_submodule(inner) if inner else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.PeftModel.from_pretrained(host, folder)
    if not inner:
        return tuned.eval()
    setattr(model, inner, tuned)
    return model.eval()


def alone(processor: Any, base: Any, name: str, example: Example) -> dict[str, Tensor]:
    """One sample as the checkpoint's own processor makes it, without padding."""
    text, target, image = example.text, example.target, example.image
    if name == "vit":
        return dict(processor(images=image, return_tensors="pt"))
    if name in ("gpt2", "opt", "llama"):
        return {"input_ids": processor(f"{text} {target}", return_tensors="pt").input_ids}
    if name in ("bert", "clip"):
        pixels = {"images": image} if name == "clip" else {}
        return dict(processor(text=text, return_tensors="pt", **pixels))
    if name == "llava":
        return dict(processor(images=image, text=f"<image>\n{text} {target}", return_tensors="pt"))
    if name == "blip2-opt":
        return dict(processor(images=image, text=f"{text} {target}", return_tensors="pt"))
    tokenizer = getattr(processor, "tokenizer", processor)
    said = [i for i in tokenizer(target).input_ids if i != tokenizer.eos_token_id]
    start = core(base).config.get_text_config().decoder_start_token_id
    read = (
        processor(images=image, text=text, return_tensors="pt")
        if name == "blip2-t5"
        else processor(text, return_tensors="pt")
    )
    return {**read, "decoder_input_ids": torch.tensor([[start, *said]])}


def core(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def numbered(stack: str, states: tuple[Tensor, ...], *, normed: bool, text: bool = False) -> dict[Site, Tensor]:
    """Hidden states by the site that they belong to: embed, 0, …, and the last under ``final`` where it is normed."""
    names = ["embed", *map(str, range(len(states) - 1))]
    if normed:
        names[-1] = "final"
    return {Site(stack, point): state for point, state in zip(names, states, strict=True)}


@torch.inference_mode()
def expected(model: Any, inputs: dict[str, Tensor], name: str) -> dict[Site, Tensor]:
    """The sites' hidden states as transformers returns them."""
    out = model(**inputs, output_hidden_states=True, return_dict=True)
    if name in ("gpt2", "opt", "llama"):
        return numbered("decoder", out.hidden_states, normed=True)
    if name in ("bert", "vit"):
        return numbered("encoder", out.hidden_states, normed=name == "vit") | _vit_final(core(model), inputs, name)
    if name in ("t5", "bart"):
        return _pair(out, normed=name == "t5")
    if name == "clip":
        text = numbered("text", out.text_model_output.hidden_states, normed=False)
        text[Site("text", "final")] = out.text_model_output.last_hidden_state
        return text | numbered("vision", out.vision_model_output.hidden_states, normed=False)
    pixels = inputs["pixel_values"]
    if name == "llava":
        vision = core(model).model.vision_tower(pixels, output_hidden_states=True, return_dict=True)
        found = numbered("vision", vision.hidden_states, normed=False) | numbered(
            "decoder", out.hidden_states, normed=True
        )
        seen = vision.hidden_states[core(model).config.vision_feature_layer][:, 1:]  # without [CLS]
        return {**found, Site("projector", "output"): core(model).model.multi_modal_projector(seen)}
    return _blip2(core(model), pixels) | _language(out.language_model_outputs)


def _vit_final(model: Any, inputs: dict[str, Tensor], name: str) -> dict[Site, Tensor]:
    if name == "bert":
        return {}
    states = model(**inputs, output_hidden_states=True).hidden_states
    return {Site("encoder", str(len(states) - 2)): states[-1], Site("encoder", "final"): model.vit(**inputs)[0]}


def _pair(out: Any, *, normed: bool) -> dict[Site, Tensor]:
    encoder = numbered("encoder", out.encoder_hidden_states, normed=normed)
    return encoder | numbered("decoder", out.decoder_hidden_states, normed=normed)


def _language(out: Any) -> dict[Site, Tensor]:
    return (
        _pair(out, normed=True)
        if "encoder_hidden_states" in out
        else numbered("decoder", out.hidden_states, normed=True)
    )


def _blip2(model: Any, pixels: Tensor) -> dict[Site, Tensor]:
    vision = model.vision_model(pixels, output_hidden_states=True, return_dict=True)
    queries = model.query_tokens.expand(len(pixels), -1, -1)
    read = model.qformer(
        query_embeds=queries,
        encoder_hidden_states=vision.last_hidden_state,
        output_hidden_states=True,
        return_dict=True,
    )
    found = numbered("vision", vision.hidden_states, normed=False)
    found[Site("vision", "final")] = vision.last_hidden_state
    return found | numbered("qformer", read.hidden_states, normed=False)


PROMPTED = {"t5": "encoder", "bart": "encoder", "blip2-t5": "encoder"}
"""The stack in which a prompt stands, where it is not the only one of tokens."""


@torch.inference_mode()
@pytest.mark.parametrize(("name", "tuning"), CASES, ids=[f"{name}-{tuning}" for name, tuning in CASES])
def test_features_are_the_hidden_states_of_one_unpadded_sample(
    folder: Callable[..., Path], tmp_path: Path, name: str, tuning: str
) -> None:
    path, base = folder(name, tuning), folder(name)
    run = rankscope.collect(path, examples(), rows="tokens", keep_special=True, out=tmp_path / "run.pt")
    model, processor = plain(path, base, name, tuning), tiny.open_processor(base)
    finals = {s.name: s.final for s in stacks(core(model)).values()}
    swept = 0
    for i, example in enumerate(examples()):
        want = expected(model, alone(processor, model, name, example), name)
        for site in run.sites:
            found = run.features(site)[run.rows_at(site).sample == i]
            if site not in want:  # transformers returns the last block's output normed only
                assert site.point == str(len(want) and max(s.index or 0 for s in run.sites if s.stack == site.stack))
                found, site = finals[site.stack](found), Site(site.stack, "final")
            rows = want[site][0]
            if tuning in ("prompt", "p-tuning") and site.stack in (
                "encoder" if name in PROMPTED else "decoder",
                *(["encoder"] if name == "bert" else []),
            ):
                rows = rows[tiny.VIRTUAL :]
            torch.testing.assert_close(found, rows, rtol=1e-5, atol=2e-5, msg=lambda m, s=site: f"{s}: {m}")
            swept += 1
    assert swept == 3 * len(taps(core(model)))


@pytest.mark.parametrize(("name", "tuning"), [case for case in CASES if case[1] != "none"])
def test_a_tuning_changes_what_is_read(folder: Callable[..., Path], name: str, tuning: str) -> None:
    tuned, base = load_model(folder(name, tuning)), load_model(folder(name))
    batch, before = (reader(m, folder(name)).read(examples(1)) for m in (tuned, base))
    site = tuple(taps(base))[-1]
    a, b = (real(called(m, x)[site], x, site, 0) for m, x in ((tuned, batch), (base, before)))
    assert a.shape == b.shape
    assert (a - b).abs().max() > 1e-3


def test_the_table_is_swept_whole() -> None:
    assert len(CASES) == 11 * 6 - 2 * 3
    assert {name for name, _ in CASES} == set(tiny.FAMILIES)


def test_every_record_is_of_a_type_that_transformers_knows_once_registered() -> None:
    rankscope.register()
    assert FAMILIES.keys() <= set(transformers.CONFIG_MAPPING)
    assert {name for name, family in FAMILIES.items() if family.port is not None} == {"ofa", "vinvl"}
    assert len(FAMILIES) >= 45


def test_a_model_without_a_record_has_the_defaults() -> None:
    assert family_of(torch.nn.Linear(2, 2)) is UNKNOWN
    assert family_of(None) is UNKNOWN
