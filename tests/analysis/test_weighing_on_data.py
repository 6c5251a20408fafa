"""Changes of weights told on data: the inputs of each module as plain transformers gives them, padding left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import tiny
import torch
from torch import Tensor

import rankscope
from rankscope.analysis.options import LEVEL
from rankscope.collecting.summing import groups_of_samples
from rankscope.definition import Range
from rankscope.errors import UsageError
from rankscope.inference.jackknife import critical_t, degrees_of_freedom, standard_error
from rankscope.inference.ranges import interval_inside

pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT and transformers, about each other

Folder = Callable[..., Path]


def inputs_alone(base: Path, texts: Path, module: str) -> list[Tensor]:
    """``(tokens, n)`` what enters a module for each text by itself, special tokens left out."""
    model, tok, found = tiny.open_base(base).eval(), tiny.open_processor(base), list[Tensor]()
    hook = model.get_submodule(module).register_forward_pre_hook(lambda _, args: found.append(args[0][0].double()))
    for line in texts.read_text().splitlines():
        encoded = tok(json.loads(line)["text"], return_tensors="pt", return_special_tokens_mask=True)
        special = encoded.pop("special_tokens_mask")[0].bool()
        with torch.no_grad():
            model(**encoded)
        found[-1] = found[-1][~special]
    hook.remove()
    return found


def change(tuned: Path, base: Path, module: str) -> tuple[Tensor, Tensor]:
    """``(out, in)`` the change of a matrix and the matrix before, as merging makes it, in float64."""
    before = tiny.open_base(base)
    after = peft.PeftModel.from_pretrained(tiny.open_base(base).double(), tuned).merge_and_unload()
    w0, w1 = (m.get_submodule(module).weight.detach().double() for m in (before, after))
    return ((w1 - w0).T, w0.T) if "gpt2" in base.name else (w1 - w0, w0)


def numbers(delta: Tensor, w0: Tensor, second: Tensor) -> dict[str, Tensor]:
    """The three numbers by their definitions, Σ given."""
    values, vectors = torch.linalg.eigh(second)
    s = torch.linalg.svdvals(delta @ (vectors * values.clamp(min=0).sqrt() @ vectors.T))[:3]
    p = s / s.sum()
    return {
        "effective": torch.exp(-(p * p.log()).sum()),
        "participation": s.square().sum() ** 2 / s.pow(4).sum(),
        "share": torch.trace(delta @ second @ delta.T) / torch.trace(w0 @ second @ w0.T),
    }


@pytest.mark.parametrize(
    ("family", "module"), [("gpt2", "transformer.h.1.attn.c_attn"), ("llama", "model.layers.1.self_attn.q_proj")]
)
def test_numbers_and_intervals_are_those_of_each_text_by_itself(
    folder: Folder, texts: Path, family: str, module: str
) -> None:
    base, tuned = folder(family), folder(family, "lora")
    (record,) = rankscope.weigh(tuned, modules=module, draws=2, data=texts).records
    alone, (delta, w0) = inputs_alone(base, texts, module), change(tuned, base, module)
    seconds, rows = torch.stack([x.T @ x for x in alone]), torch.tensor([len(x) for x in alone]).double()
    want = numbers(delta, w0, seconds.sum(0) / rows.sum())
    assert record.random.on_data_rows == rows.sum()
    assert record.random.on_data_samples == 48
    groups = groups_of_samples([f"s{i}" for i in range(48)], rows.int().tolist(), 20)
    of_group = torch.stack([seconds[list(g.samples)].sum(0) for g in groups])
    share = torch.stack([rows[list(g.samples)].sum() for g in groups]) / rows.sum()
    # The influence of a group by central differences in its weight; the scale of Σ cancels in all three
    h = 1e-4
    moved = [[numbers(delta, w0, of_group.sum(0) + step * g) for step in (h, -h)] for g in of_group]
    for name, within, scale in (
        ("effective", Range(1, 3), "log"), ("participation", Range(1, 3), "log"), ("share", Range(0), "range"),
    ):  # fmt: skip
        found = getattr(record, f"on_data_{name}")
        assert found.value == pytest.approx(float(want[name]), rel=2e-4)
        psi = torch.stack([(up[name] - down[name]) / (2 * h) for up, down in moved])
        left = want[name] - psi / (1 - share)
        critical = float(critical_t(degrees_of_freedom(left), LEVEL))
        ends = interval_inside(float(want[name]), float(standard_error(left)), critical, within=within, scale=scale)
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-3)
    expected = (
        delta.square().sum() / w0.shape[1] * torch.trace(seconds.sum(0)) / torch.trace(w0 @ seconds.sum(0) @ w0.T)
    )
    assert record.random.on_data_share_of_random == pytest.approx(float(expected), rel=1e-4)
    assert 1 < record.random.on_data_participation_of_random < record.random.on_data_effective_of_random < 3
    assert record.convention.endswith(
        "on data: uncentred inputs of the base, tokens of 48 samples of texts.jsonl, 95% intervals over 20 groups of samples"
    )
    assert {"on_data_effective_low", "on_data_share", "on_data_effective_of_random"} <= record.flat().keys()
    json.dumps(record.flat(), allow_nan=False)


def test_a_full_tuning_is_told_and_what_has_no_inputs_is_named(folder: Folder, texts: Path, tmp_path: Path) -> None:
    model, name = tiny.open_base(folder("llama")), "model.layers.2.mlp.up_proj"
    with torch.no_grad():
        for path in (f"{name}.weight", "model.embed_tokens.weight", "lm_head.weight"):
            p = model.get_parameter(path)
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(tmp_path / "tuned")
    found = rankscope.weigh([folder("llama"), tmp_path / "tuned"], draws=1, data=texts)
    of = {r.module: r for r in found.records}
    alone = torch.cat(inputs_alone(folder("llama"), texts, name))
    before = tiny.open_base(folder("llama")).get_submodule(name).weight.detach().double()
    delta = model.get_submodule(name).weight.detach().double() - before
    s = torch.linalg.svdvals(alone @ delta.T)
    p = s / s.sum()
    assert of[name].on_data_effective.value == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-4)
    assert of[name].on_data_share.value == pytest.approx(
        float((alone @ delta.T).square().sum() / (alone @ before.T).square().sum()), rel=1e-4
    )
    assert of["lm_head"].on_data_effective.value is not None
    assert of["model.embed_tokens"].on_data_effective.value is None
    assert "not read on data: model.embed_tokens (its inputs are the numbers of tokens, no features)" in found.notes


def test_keys_of_a_decoder_may_be_rows_of_the_encoder(folder: Folder, tmp_path: Path) -> None:
    lines = [{"id": str(i), "text": "a b c d e f g"[: 3 + 2 * (i % 6)], "targets": ["a b"]} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = rankscope.weigh(folder("t5", "lora"), modules="*.1.*.v", draws=0, data=tmp_path / "pairs.jsonl")
    rows = {r.module: r.random.on_data_rows for r in found.records}
    crossed, own, encoder = (rows[f"{s}.block.1.layer.{i}.v"] for s, i in (
        ("decoder", "1.EncDecAttention"), ("decoder", "0.SelfAttention"), ("encoder", "0.SelfAttention")
    ))  # fmt: skip
    assert crossed == encoder != own
    one = [{**line, "text": "a b"} for line in lines[:1]]
    (tmp_path / "alike.jsonl").write_text("".join(json.dumps(line) + "\n" for line in one))
    alike = rankscope.weigh(folder("t5", "lora"), modules="*.1.*.v", draws=0, data=tmp_path / "alike.jsonl")
    assert all(r.random.on_data_rows is None for r in alike.records)
    assert "its inputs may be columns of decoder or encoder, which are equally many in these data" in alike.notes[-1]


def test_what_cannot_be_told_on_data_says_so(folder: Folder, texts: Path, tmp_path: Path) -> None:
    prefix = rankscope.weigh(folder("gpt2", "prefix"), data=texts)
    assert "the data were not read: no weight changed, so that there is nothing to tell on them" in prefix.notes
    one = rankscope.weigh(folder("gpt2", "lora"), modules="*.0.*", draws=0, data=texts, n=1).records[0]
    assert one.on_data_effective.value is not None
    assert one.on_data_effective.low is None, "a single sample has no interval"
    assert any(note.startswith("n-limited: ") for note in one.notes)
    assert one.random.on_data_effective_of_random is None
    fresh = peft.get_peft_model(tiny.open_base(folder("gpt2")), peft.LoraConfig(r=2, target_modules=["c_fc"]))
    fresh.peft_config["default"].base_model_name_or_path = str(folder("gpt2"))
    with torch.no_grad():
        fresh.get_parameter("base_model.model.transformer.h.1.mlp.c_fc.lora_B.default.weight").add_(1)
    fresh.save_pretrained(tmp_path / "fresh")
    found = rankscope.weigh(tmp_path / "fresh", modules="*.0.*", draws=1, data=texts)
    assert found.records[0].on_data_effective.value is None
    assert "not read on data: transformer.h.0.mlp.c_fc (its change is zero)" in found.notes
    with pytest.raises(UsageError, match=r"n counts samples of data, and none were given; got n = 3"):
        rankscope.weigh(folder("gpt2", "lora"), n=3)
    with pytest.raises(UsageError, match=r"max_length says how data are read, and none were given; leave it out"):
        rankscope.weigh(folder("gpt2", "lora"), max_length=3)
