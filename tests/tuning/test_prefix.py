"""The prefix: live in forward and in generate, the same function as PEFT's, and kept apart from the base."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing import assert_close

from rankscope.errors import CheckpointError, UnknownName, UsageError
from rankscope.measures.effective_rank import effective_rank
from rankscope.models.stacks import stacks
from rankscope.models.tunings.prefix import Prefix, PrefixEncoder, PrefixShape
from rankscope.models.tunings.prefix_files import cached_stack, load_prefix, save_prefix
from rankscope.models.tunings.prefix_live import attach_prefix, detach_prefix, new_prefix, prefix_of
from rankscope.tuning.trainer import save_memory

ROWS = 5
TWOFOLD = ("t5", "bart", "blip2-t5")
SEEING = ("blip2-opt", "blip2-t5", "llava")
IN_CACHE = ("gpt2", "opt", "llama", "bert", "t5", "bart", "blip2-opt", "blip2-t5", "llava")
SPEAKING = tuple(name for name in IN_CACHE if name != "bert")


def inputs(name: str, model: Any) -> dict[str, Tensor]:
    """Two samples, the second padded on the left."""
    g = torch.Generator().manual_seed(3)
    ids, mask = torch.randint(10, 200, (2, 7), generator=g), torch.ones(2, 7, dtype=torch.long)
    mask[1, :3] = 0
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=g)}
    if name in SEEING:
        n = 4 if name == "llava" else 6
        image = getattr(model.config, "image_token_id", None) or model.config.image_token_index
        ids, mask = (
            torch.cat([torch.full((2, n), image), ids], 1),
            torch.cat([torch.ones(2, n, dtype=torch.long), mask], 1),
        )
    given = {"input_ids": ids, "attention_mask": mask}
    if name in SEEING or name == "clip":
        given["pixel_values"] = torch.randn(2, 3, 16, 16, generator=g)
    if name in TWOFOLD:
        given["decoder_input_ids"] = torch.randint(10, 200, (2, 5), generator=g)
    return given


def answer(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        out = model(**given)
    return next(out[k] for k in ("logits", "logits_per_image", "last_hidden_state") if k in out)


def prefixed(model: nn.Module, sel: list[str] | None = None) -> Prefix:
    torch.manual_seed(1)
    return attach_prefix(model, new_prefix(model, rows=ROWS, stacks_in=sel)).eval()


SITES = [
    *[(name, None) for name in (*IN_CACHE, "vit", "clip")],
    ("t5", "encoder"), ("bart", "encoder"), ("blip2-opt", "vision"), ("blip2-opt", "qformer"), ("blip2-t5", "encoder"),
    ("llava", "vision"), ("clip", "vision"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "stack"), SITES)
def test_a_prefix_changes_the_model_and_leaves_without_a_trace(
    base: Callable[[str], Path], name: str, stack: str | None
) -> None:
    model = tiny.open_base(base(name))
    given, names = inputs(name, model), list(model.state_dict())
    before = answer(model, given)
    prefixed(model, [stack] if stack else None)
    assert (answer(model, given) - before).abs().max() > 1e-3
    assert detach_prefix(model) is not None
    assert torch.equal(answer(model, given), before)
    assert list(model.state_dict()) == names


def steps(name: str, model: Any, given: dict[str, Tensor], n: int) -> Tensor:
    """``(2, n)`` the greedy continuation, by one whole forward pass for every token."""
    ids, mask, new = given["input_ids"], given["attention_mask"], []
    said = torch.full((2, 1), 0)
    if name in TWOFOLD:
        said = torch.full((2, 1), getattr(model, "language_model", model).config.decoder_start_token_id)
    for _ in range(n):
        now = dict(given) | (
            {"decoder_input_ids": said} if name in TWOFOLD else {"input_ids": ids, "attention_mask": mask}
        )
        if name in ("gpt2", "llama", "llava"):
            now["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        new.append(answer(model, now)[:, -1:].argmax(-1))
        said, ids, mask = (
            torch.cat([said, new[-1]], 1),
            torch.cat([ids, new[-1]], 1),
            torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1),
        )
    return torch.cat(new, 1)


@pytest.mark.parametrize("name", SPEAKING)
def test_generate_says_what_step_by_step_forward_says(base: Callable[[str], Path], name: str) -> None:
    model = tiny.open_base(base(name))
    if name == "bart":
        model.generation_config.forced_eos_token_id = None
    given = inputs(name, model)
    prompt = {k: v for k, v in given.items() if k != "decoder_input_ids"}

    def said() -> Tensor:
        return model.generate(**prompt, max_new_tokens=5, min_new_tokens=5, do_sample=False, num_beams=1)[:, -5:]

    without = (
        None if name in ("t5", "blip2-t5") else said()
    )  # transformers cannot cache a decoder deeper than the encoder
    prefixed(model)
    assert torch.equal(said(), steps(name, model, given, 5))
    if without is not None:
        assert not torch.equal(said(), without)


@pytest.mark.parametrize("name", IN_CACHE)
def test_plain_peft_opens_what_is_saved(base: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    model = tiny.open_base(base(name))
    given, only = inputs(name, model), [cached_stack(model)]
    prefix = prefixed(model, only)  # type: ignore[arg-type]
    expected = answer(model, given)
    save_prefix(prefix, tmp_path / "p", model=model, base=str(base(name)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = peft.PeftModel.from_pretrained(tiny.open_base(base(name)), tmp_path / "p").eval()
    assert_close(answer(plain, given), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in IN_CACHE if n not in ("t5", "bart", "blip2-t5")])
def test_what_plain_peft_saved_is_the_same_function_here(
    base: Callable[[str], Path], name: str, tmp_path: Path
) -> None:
    model = tiny.open_base(base(name))
    given = inputs(name, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = tiny.save_tuned(name, "prefix", base(name), tmp_path / "p")
        tuned = tiny.tune(whole := tiny.open_base(base(name)), name, "prefix")
    expected = answer(whole if tiny.FAMILIES[name].inner else tuned, given)
    attach_prefix(model, load_prefix(folder, model))
    assert_close(answer(model, given), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "bart", "vit"])
@pytest.mark.parametrize("trainable", [False, True])
def test_a_saved_prefix_comes_back(base: Callable[[str], Path], name: str, trainable: bool, tmp_path: Path) -> None:
    model = tiny.open_base(base(name))
    given = inputs(name, model)
    save_prefix(prefixed(model), tmp_path, model=model, base=None)
    expected = answer(model, given)
    detach_prefix(model)
    back = attach_prefix(model, load_prefix(tmp_path, model, trainable=trainable)).eval()
    assert back.encoder.projection is trainable
    assert_close(answer(model, given), expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_plain_peft_refuses_a_prefix_that_it_cannot_express(base: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny.open_base(base("bart"))
    save_prefix(prefixed(model, ["encoder"]), tmp_path, model=model, base=None)
    with pytest.raises(KeyError, match="prompt_embeddings"):
        peft.PeftModel.from_pretrained(tiny.open_base(base("bart")), tmp_path)


def test_one_layer_mixes_the_base_with_the_mean_value_of_the_prefix(base: Callable[[str], Path]) -> None:
    """out = (1 − a)·out_base + a·v, with a the attention that the prefix gets (Petrov et al., 2310.19698)."""
    model = tiny.open_base(base("vit"))
    attention = next(m for m in model.modules() if type(m).__name__ == "ViTAttention")
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        query, key, value = (getattr(attention, f"{n}_proj")(x).view(2, 5, 4, 8).transpose(1, 2) for n in "qkv")
        prefix = prefixed(model)
        keys, values = prefix("encoder")[0]
        own, extra = query @ key.mT / 8**0.5, query @ keys.mT / 8**0.5
        a = extra.exp().sum(-1, keepdim=True) / (extra.exp().sum(-1, keepdim=True) + own.exp().sum(-1, keepdim=True))
        expected = (1 - a) * (own.softmax(-1) @ value) + a * (extra.softmax(-1) @ values)
        blocks = stacks(model)["encoder"].blocks
        next(h for h in blocks[0]._forward_pre_hooks.values())(blocks[0], ())
        found = attention(x)[0]
    assert_close(found, attention.o_proj(expected.transpose(1, 2).reshape(2, 5, 32)), rtol=1e-4, atol=1e-5)


def effective_rows(prefix: Prefix) -> float:
    return float(effective_rank(torch.linalg.svdvals(prefix.tables()["decoder"].double())))


def test_rows_start_apart_and_equal_rows_stay_equal() -> None:
    shape = {"decoder": PrefixShape(2, 4, 8)}
    torch.manual_seed(0)
    assert effective_rows(Prefix(shape, rows=16)) > 8
    same = Prefix(shape, rows=16, encoder=PrefixEncoder(dropout=0.0))
    with torch.no_grad():
        same.stacks["decoder"].embedding.copy_(same.stacks["decoder"].embedding[:1].expand(16, -1))
    assert effective_rows(same) == pytest.approx(1.0, abs=1e-4)


def test_dropout_pulls_equal_rows_apart() -> None:
    """What drops out differs from row to row, so that equal rows get different gradients."""

    def spread(dropout: float) -> float:
        torch.manual_seed(0)
        prefix = Prefix({"decoder": PrefixShape(2, 4, 8)}, rows=8, encoder=PrefixEncoder(dropout=dropout))
        embedding = prefix.stacks["decoder"].embedding
        with torch.no_grad():
            embedding.copy_(embedding[:1].expand(8, -1))
        prefix.stacks["decoder"]().square().sum().backward()
        return float((embedding.grad - embedding.grad[:1]).abs().max())

    assert spread(0.0) < 1e-5 < spread(0.1)


def test_a_filled_cache_and_too_many_positions_are_refused(base: Callable[[str], Path]) -> None:
    model = tiny.open_base(base("gpt2"))
    cache = model(torch.arange(4)[None], use_cache=True).past_key_values
    prefixed(model)
    with pytest.raises(UsageError, match="filled without the prefix"):
        model(torch.arange(4)[None], past_key_values=cache)
    with pytest.raises(UsageError, match=r"129 positions \(5 of them the prefix's\) do not fit the 128"):
        model(torch.arange(124)[None])


def test_gradient_checkpointing_is_refused_by_name(base: Callable[[str], Path]) -> None:
    model = tiny.open_base(base("gpt2"))
    prefixed(model)
    save_memory(model)
    with pytest.raises(UsageError, match="does not work with gradient checkpointing"):
        model.train()(torch.arange(4)[None])


def test_gradient_checkpointing_works_where_there_is_no_cache(base: Callable[[str], Path]) -> None:
    model = tiny.open_base(base("vit"))
    given = {**inputs("vit", model), "labels": torch.tensor([1, 2])}
    model.train().requires_grad_(False)
    prefix = prefixed(model)
    gradients = []
    for saving in (False, True):
        if saving:
            save_memory(model)
        prefix.zero_grad()
        model(**given).loss.backward()
        gradients.append(prefix.stacks["encoder"].embedding.grad.clone())
    assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: new_prefix(m, stacks_in=["qformer"]),
            UnknownName,
            "no stack 'qformer' for a prefix; it has decoder",
        ),
        (lambda m: [prefixed(m), prefixed(m)], UsageError, "has a prefix already"),
        (lambda m: attach_prefix(m, Prefix({"decoder": PrefixShape(2, 4, 8)})), UsageError, "belongs to another base"),
        (lambda m: attach_prefix(m, Prefix({"encoder": PrefixShape(3, 4, 8)})), UnknownName, "no stack 'encoder'"),
        (lambda m: new_prefix(m, rows=0), UsageError, "at least 1 row"),
        (lambda m: PrefixEncoder(init_std=0), UsageError, "equal rows keeps them equal"),
        (lambda m: PrefixEncoder(dropout=1), UsageError, "lies in"),
    ],
)
def test_what_does_not_fit_is_refused(base: Callable[[str], Path], call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(tiny.open_base(base("gpt2")))


def test_spoilt_folders_are_refused(base: Callable[[str], Path], tmp_path: Path) -> None:
    model = tiny.open_base(base("gpt2"))
    save_prefix(prefixed(model), tmp_path, model=model, base=None)
    detach_prefix(model)
    file = tmp_path / "adapter_model.safetensors"
    table = load_file(file)["prompt_embeddings"]
    for tensors, message in [
        ({"prompt_embeddings": table[:, :-8].contiguous()}, "belongs to another base"),
        ({"other": table}, "holds no prompt_embeddings"),
        ({"prompt_embeddings": table * float("nan")}, "NaN or infinite"),
    ]:
        save_file(tensors, file)
        with pytest.raises(CheckpointError, match=message):
            load_prefix(tmp_path, model)
    file.unlink()
    with pytest.raises(CheckpointError, match="has no weights: none of adapter_model"):
        load_prefix(tmp_path, model)
    (tmp_path / "prefix_encoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match="its training cannot go on"):
        load_prefix(tmp_path, model, trainable=True)
    assert prefix_of(model) is None
