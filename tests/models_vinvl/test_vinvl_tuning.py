"""PEFT on VinVL: LoRA, IA³ and prefixes, with the inner two-dimensional mask; live in forward and in generate."""

from __future__ import annotations

import peft
import pytest
import torch
from tiny_vinvl import checkpointed
from torch.testing import assert_close

from rankscope.errors import UsageError
from rankscope.models.load import load_model
from rankscope.models.tunings.prefix_live import attach_prefix, detach_prefix, new_prefix

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
"""PEFT asks transformers by a name that transformers is about to drop."""

QKV = ["query", "key", "value"]


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Move what PEFT starts at nothing, so that the tuning shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name or "ia3" in name or "prompt" in name:
                parameter.add_(torch.randn_like(parameter) * 0.5)
    return model


def config(method: str, task: str) -> peft.PeftConfig:
    if method == "lora":
        return peft.LoraConfig(r=2, target_modules=QKV, task_type=task)
    if method == "ia3":
        return peft.IA3Config(target_modules=["key", "value"], feedforward_modules=[], task_type=task)
    return peft.PrefixTuningConfig(num_virtual_tokens=3, task_type=task)


@pytest.mark.parametrize("method", ["lora", "ia3", "prefix"])
@pytest.mark.parametrize(
    ("head", "task"), [("vqa", "SEQ_CLS"), ("captioning", "CAUSAL_LM"), ("vqa", "FEATURE_EXTRACTION")]
)
def test_a_tuning_changes_scores_trains_and_reloads(request, scene, tmp_path, method, head, task) -> None:
    folder = request.getfixturevalue(head)
    base = load_model(folder)
    with torch.no_grad():
        before = base(**scene).logits
    tuned = spread(peft.get_peft_model(base, config(method, task)))
    out = tuned.eval()(**scene)
    assert (out.logits - before).abs().max() > 1e-2
    out.logits.square().sum().backward()
    trained = {n for n, p in tuned.named_parameters() if p.requires_grad}
    assert trained
    assert all(p.grad is not None for n, p in tuned.named_parameters() if n in trained and "classifier" not in n)
    tuned.save_pretrained(tmp_path / "tuned")
    again = peft.PeftModel.from_pretrained(load_model(folder), tmp_path / "tuned").eval()
    with torch.no_grad():
        assert_close(again(**scene).logits, out.logits.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_what_generate_writes_is_what_forward_says(captioning, scene, method) -> None:
    from test_vinvl_generation import stepwise

    base = load_model(captioning)
    plain = base.generate(**scene, max_length=8)
    tuned = spread(peft.get_peft_model(base, config(method, "CAUSAL_LM"))).eval()
    expected = stepwise(tuned, scene, 8)
    assert torch.equal(tuned.generate(**scene, max_length=8), expected)
    assert not torch.equal(expected, plain)
    assert tuned.generate(**scene, max_length=8, num_beams=3).shape == (2, 8)


def test_a_prefix_is_seen_by_every_real_row(captioning, scene) -> None:
    tuned = spread(peft.get_peft_model(load_model(captioning), config("prefix", "CAUSAL_LM"))).eval()
    with torch.no_grad():
        weights = tuned(**scene, output_attentions=True).attentions[0]
    assert weights.shape[-1] == 3 + 15
    real = scene["attention_mask"].bool()
    assert (weights[..., :3].sum(-1).transpose(1, 2)[real] > 0).all()


def test_rows_stay_those_of_the_text_under_a_prefix(captioning, scene) -> None:
    tuned = peft.get_peft_model(load_model(captioning), config("prefix", "CAUSAL_LM")).eval()
    with torch.no_grad():
        assert tuned(**scene, output_hidden_states=True).hidden_states[1].shape == (2, 15, 24)


def test_a_prefix_with_gradient_checkpointing_is_refused(captioning, scene) -> None:
    from transformers.cache_utils import DynamicCache

    model = load_model(captioning).train()
    checkpointed(model)
    with pytest.raises(UsageError, match="append to a prefix or cache twice"):
        model(**scene, past_key_values=DynamicCache())


@pytest.mark.parametrize("head", ["captioning", "vqa"])
def test_rankscope_s_prefix_is_live_behind_the_inner_mask(request, scene, head) -> None:
    from test_vinvl_generation import stepwise

    model = load_model(request.getfixturevalue(head))
    with torch.no_grad():
        before = model(**scene).logits
    prefix = attach_prefix(model, new_prefix(model, rows=3)).eval()
    out = model(**scene).logits
    assert (out - before).abs().max() > 1e-2
    out.square().sum().backward()
    assert all(p.grad is not None for p in prefix.parameters())
    if head == "captioning":
        assert torch.equal(model.generate(**scene, max_length=8), stepwise(model, scene, 8))
    detach_prefix(model)
    with torch.no_grad():
        assert torch.equal(model(**scene).logits, before)
