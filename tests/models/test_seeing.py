"""Today's vision–language models: each site is the hidden state of plain transformers, and each row is told what it is.

The reference is the checkpoint's own processor with its placeholder put before the text by hand, and a forward pass for one
sample. SmolVLM and Mistral-3 are tried only where the packages are that their processors need.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import tiny_seeing
import torch
import transformers as tf
from PIL import Image
from tapped import prefixed, stepwise
from torch import Tensor

import rankscope
from rankscope.checkpoint.kinds import kind
from rankscope.data.probes import Example
from rankscope.errors import CheckpointError, DataError, MissingTool, UsageError
from rankscope.features import ROLES
from rankscope.models.inputs.processors import open_processor
from rankscope.models.inputs.reader import Reader, inputs_of, reader
from rankscope.models.load import load_model, read_config
from rankscope.models.tunings.prefix_live import detach_prefix
from rankscope.sites import Site
from rankscope.tuning.generation import continuations, predict, prompt_inputs, prompt_reader

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other

NAMES = tuple(tiny_seeing.FAMILIES)
NEEDS = {"smolvlm": "num2words", "mistral3": "torchvision"}
"""The packages of which a processor needs one."""
APART = ("mllama", "blip")
"""Those whose words see the image in attentions of their own: no row of theirs is the image's."""
PLAIN: dict[str, set[str]] = {"llava-onevision": {"special"}}
"""Those whose texts have no special tokens."""
SHOWN = (("how many digits are there?", (40, 30)), ("a photo", (64, 32)), ("three is left of seven, and", (30, 70)))
"""Texts, and the sizes of their images: of one tile, of a row and of a column."""


def lacks(name: str) -> bool:
    """Whether a package that the family needs is not there, or does not load."""
    try:
        return name in NEEDS and import_module(NEEDS[name]) is None
    except (ImportError, RuntimeError):
        return True


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, tiny_seeing.Made]]:
    root, kept = tmp_path_factory.mktemp("seeing"), {}

    def of(name: str) -> tuple[Path, tiny_seeing.Made]:
        if lacks(name):
            pytest.skip(f"{NEEDS[name]} is not there")
        if name not in kept:
            kept[name] = root / name, tiny_seeing.save_base(name, root / name)
        return kept[name]

    return of


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (*size[::-1], 3), generator=generator).to(torch.uint8).numpy())


def examples() -> list[Example]:
    return [Example(str(i), text, picture(i, size)) for i, (text, size) in enumerate(SHOWN)]


def processor_of(folder: Path, made: tiny_seeing.Made) -> Any:
    """The processor as plain transformers opens it, if it has no part for videos, which needs torchvision."""
    whole = len(made.parts) == 1
    return tf.AutoProcessor.from_pretrained(folder) if whole else open_processor(folder, text=True, image=True)


def tuned(folder: Path, model: Any, into: Path) -> Any:
    """The model with a LoRA by plain PEFT on its language model, which is saved in ``into``."""
    targets = r".*(language_model|text_model|text_decoder|git.encoder).*(q_proj|v_proj|query|value)"
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    tuned.peft_config["default"].base_model_name_or_path = str(folder)
    tuned.save_pretrained(into)
    return tuned.eval()


@torch.inference_mode()
def told(model: Any, blocks: Any, inputs: Any, *, final: bool) -> tuple[dict[Site, Tensor], list[Tensor]]:
    """What transformers returns of the language model for one sample, and what each block of the tower gives."""
    seen: list[Tensor] = []
    hooks = [
        b.register_forward_hook(lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for b in blocks
    ]
    out = model(**inputs, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    if hasattr(model, "text_decoder"):  # BLIP returns the tower's alone
        words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        out = model.text_decoder(**words, encoder_hidden_states=out.image_embeds, output_hidden_states=True)
    states = out.hidden_states
    points = ["embed", *map(str, range(3)), "final"]
    points = points if final else points[:-1]
    if final:
        del points[-2]  # the last block's own output is not returned
    return {Site("decoder", p): state[0] for p, state in zip(points, states, strict=True)}, seen


def rows_of_tower(name: str, hidden: Tensor, inputs: Any) -> Tensor:
    """The rows of a tower that are an image's; Mllama computes four tiles, each filled up from 17 columns to 24."""
    if name != "mllama":
        return hidden.reshape(-1, hidden.shape[-1])
    tiles = int(inputs["aspect_ratio_mask"].sum())
    return hidden.reshape(4, 24, -1)[:tiles, :17].reshape(tiles * 17, -1)


def roles_of(made: tiny_seeing.Made, processor: Any, inputs: Any) -> list[str]:
    """What each row of the language model is, by its word, or by what else the processor says of it."""
    special = {*processor.tokenizer.all_special_tokens, "TILE", "TILE_GLOBAL", "<image>", "</image>"}
    words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    kinds = ["image" if w == made.rows else "special" if w in special else "text" for w in words]
    if "image_embeds_position_mask" in inputs:
        places = inputs["image_embeds_position_mask"][0].tolist()
        kinds = ["image" if there else kind for kind, there in zip(kinds, places, strict=True)]
    # GIT puts the tower's rows, its class token first, before the words.
    return ["special", *["image"] * 16, *kinds] if type(made.model).__name__ == "GitForCausalLM" else kinds


@pytest.mark.parametrize("tuning", ["none", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_sites_are_the_hidden_states_of_one_sample_and_rows_are_told_apart(
    base: Callable, tmp_path: Path, name: str, tuning: str
) -> None:
    folder, made = base(name)
    model = type(made.model).from_pretrained(folder).eval()
    blocks, path = model.get_submodule(made.blocks), folder
    if tuning == "lora":
        path = tmp_path / "lora"
        model = tuned(folder, model, path)
    run = rankscope.collect(
        path, examples(), rows="tokens", keep_special=True, out=tmp_path / "r.pt", device="cpu", tokens_per_batch=1000
    )
    processor, swept = processor_of(folder, made), 0
    for i, example in enumerate(examples()):
        inputs = processor(images=example.image, text=f"{made.placeholder}{example.text}", return_tensors="pt")
        states, seen = told(model, blocks, inputs, final="decoder.final" in map(str, run.sites))
        for k, hidden in enumerate(seen):
            states[Site("vision", str(k))] = rows_of_tower(name, hidden, inputs)
        for site, want in states.items():
            own = run.rows_at(site).sample == i
            torch.testing.assert_close(
                run.features(site)[own], want, rtol=1e-5, atol=2e-5, msg=lambda m, s=site: f"{s}: {m}"
            )
            swept += 1
        told_apart = [ROLES[r] for r in run.rows_at("decoder.0").role[run.rows_at("decoder.0").sample == i]]
        assert told_apart == roles_of(made, processor, inputs)
        assert set(told_apart) == (
            {"text", "special"} if name in APART else {"image", "text", "special"} - PLAIN.get(name, set())
        )
    assert swept == 3 * (4 + len(blocks))


def said_stepwise(model: Any, reading: Reader) -> list[list[int]]:
    """What ``generate`` says to each sample alone: what step-by-step forward passes say, and what it says to all together."""
    alone = []
    for example in examples():
        inputs = prompt_inputs(model, reading, [example], room=4)
        said = continuations(model, reading, dict(inputs), {"max_new_tokens": 4})[0].tolist()
        if reading.inputs.family.frames_prompts:  # BLIP begins with a token of its own, and without the separator
            ids = inputs["input_ids"][:, :-1].clone()
            ids[:, 0] = reading.inputs.config.text_config.bos_token_id
            inputs = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        assert said == stepwise(model, reading, inputs, len(said))
        alone.append(said)
    if reading.padding_side == "left":
        inputs = prompt_inputs(model, reading, examples(), room=4)
        together = continuations(model, reading, inputs, {"max_new_tokens": 4}).tolist()
        assert [said[: len(own)] for said, own in zip(together, alone, strict=True)] == alone
    return alone


@pytest.mark.parametrize("name", NAMES)
def test_a_prefix_is_live_in_forward_and_generate(base: Callable, name: str) -> None:
    model, read, _ = prefixed(base(name)[0])
    reading = prompt_reader(model, read)
    inputs = read.read(examples()).inputs
    assert len(said_stepwise(model, reading)) == 3
    with torch.no_grad():
        live = model(**inputs).logits
        detach_prefix(model)
        assert not torch.allclose(live, model(**inputs).logits, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", NEEDS)
def test_a_package_that_a_processor_needs_is_named(tmp_path: Path, name: str) -> None:
    if not lacks(name):
        pytest.skip(f"{NEEDS[name]} is there")
    tiny_seeing.save_base(name, tmp_path / "m")
    with pytest.raises(MissingTool, match=f"(?i)needs a package that is not installed or does not load.*{NEEDS[name]}"):
        rankscope.collect(tmp_path / "m", examples(), out=tmp_path / "r.pt")


def test_a_type_that_transformers_knows_is_no_other_projects_layout(tmp_path: Path) -> None:
    known = [name for name in tf.CONFIG_MAPPING if name.startswith("llava_")]
    for name in known:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
        assert kind(tmp_path) == "model"
        assert read_config(tmp_path).model_type == name
    assert len(known) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_without_an_image_is_named(base: Callable, name: str) -> None:
    folder, _ = base(name)
    with pytest.raises(DataError, match="example 'a' has no image, and the model reads one"):
        reader(load_model(folder), folder).encode(Example("a", "a photo"))


def test_a_chat_template_puts_the_image_where_it_says(base: Callable, tmp_path: Path) -> None:
    folder, _ = base("qwen3-vl")
    model = load_model(folder)
    processor = open_processor(folder, text=True, image=True)
    processor.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|>"
        "<|vision_end|>{% else %}Q: {{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    chat, plain = (inputs_of(model, processor, chat=chat).encode(examples()[1]).inputs for chat in (True, False))
    asked = processor.tokenizer("Q: a photo")["input_ids"]
    placed = len(plain["input_ids"]) - len(processor.tokenizer("a photo")["input_ids"])
    assert chat["input_ids"].tolist() == plain["input_ids"][:placed].tolist() + asked


def test_a_text_with_two_placeholders_for_one_image_is_named(base: Callable, tmp_path: Path) -> None:
    twice = Example("a", "<image> beside <image>", picture(0, (32, 32)))
    with pytest.raises(
        DataError,
        match=r"LlavaNextProcessor does not make sample 'a' into what the model reads \(\w+: The total number",
    ):
        rankscope.collect(base("llava-next")[0], [twice], out=tmp_path / "r.pt", device="cpu")


def test_prompts_that_cannot_be_padded_on_the_left_are_asked_one_by_one(base: Callable) -> None:
    model = load_model(base("blip")[0])
    reading = prompt_reader(model, reader(model, base("blip")[0]))
    with pytest.raises(UsageError, match="cannot be padded on the left"):
        continuations(model, reading, prompt_inputs(model, reading, examples(), room=4), {"max_new_tokens": 4})
    assert [p.id for p in predict(model, reading, examples(), max_new_tokens=4)] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["qwen3-vl", "qwen3.5", "internvl", "llava-onevision", "git"])
def test_a_tuned_folder_may_hold_the_processor_or_a_part_of_it(base: Callable, tmp_path: Path, name: str) -> None:
    """Beside an adapter: nothing, the processor without its part for videos, with it, or the tokenizer alone."""
    folder, made = base(name)
    model = tuned(folder, type(made.model).from_pretrained(folder), tmp_path / "nothing")
    processor, found = open_processor(folder, text=True, image=True), {}
    for holds in ("nothing", "no videos", "videos", "tokenizer"):
        into = tmp_path / holds
        model.save_pretrained(into)
        if holds in ("no videos", "videos"):
            processor.save_pretrained(into)
        if holds == "videos":  # as it is saved where torchvision is
            settings = json.loads((into / "processor_config.json").read_text())
            kind = type(processor).__name__.replace("Processor", "VideoProcessor")
            settings["video_processor"] = {"video_processor_type": kind}
            (into / "processor_config.json").write_text(json.dumps(settings))
        if holds == "tokenizer":
            processor.tokenizer.save_pretrained(into)
        found[holds] = rankscope.collect(into, examples(), out=tmp_path / f"{holds}.pt", device="cpu").features(
            "decoder.1"
        )
    assert all(torch.equal(x, found["nothing"]) for x in found.values())
    assert len(found) == 4
    words = tiny.tokenizer("$A", extra=("<another>",), **tiny.GPT2)
    words.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match="has other tokens than that of the processor in"):
        rankscope.collect(tmp_path / "tokenizer", examples(), out=tmp_path / "r.pt", device="cpu")


def test_the_table_is_swept_whole() -> None:
    assert len(NAMES) == 14
