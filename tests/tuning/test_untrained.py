"""The prefix before it is trained: what its length shifts is told from what its rows do, and rows start from real tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from tuning_data import SMALL, examples, made_recipe, weights

import rankscope
from rankscope.errors import UsageError
from rankscope.models.tunings.prefix import PrefixEncoder, rows_hidden
from rankscope.models.tunings.prefix_live import attach_prefix, detach_prefix, new_prefix
from rankscope.models.tunings.prefix_start import Tokens, token_rows
from rankscope.tuning import preview
from rankscope.tuning.untrained import Untrained, untrained_prefix

LEARNED, RELATIVE = ("gpt2", "opt", "blip2-opt", "bart"), ("llama", "t5", "llava")


def untrained(folder: Path, name: str, **options: Any) -> Untrained:
    found = preview(
        folder,
        made_recipe("prefix", **{k: v for k, v in SMALL.items() if k != "device"}, **options),
        data=examples(name),
        device="cpu",
    )[0]["untrained_prefix"]
    assert isinstance(found, Untrained)
    return found


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("rankscope")]


@pytest.mark.parametrize("name", LEARNED)
def test_a_table_that_never_saw_the_shift_is_warned_of(
    base: Callable[[str], Path], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = untrained(base(name), name)
    assert found.shifts == ("decoder",)
    assert found.moved_shifted > 0.5
    assert found.warning is not None
    assert "positions shifted by 3, with no prefix at all" in found.warning
    assert said(caplog) == [found.warning]
    assert found.sentence == found.warning


@pytest.mark.parametrize("name", RELATIVE)
def test_relative_positions_do_not_notice_the_shift(
    base: Callable[[str], Path], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = untrained(base(name), name)
    assert found.moved_shifted < 1e-4
    assert found.loss_shifted == pytest.approx(found.loss, abs=1e-5)
    assert found.moved_prefix > 0.01
    assert found.warning is None
    assert "the shift of positions alone" in found.sentence
    assert not said(caplog)


@pytest.mark.parametrize(("name", "stack"), [("t5", "encoder"), ("bart", "encoder"), ("blip2-opt", "qformer")])
def test_a_joined_prefix_shifts_nothing_and_that_is_said(base: Callable[[str], Path], name: str, stack: str) -> None:
    found = untrained(base(name), name, prefix_stacks=stack)
    assert found.shifts == ()
    assert found.loss_shifted == pytest.approx(found.loss, abs=1e-6)
    assert found.moved_shifted < 1e-6
    assert found.moved_prefix > 0.01
    assert found.sentence.endswith("joined inside the attention, it shifts no positions")


@pytest.mark.parametrize(
    ("shift", "prefix", "warned"),
    [(4.5, 4.4, True), (0.17, 0.5, False), (0.2, 5.0, False), (0.3, 0.32, True), (0.16, 0.1, False)],
)
def test_the_rule_of_the_warning(shift: float, prefix: float, warned: bool) -> None:
    site = rankscope.Site.parse("decoder.final")
    found = Untrained(site, 16, 16, ("decoder",), 0.16, shift, prefix, 0.1, 0.4)
    assert (found.warning is not None) == warned


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_rows_of_tokens_are_those_tokens(base: Callable[[str], Path], name: str) -> None:
    """A prefix that starts from a text is that text, read before."""
    model = tiny.open_base(base(name))
    first, then = torch.tensor([[12, 40, 33, 21, 87]]), torch.tensor([[55, 23, 190, 71]])
    with torch.no_grad():
        want = model(input_ids=torch.cat([first, then], 1)).logits[:, 5:]
        prefix = new_prefix(model, rows=5, encoder=PrefixEncoder(given_start=True))
        prefix.start_at(token_rows(model, prefix, [Tokens({"input_ids": first}, {})]))
        attach_prefix(model, prefix).eval()
        assert_close(model(input_ids=then).logits, want, rtol=1e-5, atol=1e-5)
        with rows_hidden(prefix):
            assert (model(input_ids=then).logits - want).abs().max() > 1e-3  # a control: hidden, they are not read
        detach_prefix(model)


@pytest.mark.parametrize(("name", "stack"), [("t5", "encoder"), ("vit", "encoder"), ("blip2-opt", "vision")])
def test_stacks_without_a_cache_start_from_their_maps(base: Callable[[str], Path], name: str, stack: str) -> None:
    model = tiny.open_base(base(name))
    prefix = new_prefix(model, rows=3, stacks_in=[stack], encoder=PrefixEncoder(projection=False))
    inputs: dict[str, torch.Tensor] = {"input_ids": torch.tensor([[12, 40, 33, 21]])}
    if name == "t5":
        inputs["decoder_input_ids"] = torch.tensor([[0, 5]])
    if name != "t5":
        inputs = {"pixel_values": torch.randn(1, 3, 16, 16)} | ({} if name == "vit" else inputs)
    if name == "blip2-opt":
        image = getattr(model.config, "image_token_id", None) or model.config.image_token_index
        inputs["input_ids"] = torch.tensor([[image] * 6 + [12, 40]])
    rows = token_rows(model, prefix, [Tokens(inputs, {})])[stack]
    assert rows.shape == (3, prefix.shapes[stack].numbers)
    if name == "t5":  # the first block's keys and values, by hand
        block = model.encoder.block[0].layer[0]
        entering = block.layer_norm(model.shared(inputs["input_ids"]))[0, :3]
        width = prefix.shapes[stack].heads * prefix.shapes[stack].width
        assert_close(rows[:, :width], block.SelfAttention.k(entering))
        assert_close(rows[:, width : 2 * width], block.SelfAttention.v(entering))


def test_too_few_tokens_are_repeated_and_none_is_refused(base: Callable[[str], Path]) -> None:
    model = tiny.open_base(base("gpt2"))
    prefix = new_prefix(model, rows=5)
    rows = token_rows(model, prefix, [Tokens({"input_ids": torch.tensor([[12, 40]])}, {})])["decoder"]
    assert_close(rows[0], rows[2])
    none = Tokens({"input_ids": torch.tensor([[12, 40]])}, {"decoder": torch.tensor([False, False])})
    with pytest.raises(UsageError, match="no sample has a token for a prefix in decoder"):
        token_rows(model, prefix, [none])


@pytest.mark.parametrize("projection", [True, False])
@pytest.mark.parametrize("name", ["llama", "bart", "blip2-opt"])
def test_a_prefix_started_from_tokens_trains_and_comes_back(
    base: Callable[[str], Path], name: str, projection: bool, tmp_path: Path
) -> None:
    options = {"prefix_init": "tokens", "prefix_projection": projection, "steps": 2, **SMALL}
    done = rankscope.train(base(name), method="pt-lora", data=examples(name), out=tmp_path / "one", **options)
    record = json.loads((done.path / "rankscope.json").read_text())["training"]
    assert record[0]["untrained_prefix"]["rows"] == 3
    assert "untrained_prefix" not in record[1]
    again = rankscope.train(base(name), method="pt-lora", data=examples(name), out=tmp_path / "two", **options)
    assert_close(weights(done.path), weights(again.path), rtol=0, atol=0)
    assert_close(rankscope.load_model(done.path).get_submodule("rankscope_prefix").tables(), _folded(done.path))


def _folded(path: Path) -> dict[str, torch.Tensor]:
    """The rows as plain PEFT's file has them, for stacks that it knows as they are."""
    tables = rankscope.load_model(path).get_submodule("rankscope_prefix").tables()
    saved = load_file(path / "0-prefix" / "adapter_model.safetensors")["prompt_embeddings"]
    for name, table in tables.items():
        if table.shape == saved.shape:
            assert_close(table, saved)
            return tables | {name: saved}
    return tables


def test_the_untrained_state_of_a_tuned_checkpoint(
    base: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        done = rankscope.train(
            base("gpt2"), method="prefix", data=examples("gpt2"), out=tmp_path / "o", steps=1, **SMALL
        )
    found = untrained_prefix(done.path, examples("gpt2"))
    assert found is not None
    assert found.rows == 3
    assert found.warning is not None
    assert untrained_prefix(base("gpt2")) is None
