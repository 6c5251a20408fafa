"""Reading: what each column is, and rows that do not depend on padding, its side, or company."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
from tapped import called, examples, real
from torch import nn

from rankscope.data.probes import Example, Turn
from rankscope.errors import CheckpointError, DataError, UsageError
from rankscope.features import ANSWER, ROLES
from rankscope.models.inputs.reader import Reader, padded, reader
from rankscope.models.load import load_model
from rankscope.models.stacks import taps
from rankscope.models.tunings.prefix_live import attach_prefix, new_prefix
from rankscope.reading.forward import ModelBatch

TEXT = "three is left of seven"
WHOLE = Example("whole", TEXT, tiny.picture(5), ("two digits", "five", "five"))


def roles(batch: ModelBatch, stack: str, place: int = 0) -> list[str]:
    """The roles of a sample's real columns, runs of one role as one word with its length."""
    grid = batch.grids[stack]
    runs: list[tuple[str, int]] = []
    for number in grid.role[place][grid.real[place]].tolist():
        word = ROLES[number]
        runs[-1:] = [(word, runs[-1][1] + 1)] if runs and runs[-1][0] == word else [*runs[-1:], (word, 1)]
    return [f"{word}×{count}" for word, count in runs]


def tokens(folder: Path, text: str) -> int:
    held = tiny.open_processor(folder)
    return len(getattr(held, "tokenizer", held)(text, add_special_tokens=False)["input_ids"])


def opened(folder: Path, **options: Any) -> tuple[nn.Module, Reader]:
    model = load_model(folder)
    return model, reader(model, folder, **options)


EXPECTED: dict[str, dict[str, list[str]]] = {
    "gpt2": {"decoder": ["text×T", "answer×A"]},
    "opt": {"decoder": ["special×1", "text×T", "answer×A"]},
    "llama": {"decoder": ["special×1", "text×T", "answer×A"]},
    "bert": {"encoder": ["special×1", "text×T", "special×1"]},
    "t5": {"encoder": ["text×T", "special×1"], "decoder": ["special×1", "answer×B"]},
    "bart": {"encoder": ["special×1", "text×T", "special×1"], "decoder": ["special×2", "answer×B"]},
    "vit": {"encoder": ["special×1", "image×4"]},
    "clip": {"text": ["special×1", "text×T", "special×1"], "vision": ["special×1", "image×4"]},
    "blip2-opt": {
        "vision": ["special×1", "image×4"],
        "qformer": ["query×6"],
        "decoder": ["image×6", "special×1", "text×T", "answer×A"],
    },
    "blip2-t5": {
        "vision": ["special×1", "image×4"],
        "qformer": ["query×6"],
        "encoder": ["image×6", "text×T", "special×1"],
        "decoder": ["special×1", "answer×B"],
    },
    "llava": {
        "vision": ["special×1", "image×4"],
        "projector": ["image×4"],
        "decoder": ["special×1", "image×4", "text×N", "answer×A"],
    },
}


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_every_column_has_its_role(folder: Callable[..., Path], name: str) -> None:
    _, read = opened(folder(name))
    batch = read.read([WHOLE])
    if name != "vit":
        counts = {
            "T": tokens(folder(name), TEXT),
            "A": tokens(folder(name), " five"),
            "B": tokens(folder(name), "five"),
        }
        counts["N"] = counts["T"] + 1  # the line break after LLaVA's placeholder
    else:
        counts = {}
    want = {
        stack: [f"{word.split('×')[0]}×{counts.get(word[-1], word[-1])}" for word in words]
        for stack, words in EXPECTED[name].items()
    }
    assert {stack: roles(batch, stack) for stack in batch.grids} == want


def test_the_roles_are_swept() -> None:
    assert set(EXPECTED) == set(tiny.FAMILIES)


LEFT = ["gpt2", "opt", "llama", "bert", "t5", "blip2-opt", "blip2-t5", "llava"]
LEFT_TUNED = [(name, tuning) for name in LEFT for tuning in ("none", "lora", "prefix")]


@pytest.mark.parametrize(("name", "tuning"), LEFT_TUNED, ids=[f"{name}-{tuning}" for name, tuning in LEFT_TUNED])
def test_padding_on_the_left_gives_the_same_rows(folder: Callable[..., Path], name: str, tuning: str) -> None:
    model, right = opened(folder(name, tuning))
    left = reader(model, folder(name, tuning), padding_side="left")
    batches = [r.read(examples()) for r in (right, left)]
    found = [called(model, batch) for batch in batches]
    assert not torch.equal(batches[0].inputs["input_ids"], batches[1].inputs["input_ids"])
    for site in taps(model):
        for i in range(3):
            a, b = (real(h[site], batch, site, i) for h, batch in zip(found, batches, strict=True))
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5, msg=lambda m, s=site: f"{s}: {m}")


def test_positions_matter_on_the_left(folder: Callable[..., Path]) -> None:
    model, _ = opened(folder("gpt2"))
    batch = reader(model, folder("gpt2"), padding_side="left").read(examples())
    with torch.inference_mode():
        right = model(**batch.inputs).logits
        del batch.inputs["position_ids"]
        assert (model(**batch.inputs).logits - right).abs().max() > 0.1


@pytest.mark.parametrize("name", ["bart", "clip"])
def test_padding_on_the_left_is_refused_where_positions_would_shift(folder: Callable[..., Path], name: str) -> None:
    model = load_model(folder(name))
    if name == "clip":  # takes position_ids, so that they are handed over
        reader(model, folder(name), padding_side="left")
        return
    with pytest.raises(UsageError, match=r"takes no position_ids.*pad right"):
        reader(model, folder(name), padding_side="left")


def test_padding_on_the_left_is_refused_where_no_text_is_read(folder: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="a ViTForImageClassification reads no text"):
        reader(load_model(folder("vit")), folder("vit"), padding_side="left")


def test_padding_on_the_left_after_a_prompt_is_refused(folder: Callable[..., Path]) -> None:
    model = load_model(folder("gpt2", "prompt"))
    with pytest.raises(UsageError, match=r"padding would follow the prompt.*pad right"):
        reader(model, folder("gpt2"), padding_side="left")


def test_rows_of_a_prompt_are_in_the_grid_and_are_not_real(folder: Callable[..., Path]) -> None:
    for name, stack in (("gpt2", "decoder"), ("t5", "encoder"), ("blip2-opt", "decoder"), ("blip2-t5", "encoder")):
        for tuning in ("prompt", "p-tuning"):
            plain, tuned = (opened(folder(name, t))[1].read([WHOLE]).grids for t in ("none", tuning))
            before, after = plain[stack], tuned[stack]
            assert after.real.shape[1] == before.real.shape[1] + tiny.VIRTUAL
            assert not after.real[:, : tiny.VIRTUAL].any()
            assert torch.equal(after.role[after.real], before.role[before.real])
            assert all(torch.equal(plain[s].role, tuned[s].role) for s in plain if s != stack)


def test_a_model_that_peft_wrapped_by_hand_is_read_too(folder: Callable[..., Path]) -> None:
    wrapped = tiny.tune(tiny.open_base(folder("gpt2")), "gpt2", "prefix")
    assert isinstance(wrapped, peft.PeftModel)
    read = reader(wrapped, folder("gpt2"))
    assert read.prefix == {"decoder": tiny.VIRTUAL}
    batch = read.read(examples())
    assert all(hidden.shape[1] == batch.grids["decoder"].real.shape[1] for hidden in called(wrapped, batch).values())


@pytest.mark.parametrize(("tuning", "room"), [("none", 128), ("prefix", 123), ("prompt", 123), ("lora", 128)])
def test_a_text_that_does_not_fit_the_positions_is_refused(folder: Callable[..., Path], tuning: str, room: int) -> None:
    model, read = opened(folder("opt", tuning))
    fits = Example("fits", "a " * (room - 1))
    long = tokens(folder("opt"), fits.text) + 1 - room
    fits = Example("fits", fits.text[: len(fits.text) - 2 * max(long, 0)])
    assert len(read.encode(fits).roles["decoder"]) <= room
    called(model, read.read([fits]))
    told = r"takes \d+ positions in decoder.*the model has 128"
    with pytest.raises(
        DataError, match=told if room == 128 else r"5 of them for the prefix or prompt.*the model has 128"
    ):
        read.encode(Example("long", "seven of " * room))


def test_a_prefix_that_is_joined_in_an_encoder_takes_no_position(folder: Callable[..., Path]) -> None:
    model = load_model(folder("bart"))
    attach_prefix(model, new_prefix(model, rows=4, stacks_in=("encoder", "decoder")))
    assert reader(model, folder("bart")).prefix == {"decoder": 4}


def test_relative_positions_have_no_end(folder: Callable[..., Path]) -> None:
    _, read = opened(folder("t5"))
    assert read.encode(Example("long", "seven of " * 300)).length > 512


def test_an_empty_text_has_no_row(folder: Callable[..., Path]) -> None:
    _, read = opened(folder("gpt2"))
    with pytest.raises(DataError, match="sample 'none' has no token for the stack decoder"):
        read.encode(Example("none", ""))


def test_an_image_that_is_missing_is_named(folder: Callable[..., Path]) -> None:
    _, read = opened(folder("blip2-opt"))
    with pytest.raises(DataError, match="'blind' has no image"):
        read.encode(Example("blind", TEXT))


def test_without_a_target_the_decoder_reads_the_text(folder: Callable[..., Path]) -> None:
    _, read = opened(folder("t5"))
    encoding = read.encode(Example("x", TEXT))
    words = encoding.inputs["input_ids"][:-1]
    assert torch.equal(encoding.inputs["decoder_input_ids"][1:], words)
    assert roles(read.collate([encoding]), "decoder") == ["special×1", f"text×{len(words)}"]


def test_an_encoder_reads_the_target_where_there_is_no_text(folder: Callable[..., Path]) -> None:
    for name in ("bert", "clip"):
        _, read = opened(folder(name))
        caption, text = (read.encode(Example("x", t, tiny.picture(1), g)) for t, g in (("", (TEXT,)), (TEXT, ())))
        assert torch.equal(caption.inputs["input_ids"], text.inputs["input_ids"])


def test_the_most_frequent_target_is_the_answer_and_can_be_left_out(folder: Callable[..., Path]) -> None:
    model, read = opened(folder("opt"))
    ids = read.encode(WHOLE).inputs["input_ids"]
    assert read.inputs.tokenizer.decode(ids, skip_special_tokens=True) == f"{TEXT} five"
    without = reader(model, folder("opt"), answers=False).encode(WHOLE)
    assert torch.equal(without.inputs["input_ids"], ids[: len(without.inputs["input_ids"])])
    assert "answer×1" not in roles(read.collate([without]), "decoder")


def test_a_caption_without_a_prompt_is_all_answer(folder: Callable[..., Path]) -> None:
    _, read = opened(folder("blip2-opt"))
    batch = read.read([Example("x", "", tiny.picture(1), ("two digits",))])
    count = tokens(folder("blip2-opt"), "two digits")
    assert roles(batch, "decoder") == ["image×6", "special×1", f"answer×{count}"]


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("blip2-opt", {"processor_config.json": ["num_query_tokens"], "config.json": ["image_token_index"]}),
        ("llava", {"processor_config.json": ["patch_size", "num_additional_image_tokens"]}),
    ],
)
def test_a_folder_from_before_placeholders_still_shows_its_image(
    folder: Callable[..., Path], tmp_path: Path, name: str, absent: dict[str, list[str]]
) -> None:
    """As first published, nothing told how many placeholders there are, nor which token: BLIP-2 silently left the image out."""
    old = Path(shutil.copytree(folder(name), tmp_path / "old"))
    for file, keys in absent.items():
        told = json.loads((old / file).read_text())
        assert all(told.pop(key) is not None for key in keys)
        (old / file).write_text(json.dumps(told))
    (model, read), (_, new) = opened(old), opened(folder(name))
    assert roles(read.read([WHOLE]), "decoder") == roles(new.read([WHOLE]), "decoder")
    other = read.read([Example("x", TEXT, tiny.picture(1), WHOLE.targets)])
    assert not torch.equal(
        called(model, read.read([WHOLE]))[tuple(taps(model))[-1]], called(model, other)[tuple(taps(model))[-1]]
    )


def test_a_placeholder_without_an_embedding_is_named(folder: Callable[..., Path], tmp_path: Path) -> None:
    old = Path(shutil.copytree(folder("blip2-opt"), tmp_path / "old"))
    told = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps(told | {"image_token_index": 10**6}))
    with pytest.raises(CheckpointError, match=r"the image.s placeholder is token 1000000, and the model has \d+"):
        opened(old)


def test_the_chat_template_is_applied_only_when_asked(folder: Callable[..., Path], tmp_path: Path) -> None:
    model, plain = opened(folder("llama"))
    with pytest.raises(CheckpointError, match=r"llama has no chat template"):
        reader(model, folder("llama"), chat=True)
    template = "{% for m in messages %}<s>user: {{ m['content'] }} bot:{% endfor %}"
    chatty = Path(shutil.copytree(folder("llama"), tmp_path / "chatty"))
    (chatty / "chat_template.jinja").write_text(template)
    chat = reader(model, chatty, chat=True)
    asked = chat.inputs.tokenizer.decode(chat.encode(Example("x", TEXT)).inputs["input_ids"])
    assert asked == f"<s>user: {TEXT} bot:"
    assert plain.inputs.tokenizer.decode(plain.encode(Example("x", TEXT)).inputs["input_ids"]) == f"<s>{TEXT}"


def test_lengths_are_known_without_opening_images(folder: Callable[..., Path]) -> None:
    _, read = opened(folder("blip2-opt"))
    missing = Example("x", TEXT, Path("nowhere.png"), ("five",))
    assert read.length(missing) == tokens(folder("blip2-opt"), TEXT) + tokens(folder("blip2-opt"), "five")
    assert opened(folder("vit"))[1].length(missing) == 1


def test_batches_do_not_depend_on_the_order_of_their_samples(folder: Callable[..., Path]) -> None:
    model, read = opened(folder("blip2-t5", "lora"))
    there, back = read.read(examples()), read.read(examples()[::-1])
    a, b = called(model, there), called(model, back)
    for site in taps(model):
        torch.testing.assert_close(real(a[site], there, site, 0), real(b[site], back, site, 2), rtol=1e-5, atol=2e-5)


def test_padding_fills_one_side() -> None:
    parts = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    assert padded(parts, 0).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert padded(parts, 9, side="left").tolist() == [[1, 2, 3], [9, 9, 4]]


def test_an_empty_batch_is_refused(folder: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="a batch needs at least one sample"):
        opened(folder("gpt2"))[1].collate([])


def test_images_of_different_sizes_are_refused_in_one_batch(folder: Callable[..., Path]) -> None:
    _, read = opened(folder("vit"))
    small = read.encode(Example("a", image=tiny.picture(1)))
    large = type(small)("b", {"pixel_values": torch.zeros(3, 32, 32)}, small.roles)
    with pytest.raises(DataError, match="pixel_values differ in shape"):
        read.collate([small, large])


CHATTY = """{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}assistant:
"""


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("answers", [False, True])
def test_what_the_assistant_said_is_answer_in_every_turn(
    folder: Callable[..., Path], tmp_path: Path, chat: bool, answers: bool
) -> None:
    chatty = Path(shutil.copytree(folder("llama"), tmp_path / "chatty"))
    (chatty / "chat_template.jinja").write_text(CHATTY)
    said = ("seven digits", "nothing", "a photo of two")
    before = (
        Turn("user", "three is left"),
        Turn("assistant", said[0]),
        Turn("user", "how many"),
        Turn("assistant", said[1]),
    )
    asked = (*before, Turn("user", "and seven digits"))
    example = Example("x", "\n".join(turn.text for turn in asked), targets=said[2:], turns=asked)
    _, read = opened(chatty, chat=chat, answers=answers)
    made = read.encode(example)
    words = read.inputs.tokenizer.decode(made.inputs["input_ids"][made.roles["decoder"] == ANSWER])
    # The line breaks between turns belong to none of them.
    assert "".join(words.split()) == ("".join(said).replace(" ", "") if answers else "")
    # A conversation that ends with a question has the answers before it.
    words = read.encode(Example("y", example.text, turns=asked))
    found = read.inputs.tokenizer.decode(words.inputs["input_ids"][words.roles["decoder"] == ANSWER])
    assert "".join(found.split()) == ("".join(said[:2]).replace(" ", "") if answers else "")
