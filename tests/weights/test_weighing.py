"""What a checkpoint's tunings did to its weights: exact spectra from LoRA's factors, full changes, learnt rows, tails."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import tiny
import torch
from scipy.linalg import subspace_angles
from torch import Tensor
from torch.testing import assert_close

import rankscope
from rankscope.errors import NotComparable, UnknownName
from rankscope.models.tunings.bottleneck import BottleneckConfig
from rankscope.weights.intruders import intruders

Folder = Callable[..., Path]


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name.removesuffix(".weight"): p.detach().double() for name, p in model.named_parameters() if p.ndim == 2}


def saved(config: peft.PeftConfig, base: Path, out: Path) -> Path:
    """A random adapter of a kind, written by plain PEFT."""
    torch.manual_seed(7)
    tuned = peft.get_peft_model(tiny.open_base(base), config)
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if p.requires_grad and "original_module" not in name:
                p.add_(0.3 * torch.randn_like(p))
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    tuned.save_pretrained(out)
    return out


def merged(adapter: Path, base: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weights_of(peft.PeftModel.from_pretrained(tiny.open_base(base), str(adapter)).merge_and_unload())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_lora_is_told_by_its_factors_and_equals_what_merging_changes(folder: Folder, family: str) -> None:
    found = rankscope.weigh(folder(family, "lora"), draws=1)
    before, after = weights_of(tiny.open_base(folder(family))), merged(folder(family, "lora"), folder(family))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {r.module for r in found.records} == changed
    assert len(changed) == (6 if family == "gpt2" else 9)
    for r in found.records:
        values = torch.linalg.svdvals(after[r.module] - before[r.module])
        assert_close(found.spectra[r.module], values[:3], rtol=1e-5, atol=0)  # merged in float32
        assert (r.kind, r.ranks.rank) == ("lora", 3)
        assert 1 < r.ranks.stable < r.ranks.effective <= 3
        assert r.relative.leading == pytest.approx(
            float(values[0] / torch.linalg.svdvals(before[r.module])[0]), rel=1e-5
        )
        turned = (w.mT if family == "gpt2" else w for w in (before[r.module], after[r.module]))
        assert r.intruder.intruders == int(intruders(*turned).count)
        assert 0 <= r.intruder.intruders_of_noise <= r.intruder.intruders_of_noise_most <= 10
        assert r.dtype == "float32"
        assert r.convention == (
            "not centred; ranks of the change; intruders: k=10, cosine<0.5, draws of noise: 1; float64"
        )


def test_what_moved_is_told_beside_what_noise_moves(folder: Folder) -> None:
    (r,) = rankscope.weigh(folder("gpt2", "lora"), modules="*.1.mlp.c_fc", k=3, draws=2).records
    w0, w1 = (w[r.module].mT for w in (weights_of(tiny.open_base(folder("gpt2"))),
                                       merged(folder("gpt2", "lora"), folder("gpt2"))))  # fmt: skip
    (u0, s0, v0), (u1, s1, v1) = map(torch.linalg.svd, (w0, w1))
    assert r.moved.spectral_shift == pytest.approx(float((s1 - s0).norm() / s0.norm()), rel=1e-5)
    for found, a, b in ((r.moved.rotation_left, u0, u1), (r.moved.rotation_right, v0.mT, v1.mT)):
        assert found == pytest.approx(np.degrees(subspace_angles(a[:, :3].numpy(), b[:, :3].numpy())).mean(), rel=1e-4)
    assert r.moved.edge == pytest.approx(min(float(1 - s[3] / s[2]) for s in (s0, s1)), rel=1e-4)
    assert r.moved.bf16_moved == pytest.approx(float((w0.bfloat16() != w1.bfloat16()).double().mean()), abs=1e-3)
    noise = r.moved.spectral_shift_of_noise, r.moved.rotation_left_of_noise, r.moved.rotation_right_of_noise
    assert 0 < noise[0] < r.relative.size
    assert all(0 < angle < 90 for angle in noise[1:])
    assert 0.5 < r.moved.bf16_moved_of_noise <= 1
    assert set(vars(r.moved)) <= set(r.flat())


def test_what_has_no_subspace_says_so(folder: Folder, tmp_path: Path) -> None:
    model = tiny.open_base(folder("llama"))
    name = "model.layers.1.mlp.up_proj"
    with torch.no_grad():
        model.get_parameter(f"{name}.weight").zero_()[:8, :8] = torch.eye(8)
    model.save_pretrained(tmp_path / "before")
    with torch.no_grad():
        model.get_parameter(f"{name}.weight")[3] += 1
    model.save_pretrained(tmp_path / "tuned")
    (r,) = rankscope.weigh([tmp_path / "before", tmp_path / "tuned"], k=4, draws=1).records
    assert (r.moved.rotation_left, r.moved.rotation_left_of_noise, r.moved.edge) == (None, None, 0)
    assert r.notes[-1].startswith("the last of the leading singular values equals the next")
    json.dumps(r.flat(), allow_nan=False)


def test_a_full_tuning_is_told_against_its_base(folder: Folder, tmp_path: Path) -> None:
    model = tiny.open_base(folder("llama"))
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[3] += 1
    model.save_pretrained(tmp_path / "tuned")
    found = rankscope.weigh([folder("llama"), tmp_path / "tuned"], draws=0)
    (record,) = found.records
    assert (record.module, record.kind, record.m, record.n) == ("model.layers.1.mlp.up_proj", "full", 48, 32)
    assert (record.ranks.rank, record.ranks.effective) == (pytest.approx(1), pytest.approx(1))
    assert record.intruder.intruders_of_noise is None, "no noise was drawn"


def test_two_loras_on_one_matrix_are_one_change(folder: Folder, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    second = saved(config, folder("llama"), tmp_path / "second")
    found = rankscope.weigh([folder("llama"), folder("llama", "lora"), second], modules="*.q_proj", draws=0)
    before = weights_of(tiny.open_base(folder("llama")))
    name = "model.layers.0.self_attn.q_proj"
    both = sum(merged(adapter, folder("llama"))[name] - before[name] for adapter in (folder("llama", "lora"), second))
    assert [r.ranks.rank for r in found.records] == [5.0, 5.0, 5.0]
    assert_close(found.spectra[name], torch.linalg.svdvals(both)[:5], rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["dora", "ia3"])
def test_other_adapters_are_told_by_what_merging_makes(folder: Folder, tmp_path: Path, kind: str) -> None:
    """DoRA rescales whole rows: its change is full-rank, which the product of its factors is not."""
    if kind == "dora":
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, init_lora_weights=False)
        adapter = saved(config, folder("llama"), tmp_path / "dora")
    else:
        adapter = folder("llama", "ia3")
    found = rankscope.weigh(adapter, modules="*.q_proj", draws=0)
    before, after = weights_of(tiny.open_base(folder("llama"))), merged(adapter, folder("llama"))
    assert len(found.records) == 3
    for r in found.records:
        values = torch.linalg.svdvals(after[r.module] - before[r.module])
        assert_close(found.spectra[r.module], values, rtol=1e-4, atol=1e-5)
        assert r.ranks.rank > 10


def test_modules_that_are_saved_whole_are_told_too(folder: Folder, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], init_lora_weights=False)
    adapter = saved(config, folder("llama"), tmp_path / "head")
    found = {r.module: r for r in rankscope.weigh(adapter, draws=0).records}
    assert found["lm_head"].kind == "full"
    assert found["lm_head"].ranks.rank == 32
    assert len(found) == 4


def test_a_prefix_has_an_effective_number_of_rows_in_each_block_and_no_intruders(folder: Folder) -> None:
    found = rankscope.weigh(folder("llama", "prefix"))
    assert [r.module for r in found.records][:3] == ["decoder.0.keys", "decoder.0.values", "decoder.1.keys"]
    assert len(found.records) == 6
    rows = peft.utils.load_peft_weights(str(folder("llama", "prefix")))["prompt_embeddings"].double()
    s = torch.linalg.svdvals(rows.view(5, 6, 32)[:, 1])
    assert_close(found.spectra["decoder.0.values"], s)
    assert found.records[1].convention == "not centred; ranks of the rows; float64"
    assert found.records[1].ranks.effective == pytest.approx(float(torch.special.entr(s / s.sum()).sum().exp()))
    assert all(r.intruder.intruders is None for r in found.records)
    assert "no intruder dimensions by construction, which is no evidence" in found.notes[0]
    (prompt,) = rankscope.weigh(folder("llama", "prompt")).records
    assert (prompt.module, prompt.kind, prompt.m) == ("prompt", "prompt_tuning", tiny.VIRTUAL)


def test_a_base_has_tails_where_it_has_eigenvalues_enough() -> None:
    found = rankscope.weigh(rankscope.embedded_checkpoint())
    tails = [r for r in found.records if r.tail.alpha is not None]
    assert tails
    assert all(r.tail.alpha > 1 and r.tail.alpha_error > 0 and r.tail.tail >= 2 and not r.kind for r in tails)
    few = [r for r in found.records if r.tail.alpha is None]
    assert all("at least 50 eigenvalues" in r.notes[0] for r in few)


def test_what_changes_no_weight_is_refused(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"no module is called '\*\.frob'; there are transformer\.h\.0\.attn\.c_attn"):
        rankscope.weigh(folder("gpt2", "lora"), modules="*.frob")
    bottleneck = saved(BottleneckConfig(target_modules=["down_proj"]), folder("llama"), tmp_path / "bottleneck")
    with pytest.raises(NotComparable, match="changes no weight matrix and learns no rows before the text: it is bott"):
        rankscope.weigh(bottleneck)
